package agent

// sequence is a control sequence (CSI) whose last byte is c.
func (s *screen) sequence(c byte) {
	b := &s.parser
	switch {
	case b.prefix == 0 && b.inter == 0:
		s.plainSequence(c)
	case b.prefix == '?' && b.inter == 0:
		switch c {
		case 'h', 'l':
			for i := range b.n {
				s.setPrivate(b.params[i], c == 'h')
			}
		case 'J', 'K': // selective erasure: nothing is protected
			s.plainSequence(c)
		}
	case b.prefix == 0 && b.inter == '!' && c == 'p':
		s.softReset()
	case b.prefix == 0 && b.inter == ' ' && c == 'q':
		if shape := b.param(0, 0); shape <= 6 {
			s.modes.cursor = uint8(shape)
		}
	case b.prefix == '>' && b.inter == 0 && c == 'm':
		if b.param(0, 0) == 4 {
			s.modes.otherKeys = uint8(min(b.param(1, 0), 3))
		}
	case b.inter == 0 && c == 'u':
		s.keyFlags()
	}
}

// keyFlags is the protocol of key reports that kitty introduced. Of what is
// pushed and popped only the last is remembered.
func (s *screen) keyFlags() {
	b := &s.parser
	flags := uint8(b.param(0, 0) & 31)
	switch b.prefix {
	case '>':
		s.modes.keyFlags = flags
	case '<':
		s.modes.keyFlags = 0
	case '=':
		switch b.param(1, 1) {
		case 1:
			s.modes.keyFlags = flags
		case 2:
			s.modes.keyFlags |= flags
		case 3:
			s.modes.keyFlags &^= flags
		}
	}
}

func (s *screen) plainSequence(c byte) {
	b := &s.parser
	n := b.param(0, 1)
	switch c {
	case 'A':
		s.moveBy(-n, 0)
	case 'B', 'e':
		s.moveBy(n, 0)
	case 'C', 'a':
		s.moveBy(0, n)
	case 'D':
		s.moveBy(0, -n)
	case 'E':
		s.moveBy(n, -s.cols)
	case 'F':
		s.moveBy(-n, -s.cols)
	case 'G', '`':
		s.moveBy(0, n-1-s.cur.col)
	case 'H', 'f':
		s.moveTo(n-1, b.param(1, 1)-1)
	case 'd':
		s.moveTo(n-1, s.cur.col)
	case 'I':
		s.tab(min(n, s.cols))
	case 'Z':
		s.backTab(min(n, s.cols))
	case 'J':
		s.eraseDisplay(b.param(0, 0))
	case 'K':
		s.eraseLine(b.param(0, 0))
	case 'X':
		s.erase(s.cur.row, s.cur.col, s.cur.col+min(n, s.cols))
		s.cur.wrap = false
	case '@':
		s.insertCells(n)
		s.cur.wrap = false
	case 'P':
		s.deleteCells(n)
		s.cur.wrap = false
	case 'L', 'M':
		s.shiftLines(n, c == 'L')
	case 'S':
		s.scroll(s.top, s.bottom, n)
	case 'T':
		if b.n <= 1 { // with five parameters it is about the mouse
			s.scroll(s.top, s.bottom, -n)
		}
	case 'b':
		for range min(n, s.cols) {
			if s.last != 0 {
				s.put(s.last)
			}
		}
	case 'h', 'l':
		s.setModes(c == 'h')
	case 'm':
		s.setStyle()
	case 'r':
		s.setRegion()
	case 's':
		s.saveCursor()
	case 'u':
		s.restoreCursor()
	}
}

func (s *screen) backTab(n int) {
	for ; n > 0 && s.cur.col > 0; n-- {
		s.cur.col = (s.cur.col - 1) &^ 7
	}
	s.cur.wrap = false
}

func (s *screen) setModes(on bool) {
	for i := range s.parser.n {
		switch s.parser.params[i] {
		case 4:
			s.modes.insert = on
		case 20:
			s.modes.newline = on
		}
	}
}

