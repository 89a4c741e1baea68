package agent

// Bounds of a remembered screen. A terminal may be larger; what is beyond them
// is not remembered.
const (
	maxScreenRows  = 512
	maxScreenCols  = 1024
	maxScreenCells = 128 << 10
)

// screen remembers what a terminal shows: the characters and their looks, the
// cursor, and the modes that a program has set. It is the receiving half of a
// VT220 with what xterm added, as far as programs use it. It never answers.
//
// A line is only as long as what was written on it, and the alternate screen is
// there only while it is used: a shell's screen is a few KiB.
type screen struct {
	rows, cols  int
	lines       [][]cell // of the screen in use
	main        [][]cell // of the main screen while the alternate one is in use, else nil
	cur         cursor
	saved       [2]cursor // DECSC of the main and the alternate screen
	top, bottom int       // the scrolling region: first and last line
	modes       modes
	looks       looks
	parser      parser
	last        rune // what CSI b repeats
}

// cursor is where the next character goes, and how.
type cursor struct {
	row, col int
	wrap     bool // behind the last column: the next character wraps
	pen      style
	charsets [2]byte // G0 and G1: 'B' is ASCII, '0' line drawing
	shift    uint8   // 1: G1 is in use
	origin   bool    // lines count from the scrolling region's first
	saved    bool    // of saved cursors: DECSC was given
}

func newScreen(rows, cols int) *screen {
	s := &screen{}
	s.rows, s.cols = screenSize(rows, cols)
	s.reset()
	return s
}

func screenSize(rows, cols int) (int, int) {
	cols = min(max(cols, 1), maxScreenCols)
	return min(max(rows, 1), maxScreenRows, maxScreenCells/cols), cols
}

// reset is RIS, and the beginning.
func (s *screen) reset() {
	s.lines, s.main = make([][]cell, s.rows), nil
	s.cur = cursor{charsets: [2]byte{'B', 'B'}}
	s.saved = [2]cursor{s.cur, s.cur}
	s.top, s.bottom = 0, s.rows-1
	s.modes = defaultModes()
	s.looks = looks{}
	s.last = 0
}

func (s *screen) alternate() bool { return s.main != nil }

// resize follows the terminal's size. Lines do not flow anew: the program is
// told of the new size and draws what it wants to.
func (s *screen) resize(rows, cols int) {
	rows, cols = screenSize(rows, cols)
	if rows == s.rows && cols == s.cols {
		return
	}
	if s.alternate() {
		s.main = resizeLines(s.main, rows, cols, &s.saved[0])
		s.lines = resizeLines(s.lines, rows, cols, &s.cur)
	} else {
		s.lines = resizeLines(s.lines, rows, cols, &s.cur)
	}
	s.rows, s.cols = rows, cols
	s.top, s.bottom = 0, rows-1
	for _, c := range []*cursor{&s.cur, &s.saved[0], &s.saved[1]} {
		c.row, c.col, c.wrap = min(c.row, rows-1), min(c.col, cols-1), false
	}
}

// resizeLines keeps the cursor's line: lines go at the bottom as long as it
// stays, then at the top.
func resizeLines(lines [][]cell, rows, cols int, cur *cursor) [][]cell {
	if over := cur.row - (rows - 1); over > 0 {
		lines = lines[over:]
		cur.row -= over
	}
	out := make([][]cell, rows)
	copy(out, lines)
	for i, line := range out {
		if len(line) > cols {
			cut(line, cols)
			out[i] = trim(line[:cols])
		}
	}
	return out
}

// put writes one character at the cursor.
func (s *screen) put(r rune) {
	if s.cur.charsets[s.cur.shift] == '0' && r >= 0x5f && r <= 0x7e {
		r = lineDrawing[r-0x5f]
	}
	width := runeWidth(r)
	if width == 0 {
		s.combine(r)
		return
	}
	s.last = r
	width = min(width, s.cols)
	if s.cur.wrap || s.cur.col+width > s.cols {
		if s.modes.on(modeWrap) {
			s.wrapLine()
		} else {
			s.cur.wrap = false
			s.cur.col = min(s.cur.col, s.cols-width)
		}
	}
	if s.modes.insert {
		s.insertCells(width)
	}
	line := s.grown(s.cur.col + width)
	cut(line, s.cur.col)
	cut(line, s.cur.col+width)
	c := s.look(r)
	line[s.cur.col] = c
	if width == 2 {
		line[s.cur.col+1] = c&^cellRune | wideTail
	}
	s.cur.col += width
	if s.cur.col >= s.cols {
		s.cur.col = s.cols - 1
		s.cur.wrap = true
	}
}

func (s *screen) wrapLine() {
	s.cur.wrap = false
	s.cur.col = 0
	s.lineFeed()
}

// combine adds a mark to the character before the cursor.
func (s *screen) combine(r rune) {
	col := s.cur.col
	if !s.cur.wrap {
		col--
	}
	if col < 0 {
		return
	}
	line := s.grown(col + 1)
	if line[col].rune() == wideTail {
		col--
	}
	line[col] = s.withMark(line[col], r)
}

// grown is the cursor's line, at least n cells long.
func (s *screen) grown(n int) []cell {
	line := s.lines[s.cur.row]
	for len(line) < n {
		line = append(line, 0)
	}
	s.lines[s.cur.row] = line
	return line
}

