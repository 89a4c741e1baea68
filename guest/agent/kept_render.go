package agent

import (
	"bytes"
	"strconv"
)

// replay is what makes another terminal of the same size, in whatever state,
// show this screen and go on from it. What that terminal showed before moves up
// out of sight.
func (s *screen) replay() []byte {
	r := renderer{screen: s}
	r.neutral()
	r.WriteString("\x1b[?6l\x1b[r")
	r.csi('H', s.rows, 1)
	for range s.rows {
		r.WriteByte('\n')
	}
	r.WriteString("\x1b[H\x1b[J")
	lines := s.lines
	if s.alternate() {
		r.paint(s.main)
		// What the terminal saves on its way to the alternate screen is what
		// the program expects when it returns.
		r.place(&s.saved[0], s.main, 0)
		r.WriteString("\x1b[?1049h")
		r.neutral()
		r.WriteString("\x1b[?6l\x1b[H\x1b[J")
	}
	r.paint(lines)
	if saved := &s.saved[s.slot()]; saved.saved && !s.alternate() {
		r.place(saved, lines, 0)
		r.WriteString("\x1b7\x1b[?6l")
	}
	if s.top != 0 || s.bottom != s.rows-1 {
		r.csi('r', s.top+1, s.bottom+1)
	}
	top := 0
	if s.cur.origin {
		top = s.top
	}
	r.place(&s.cur, lines, top)
	r.modes()
	return r.Bytes()
}

// lastWords is the screen of a command that has ended: characters and looks,
// and the cursor below them.
func (s *screen) lastWords() []byte {
	r := renderer{screen: s}
	r.neutral()
	end := len(s.lines)
	for end > 0 && len(s.lines[end-1]) == 0 {
		end--
	}
	for _, line := range s.lines[:end] {
		r.line(line)
		r.WriteString("\x1b[m\r\n")
	}
	r.WriteString("\x1b[?7h")
	return r.Bytes()
}

// farewell undoes what the program has switched on a terminal that leaves it.
func (s *screen) farewell() []byte {
	r := renderer{screen: s}
	m := &s.modes
	if s.modes == defaultModes() && !s.alternate() && s.top == 0 && s.bottom == s.rows-1 &&
		s.cur.pen == (style{}) && s.cur.charsets[0] == 'B' && s.cur.shift == 0 && !s.cur.origin {
		return nil
	}
	if m.keyFlags != 0 {
		r.WriteString("\x1b[<u")
	}
	if m.otherKeys != 0 {
		r.WriteString("\x1b[>4m")
	}
	if m.keypad {
		r.WriteString("\x1b>")
	}
	if m.cursor != 0 {
		r.WriteString("\x1b[0 q")
	}
	if m.newline {
		r.WriteString("\x1b[20l")
	}
	def := defaultModes()
	for i, mode := range privateModes {
		bit := uint32(1) << i
		if m.private&bit != def.private&bit {
			r.private(int(mode), def.private&bit != 0)
		}
	}
	r.neutral()
	r.WriteString("\x1b[?7h")
	if s.alternate() {
		// It brings the cursor back that was saved on the way there.
		r.WriteString("\x1b[?6l\x1b[r\x1b[?1049l")
		r.neutral()
		r.WriteString("\x1b[?7h")
		return r.Bytes()
	}
	// The scrolling region's reset moves the cursor.
	r.WriteString("\x1b[?6l\x1b[r")
	r.csi('H', s.cur.row+1, s.cur.col+1)
	return r.Bytes()
}

// renderer writes a screen as a terminal's output.
type renderer struct {
	bytes.Buffer
	screen *screen
	pen    style
}

// neutral takes back what would change the meaning of what follows, and does
// not move the cursor.
func (r *renderer) neutral() {
	r.WriteString("\x1b[m\x1b(B\x0f\x1b[4l\x1b[?7l")
	r.pen = style{}
}

func (r *renderer) csi(end byte, params ...int) {
	r.WriteString("\x1b[")
	for i, p := range params {
		if i > 0 {
			r.WriteByte(';')
		}
		r.number(p)
	}
	r.WriteByte(end)
}

func (r *renderer) number(n int) {
	r.Write(strconv.AppendInt(r.AvailableBuffer(), int64(n), 10))
}