// setRegion is DECSTBM.
func (s *screen) setRegion() {
	top, bottom := s.parser.param(0, 1)-1, min(s.parser.param(1, s.rows), s.rows)-1
	if top >= bottom {
		return
	}
	s.top, s.bottom = top, bottom
	s.moveTo(0, 0)
}

// shiftLines inserts or deletes lines at the cursor's, within the region.
func (s *screen) shiftLines(n int, insert bool) {
	if s.cur.row < s.top || s.cur.row > s.bottom {
		return
	}
	if insert {
		n = -n
	}
	s.scroll(s.cur.row, s.bottom, n)
	s.cur.col, s.cur.wrap = 0, false
}

func (s *screen) eraseDisplay(what int) {
	switch what {
	case 0:
		s.erase(s.cur.row, s.cur.col, s.cols)
		s.eraseLines(s.cur.row+1, s.rows)
	case 1:
		s.eraseLines(0, s.cur.row)
		s.erase(s.cur.row, 0, s.cur.col+1)
	case 2:
		s.eraseLines(0, s.rows)
	}
	s.cur.wrap = false
}

func (s *screen) eraseLine(what int) {
	switch what {
	case 0:
		s.erase(s.cur.row, s.cur.col, s.cols)
	case 1:
		s.erase(s.cur.row, 0, s.cur.col+1)
	case 2:
		s.erase(s.cur.row, 0, s.cols)
	}
	s.cur.wrap = false
}

// setStyle is SGR.
func (s *screen) setStyle() {
	b, p := &s.parser, &s.cur.pen
	if b.n == 0 {
		*p = style{}
	}
	for i := 0; i < b.n; {
		v := b.params[i]
		next := i + 1
		for next < b.n && b.sub[next] {
			next++
		}
		switch {
		case v == 0:
			*p = style{}
		case v == 4:
			kind := 1
			if next > i+1 {
				kind = min(b.params[i+1], 5)
			}
			p.underline(kind)
		case v == 21:
			p.underline(2)
		case v == 24:
			p.underline(0)
		case v >= 1 && v <= 9:
			p.attrs |= 1 << v
		case v == 22:
			p.attrs &^= 1<<1 | 1<<2
		case v >= 23 && v <= 29:
			p.attrs &^= 1 << (v - 20)
		case v >= 30 && v <= 37:
			p.fg = colorIndex + color(v-30)
		case v >= 40 && v <= 47:
			p.bg = colorIndex + color(v-40)
		case v >= 90 && v <= 97:
			p.fg = colorIndex + color(v-90+8)
		case v >= 100 && v <= 107:
			p.bg = colorIndex + color(v-100+8)
		case v == 39:
			p.fg = 0
		case v == 49:
			p.bg = 0
		case v == 53:
			p.attrs |= attrOverline
		case v == 55:
			p.attrs &^= attrOverline
		case v == 38 || v == 48 || v == 58:
			var c color
			var ok bool
			if c, next, ok = b.color(i, next); ok && v == 38 {
				p.fg = c
			} else if ok && v == 48 {
				p.bg = c
			}
		}
		i = next
	}
}

func (p *style) underline(kind int) {
	p.attrs = p.attrs&^underlineMask | uint16(kind)<<underlineShift
}

// color is the colour that begins at parameter i, in either way of writing it,
// and the parameter after it. next is the one after i and what hangs on it.
func (b *parser) color(i, next int) (color, int, bool) {
	rest := b.params[i+1 : b.n]
	if colons := next > i+1; colons {
		rest = b.params[i+1 : next]
		if len(rest) >= 5 && rest[0] == 2 { // 38:2:colour space:r:g:b
			return colorOf(rest[2:]), next, true
		}
	}
	used := next - i - 1
	switch {
	case len(rest) >= 2 && rest[0] == 5:
		return colorIndex + color(min(rest[1], 255)), i + 1 + max(used, 2), true
	case len(rest) >= 4 && rest[0] == 2:
		return colorOf(rest[1:]), i + 1 + max(used, 4), true
	}
	return 0, b.n, false
}

func colorOf(rgb []int) color {
	c := colorRGB
	for i := range 3 {
		c += color(min(rgb[i], 255)) << (16 - 8*i)
	}
	return c
}