// cut makes col a boundary: a wide character that lies across it goes.
func cut(line []cell, col int) {
	if col > 0 && col < len(line) && line[col].rune() == wideTail {
		line[col-1] &^= cellRune
		line[col] &^= cellRune
	}
}

// trim drops what is blank at a line's end.
func trim(line []cell) []cell {
	n := len(line)
	for n > 0 && line[n-1] == 0 {
		n--
	}
	return line[:n]
}

// erase blanks cells of a line, in the colour of the pen's background.
func (s *screen) erase(row, from, to int) {
	line := s.lines[row]
	blank := s.blank()
	to = min(to, s.cols)
	if blank == 0 && to >= len(line) {
		if from < len(line) {
			cut(line, from)
			s.lines[row] = trim(line[:from])
		}
		return
	}
	for len(line) < to {
		line = append(line, 0)
	}
	cut(line, from)
	cut(line, to)
	for i := from; i < to; i++ {
		line[i] = blank
	}
	s.lines[row] = trim(line)
}

func (s *screen) eraseLines(from, to int) {
	for row := from; row < to; row++ {
		s.erase(row, 0, s.cols)
	}
}

// insertCells makes room at the cursor; what leaves the line is lost.
func (s *screen) insertCells(n int) {
	line := s.grown(s.cols)
	col := s.cur.col
	n = min(n, s.cols-col)
	cut(line, col)
	cut(line, s.cols-n)
	copy(line[col+n:], line[col:s.cols-n])
	blank := s.blank()
	for i := col; i < col+n; i++ {
		line[i] = blank
	}
	s.lines[s.cur.row] = trim(line)
}

func (s *screen) deleteCells(n int) {
	line := s.grown(s.cols)
	col := s.cur.col
	n = min(n, s.cols-col)
	cut(line, col)
	cut(line, col+n)
	copy(line[col:], line[col+n:])
	blank := s.blank()
	for i := s.cols - n; i < s.cols; i++ {
		line[i] = blank
	}
	s.lines[s.cur.row] = trim(line)
}

// scroll moves the lines from top to bottom up by n, or down if n is negative.
func (s *screen) scroll(top, bottom, n int) {
	region := s.lines[top : bottom+1]
	up := n > 0
	n = min(max(n, -n), len(region))
	freed := make([][]cell, 0, 8)
	if up {
		freed = append(freed, region[:n]...)
		copy(region, region[n:])
		copy(region[len(region)-n:], freed)
		s.clearLines(region[len(region)-n:])
	} else {
		freed = append(freed, region[len(region)-n:]...)
		copy(region[n:], region)
		copy(region, freed)
		s.clearLines(region[:n])
	}
}

// clearLines blanks lines, whose memory is used again.
func (s *screen) clearLines(lines [][]cell) {
	blank := s.blank()
	for i := range lines {
		lines[i] = lines[i][:0]
		if blank == 0 {
			continue
		}
		for range s.cols {
			lines[i] = append(lines[i], blank)
		}
	}
}

func (s *screen) lineFeed() {
	s.cur.wrap = false
	switch {
	case s.cur.row == s.bottom:
		s.scroll(s.top, s.bottom, 1)
	case s.cur.row < s.rows-1:
		s.cur.row++
	}
}

func (s *screen) reverseLineFeed() {
	s.cur.wrap = false
	switch {
	case s.cur.row == s.top:
		s.scroll(s.top, s.bottom, -1)
	case s.cur.row > 0:
		s.cur.row--
	}
}

// moveTo places the cursor; in origin mode lines count within the region.
func (s *screen) moveTo(row, col int) {
	low, high := 0, s.rows-1
	if s.cur.origin {
		low, high = s.top, s.bottom
	}
	s.cur.row = min(max(row+low, low), high)
	s.cur.col = min(max(col, 0), s.cols-1)
	s.cur.wrap = false
}

// moveBy moves the cursor, which does not leave the region that it is in.
func (s *screen) moveBy(rows, cols int) {
	low, high := 0, s.rows-1
	if s.cur.row >= s.top {
		low = s.top
	}
	if s.cur.row <= s.bottom {
		high = s.bottom
	}
	s.cur.row = min(max(s.cur.row+rows, low), high)
	s.cur.col = min(max(s.cur.col+cols, 0), s.cols-1)
	s.cur.wrap = false
}

func (s *screen) slot() int {
	if s.alternate() {
		return 1
	}
	return 0
}

func (s *screen) saveCursor() {
	c := s.cur
	c.saved = true
	s.saved[s.slot()] = c
}

func (s *screen) restoreCursor() {
	s.cur = s.saved[s.slot()]
	s.cur.saved = false
	s.cur.row, s.cur.col = min(s.cur.row, s.rows-1), min(s.cur.col, s.cols-1)
}

// enterAlternate and leaveAlternate switch screens; the alternate one is empty
// at first.
func (s *screen) enterAlternate() {
	if s.alternate() {
		return
	}
	s.main, s.lines = s.lines, make([][]cell, s.rows)
}

func (s *screen) leaveAlternate() {
	if !s.alternate() {
		return
	}
	s.lines, s.main = s.main, nil
	s.saved[1] = cursor{charsets: [2]byte{'B', 'B'}}
}
