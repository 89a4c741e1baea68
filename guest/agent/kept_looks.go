package agent

// cell is a place on a screen: 21 bits of character and 11 of style. The
// character 0 is blank. Those above Unicode are characters with marks, see
// looks.
type cell uint32

const (
	cellRune    = 1<<21 - 1
	wideTail    = cellRune // the second half of a wide character
	firstMarked = 0x110000
	maxMarked   = 1024
	maxStyles   = 1 << 11
	maxMarks    = 32 // bytes of a character with its marks
)

func (c cell) rune() rune { return rune(c & cellRune) }
func (c cell) style() int { return int(c >> 21) }

// style is how a character looks. The zero value is a terminal's default.
type style struct {
	fg, bg color
	attrs  uint16
}

// color is 0 for the default, colorIndex + 0 to 255, or colorRGB + 24 bits.
type color uint32

const (
	colorIndex color = 1 << 24
	colorRGB   color = 2 << 24
)

// Attributes of a style. Bit n is SGR n; the kind of underline is in the
// topmost bits.
const (
	attrOverline   = 1 << 10
	underlineShift = 13
	underlineMask  = 7 << underlineShift
)

// looks are the styles and marked characters that a screen's cells refer to.
// Both tables are cleared of what is not used any more when they are full.
type looks struct {
	styles  []style // 1 and up
	ids     map[style]int
	marked  []string
	marks   map[string]int
	refused int // so many more are not looked for room for
}

// look is a character in the pen's style.
func (s *screen) look(r rune) cell {
	if r == ' ' {
		r = 0
	}
	return cell(r) | s.penStyle(s.cur.pen)
}

// blank is an erased cell: only the background's colour counts.
func (s *screen) blank() cell { return s.penStyle(style{bg: s.cur.pen.bg}) }

func (s *screen) penStyle(p style) cell {
	if p == (style{}) {
		return 0
	}
	if id, ok := s.looks.ids[p]; ok {
		return cell(id) << 21
	}
	if len(s.looks.styles) >= maxStyles-1 && !s.makeRoom() {
		return 0
	}
	return cell(s.looks.add(p)) << 21
}

func (l *looks) add(p style) int {
	if l.ids == nil {
		l.ids = map[style]int{}
	}
	l.styles = append(l.styles, p)
	l.ids[p] = len(l.styles)
	return len(l.styles)
}

func (l *looks) style(id int) style {
	if id == 0 {
		return style{}
	}
	return l.styles[id-1]
}

// withMark is the cell with a combining mark; without it if there is no room.
func (s *screen) withMark(c cell, mark rune) cell {
	text := s.looks.text(c) + string(mark)
	if len(text) > maxMarks {
		return c
	}
	id, ok := s.looks.marks[text]
	if !ok {
		if len(s.looks.marked) >= maxMarked {
			return c
		}
		id = s.looks.addMarked(text)
	}
	return c&^cellRune | cell(firstMarked+id)
}

func (l *looks) addMarked(text string) int {
	if l.marks == nil {
		l.marks = map[string]int{}
	}
	l.marked = append(l.marked, text)
	l.marks[text] = len(l.marked) - 1
	return len(l.marked) - 1
}

// text is what a cell shows.
func (l *looks) text(c cell) string {
	switch r := c.rune(); {
	case r == 0:
		return " "
	case r == wideTail:
		return ""
	case r >= firstMarked:
		return l.marked[r-firstMarked]
	default:
		return string(r)
	}
}

// makeRoom keeps only the looks that the screens show. With a thousand styles
// in use it is not tried again for a while, for it takes its time.
func (s *screen) makeRoom() bool {
	if s.looks.refused > 0 {
		s.looks.refused--
		return false
	}
	old := s.looks
	s.looks = looks{}
	for _, lines := range [][][]cell{s.lines, s.main} {
		for _, line := range lines {
			for i, c := range line {
				line[i] = s.looks.adopt(&old, c)
			}
		}
	}
	if len(s.looks.styles) > maxStyles/2 {
		s.looks.refused = maxScreenCells
	}
	return len(s.looks.styles) < maxStyles-1
}

func (l *looks) adopt(old *looks, c cell) cell {
	r := c & cellRune
	if r >= firstMarked && r != wideTail {
		text := old.marked[r-firstMarked]
		id, ok := l.marks[text]
		if !ok {
			id = l.addMarked(text)
		}
		r = cell(firstMarked + id)
	}
	p := old.style(c.style())
	if p == (style{}) {
		return r
	}
	id, ok := l.ids[p]
	if !ok {
		id = l.add(p)
	}
	return r | cell(id)<<21
}
