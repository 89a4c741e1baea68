package agent

import "unicode/utf8"

// parser takes a terminal's output apart: after the state machine that the
// VT500 series is described by, with UTF-8 and without 8-bit controls.
type parser struct {
	state   parserState
	utf8    [utf8.UTFMax]byte // the beginning of a character
	utf8Len int
	params  [maxParams]int  // of a control sequence
	sub     [maxParams]bool // the parameter follows a colon
	n       int             // parameters begun
	prefix  byte            // '<', '=', '>' or '?'
	inter   byte            // the last intermediate byte
}

const (
	maxParams = 32
	maxParam  = 65535
)

type parserState uint8

const (
	stateGround parserState = iota
	stateEscape
	stateEscapeInter // ESC and intermediate bytes
	stateCSI
	stateCSIIgnore
	stateString    // OSC, DCS, SOS, PM, APC: until ST
	stateStringEsc // and an ESC that may be half of it
)

// Write shows p.
func (s *screen) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if s.parser.state == stateGround && p[0] >= 0x20 && p[0] != 0x7f {
			p = p[s.text(p):]
			continue
		}
		s.control(p[0])
		p = p[1:]
	}
	return n, nil
}

// text shows the characters that p begins with and returns their length.
func (s *screen) text(p []byte) int {
	b := &s.parser
	i := 0
	for i < len(p) && p[i] >= 0x20 && p[i] != 0x7f {
		if p[i] < utf8.RuneSelf && b.utf8Len == 0 {
			s.put(rune(p[i]))
			i++
			continue
		}
		b.utf8[b.utf8Len] = p[i]
		b.utf8Len++
		if !utf8.FullRune(b.utf8[:b.utf8Len]) {
			i++
			continue
		}
		r, size := utf8.DecodeRune(b.utf8[:b.utf8Len])
		// Of a broken character only the byte that breaks it is looked at again.
		broken := r == utf8.RuneError && size == 1 && b.utf8Len > 1
		b.utf8Len = 0
		if r >= 0xa0 {
			s.put(r)
		}
		if !broken {
			i++
		}
	}
	return i
}

// control takes a byte that is not text.
func (s *screen) control(c byte) {
	b := &s.parser
	if b.utf8Len > 0 {
		b.utf8Len = 0
		s.put(utf8.RuneError)
	}
	switch b.state {
	case stateString, stateStringEsc:
		s.inString(c)
		return
	}
	switch {
	case c == 0x1b:
		b.state, b.inter = stateEscape, 0
	case c == 0x18 || c == 0x1a:
		b.state = stateGround
	case c < 0x20:
		s.execute(c)
	case c == 0x7f:
	default:
		switch b.state {
		case stateEscape, stateEscapeInter:
			s.inEscape(c)
		case stateCSI, stateCSIIgnore:
			s.inCSI(c)
		}
	}
}

func (s *screen) inString(c byte) {
	b := &s.parser
	switch {
	case c == 0x07 || c == 0x18 || c == 0x1a:
		b.state = stateGround
	case c == 0x1b:
		b.state = stateStringEsc
	case b.state == stateString:
	case c == '\\':
		b.state = stateGround
	default: // another sequence begins
		b.state, b.inter = stateEscape, 0
		s.control(c)
	}
}

// execute is a C0 control.
func (s *screen) execute(c byte) {
	switch c {
	case '\b':
		s.cur.col = max(s.cur.col-1, 0)
		s.cur.wrap = false
	case '\t':
		s.tab(1)
	case '\n', '\v', '\f':
		s.lineFeed()
		if s.modes.newline {
			s.cur.col = 0
		}
	case '\r':
		s.cur.col, s.cur.wrap = 0, false
	case 0x0e, 0x0f:
		s.cur.shift = 0x0f - c
	}
}

// tab moves by tab stops, which are every eight columns.
func (s *screen) tab(n int) {
	s.cur.col = min(max((s.cur.col&^7)+8*n, 0), s.cols-1)
}

func (s *screen) inEscape(c byte) {
	b := &s.parser
	if c < 0x30 {
		b.state, b.inter = stateEscapeInter, c
		return
	}
	inter := b.inter
	b.state = stateGround
	switch inter {
	case 0:
	case '(', ')':
		s.cur.charsets[inter-'('] = c
		return
	case '#':
		if c == '8' {
			s.align()
		}
		return
	default:
		return
	}
	switch c {
	case '[':
		b.state, b.n, b.prefix, b.inter = stateCSI, 0, 0, 0
	case ']', 'P', 'X', '^', '_':
		b.state = stateString
	case '7':
		s.saveCursor()
	case '8':
		s.restoreCursor()
	case '=':
		s.modes.keypad = true
	case '>':
		s.modes.keypad = false
	case 'D':
		s.lineFeed()
	case 'E':
		s.cur.col = 0
		s.lineFeed()
	case 'M':
		s.reverseLineFeed()
	case 'c':
		s.reset()
	}
}

// align is DECALN, a test picture.
func (s *screen) align() {
	s.top, s.bottom = 0, s.rows-1
	for row := range s.lines {
		s.moveTo(row, 0)
		line := s.grown(s.cols)
		for i := range line {
			line[i] = 'E'
		}
	}
	s.moveTo(0, 0)
}

func (s *screen) inCSI(c byte) {
	b := &s.parser
	switch {
	case c >= 0x40:
		ignore := b.state == stateCSIIgnore
		b.state = stateGround
		if !ignore {
			s.sequence(c)
		}
	case b.state == stateCSIIgnore:
	case c < 0x30:
		b.inter = c
	case b.inter != 0:
		b.state = stateCSIIgnore
	case c >= 0x3c:
		if b.n > 0 || b.prefix != 0 {
			b.state = stateCSIIgnore
			return
		}
		b.prefix = c
	case c == ';' || c == ':':
		if b.n == 0 {
			b.begin(false)
		}
		b.begin(c == ':')
	default:
		if b.n == 0 {
			b.begin(false)
		}
		if p := &b.params[b.n-1]; b.n <= maxParams {
			*p = min(*p*10+int(c-'0'), maxParam)
		}
	}
}

// begin begins a parameter; those beyond the last are lost in it.
func (b *parser) begin(sub bool) {
	if b.n < maxParams {
		b.params[b.n], b.sub[b.n] = 0, sub
		b.n++
	}
}

// param is parameter i, or the default if it is missing or 0.
func (b *parser) param(i, def int) int {
	if i < b.n && b.params[i] != 0 {
		return b.params[i]
	}
	return def
}