func (r *renderer) private(mode int, on bool) {
	r.WriteString("\x1b[?")
	r.number(mode)
	if on {
		r.WriteByte('h')
	} else {
		r.WriteByte('l')
	}
}

// paint draws lines on an empty screen.
func (r *renderer) paint(lines [][]cell) {
	for i, line := range lines {
		if len(line) > 0 {
			r.csi('H', i+1, 1)
			r.line(line)
		}
	}
	r.look(style{})
}

func (r *renderer) line(line []cell) {
	for _, c := range line {
		if c.rune() == wideTail {
			continue
		}
		r.look(r.screen.looks.style(c.style()))
		r.WriteString(r.screen.looks.text(c))
	}
}

// place moves the cursor, with its pen and character sets, and the wrap that
// its next character is about to cause. top is the line that lines count from.
func (r *renderer) place(c *cursor, lines [][]cell, top int) {
	if r.screen.modes.on(modeWrap) {
		r.WriteString("\x1b[?7h")
	}
	if c.origin {
		r.WriteString("\x1b[?6h")
	}
	line, col := lines[c.row], c.col
	if c.wrap && col < len(line) && line[col].rune() == wideTail {
		col--
	}
	r.csi('H', c.row-top+1, col+1)
	if c.wrap {
		r.WriteString("\x1b(B\x0f")
		r.line(append(line[:len(line):len(line)], make([]cell, c.col+1)...)[col : c.col+1])
	}
	r.look(c.pen)
	r.charsets(c)
}

func (r *renderer) charsets(c *cursor) {
	for i, set := range c.charsets {
		r.WriteString("\x1b")
		r.WriteByte('(' + byte(i))
		if set != '0' {
			set = 'B'
		}
		r.WriteByte(set)
	}
	r.WriteByte(0x0f - c.shift)
}

// modes sets what is not as a terminal has it at first.
func (r *renderer) modes() {
	m, def := &r.screen.modes, defaultModes()
	for i, mode := range privateModes {
		bit := uint32(1) << i
		if m.private&bit != def.private&bit {
			r.private(int(mode), m.private&bit != 0)
		}
	}
	if m.insert {
		r.WriteString("\x1b[4h")
	}
	if m.newline {
		r.WriteString("\x1b[20h")
	}
	if m.keypad {
		r.WriteString("\x1b=")
	}
	if m.cursor != 0 {
		r.WriteString("\x1b[")
		r.number(int(m.cursor))
		r.WriteString(" q")
	}
	if m.otherKeys != 0 {
		r.WriteString("\x1b[>4;")
		r.number(int(m.otherKeys))
		r.WriteByte('m')
	}
	if m.keyFlags != 0 {
		r.WriteString("\x1b[>")
		r.number(int(m.keyFlags))
		r.WriteByte('u')
	}
}

// look changes the pen.
func (r *renderer) look(p style) {
	if p == r.pen {
		return
	}
	r.pen = p
	r.WriteString("\x1b[0")
	for v := 1; v <= 9; v++ {
		if v != 4 && p.attrs&(1<<v) != 0 {
			r.WriteByte(';')
			r.number(v)
		}
	}
	switch kind := int(p.attrs&underlineMask) >> underlineShift; kind {
	case 0:
	case 1:
		r.WriteString(";4")
	case 2:
		r.WriteString(";21")
	default:
		r.WriteString(";4:")
		r.number(kind)
	}
	if p.attrs&attrOverline != 0 {
		r.WriteString(";53")
	}
	r.color(p.fg, 30)
	r.color(p.bg, 40)
	r.WriteByte('m')
}

func (r *renderer) color(c color, base int) {
	switch {
	case c == 0:
		return
	case c >= colorRGB:
		r.WriteByte(';')
		r.number(base + 8)
		r.WriteString(";2")
		for shift := 16; shift >= 0; shift -= 8 {
			r.WriteByte(';')
			r.number(int(c >> shift & 255))
		}
	default:
		n := int(c - colorIndex)
		r.WriteByte(';')
		switch {
		case n < 8:
			r.number(base + n)
		case n < 16:
			r.number(base + 60 + n - 8)
		default:
			r.number(base + 8)
			r.WriteString(";5;")
			r.number(n)
		}
	}
}
