package agent

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// picture is a screen's characters, a line each, without blank lines at the end.
func (s *screen) picture() string {
	var b strings.Builder
	for _, line := range s.lines {
		for _, c := range line {
			b.WriteString(s.looks.text(c))
		}
		b.WriteByte('\n')
	}
	return strings.TrimRight(b.String(), "\n")
}

func TestScreen_Sequences(t *testing.T) {
	for _, c := range []struct {
		name, in, want string
		row, col       int
	}{
		{"lines", "one\r\ntwo\nthree", "one\ntwo\n   three", 2, 8},
		{"overwrite", "abcdef\rxy\b\bz", "zycdef", 0, 1},
		{"wrap", "0123456789ab", "0123456789\nab", 1, 2},
		{"pending wrap", "0123456789", "0123456789", 0, 9},
		{"pending wrap ends", "0123456789\rx", "x123456789", 0, 1},
		{"no wrap", "\x1b[?7l0123456789ab", "012345678b", 0, 9},
		{"scroll", "1\r\n2\r\n3\r\n4\r\n5\r\n6", "2\n3\n4\n5\n6", 4, 1},
		{"tabs", "a\tb\x1b[Zc", "a       c", 0, 9},
		{"move", "\x1b[3;4Hx\x1b[Ay\x1b[2Dz\x1b[1Bw", "\n   zy\n   xw", 2, 5},
		{"beyond", "\x1b[99;99Hx\x1b[99A\x1b[99Dy", "y\n\n\n\n         x", 0, 1},
		{"erase right", "abcdef\x1b[3D\x1b[K", "abc", 0, 3},
		{"erase left", "abcdef\x1b[3D\x1b[1K", "    ef", 0, 3},
		{"erase below", "a\r\nbcd\r\ne\x1b[2;2H\x1b[J", "a\nb", 1, 1},
		{"erase above", "a\r\nbcd\r\ne\x1b[2;2H\x1b[1J", "\n  d\ne", 1, 1},
		{"erase characters", "abcdef\r\x1b[2X", "  cdef", 0, 0},
		{"insert and delete", "abcdef\r\x1b[2@\x1b[4C\x1b[P", "  abdef", 0, 4},
		{"insert mode", "abc\r\x1b[4hXY\x1b[4lz", "XYzbc", 0, 3},
		{"insert lines", "1\r\n2\r\n3\x1b[2;1H\x1b[L", "1\n\n2\n3", 1, 0},
		{"delete lines", "1\r\n2\r\n3\x1b[1;1H\x1b[M", "2\n3", 0, 0},
		{"region", "1\r\n2\r\n3\r\n4\r\n5\x1b[2;4r\x1b[4;1H\nx", "1\n3\n4\nx\n5", 3, 1},
		{"reverse line feed", "1\r\n2\x1b[H\x1bMx", "x\n1\n2", 0, 1},
		{"origin", "\x1b[2;4r\x1b[?6h\x1b[1;1Hx\x1b[9;1Hy", "\nx\n\ny", 3, 1},
		{"save and restore", "ab\x1b7cd\x1b8X", "abXd", 0, 3},
		{"repeat", "x\x1b[3b", "xxxx", 0, 4},
		{"alternate", "shell\x1b[?1049hvim\x1b[?1049l$", "shell$", 0, 6},
		{"line drawing", "\x1b(0lqk\x1b(Bq", "┌─┐q", 0, 4},
		{"shift out", "\x1b)0q\x0eq\x0fq", "q─q", 0, 3},
		{"UTF-8", "é€😀x", "é€😀x", 0, 5},
		{"wide at the edge", "12345678 世界", "12345678 \n世界", 1, 4},
		{"half of a wide one", "世界\x1b[2Gx", " x界", 0, 2},
		{"marks", "e\u0301x", "e\u0301x", 0, 2},
		{"broken UTF-8", "a\xe2\x82b\xffc", "a\ufffdb\ufffdc", 0, 5},
		{"titles and the like", "a\x1b]0;title\x07b\x1bPq#1\x1b\\c\x1b_x\x1b\\d", "abcd", 0, 4},
		{"string cut off", "a\x1b]0;ti\x18b", "ab", 0, 2},
		{"queries", "a\x1b[6n\x1b[c\x1b[>c\x1b[?2026$pb", "ab", 0, 2},
		{"cancel", "a\x1b[3\x18b", "ab", 0, 2},
		{"controls within a sequence", "a\x1b[\r2Cb", "a b", 0, 3},
		{"reset", "abc\x1b[?1049h\x1bcx", "x", 0, 1},
		{"too many parameters", "\x1b[" + strings.Repeat("1;", 100) + "1mx", "x", 0, 1},
		{"clear", "abc\x1b[H\x1b[2Jd", "d", 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, step := range []int{1, 3, 1000} {
				s := newScreen(5, 10)
				for in := c.in; in != ""; in = in[min(step, len(in)):] {
					_, _ = s.Write([]byte(in[:min(step, len(in))]))
				}
				lines := strings.Split(s.picture(), "\n")
				for i := range lines {
					lines[i] = strings.TrimRight(lines[i], " ")
				}
				want := strings.Split(c.want, "\n")
				for i := range want {
					want[i] = strings.TrimRight(want[i], " ")
				}
				require.Equal(t, want, lines)
				require.Equal(t, []int{c.row, c.col}, []int{s.cur.row, s.cur.col})
				requireSame(t, s, replayed(s))
			}
		})
	}
}

func TestScreen_Styles(t *testing.T) {
	for _, c := range []struct {
		in   string
		want style
	}{
		{"1;31;44", style{fg: colorIndex + 1, bg: colorIndex + 4, attrs: 1 << 1}},
		{"1;3;0", style{}},
		{"", style{}},
		{"38;5;200;48;5;17", style{fg: colorIndex + 200, bg: colorIndex + 17}},
		{"38:5:200;7", style{fg: colorIndex + 200, attrs: 1 << 7}},
		{"38;2;1;2;3;9", style{fg: colorRGB + 0x010203, attrs: 1 << 9}},
		{"48:2::1:2:3;9", style{bg: colorRGB + 0x010203, attrs: 1 << 9}},
		{"48:2:1:2:3;9", style{bg: colorRGB + 0x010203, attrs: 1 << 9}},
		{"58:5:3;4:3", style{attrs: 3 << underlineShift}},
		{"58;2;9;9;9;4", style{attrs: 1 << underlineShift}},
		{"4:3;24;53", style{attrs: attrOverline}},
		{"1;2;5;7;8;9;22;25;27;28;29", style{}},
		{"97;107", style{fg: colorIndex + 15, bg: colorIndex + 15}},
		{"31;38;5", style{fg: colorIndex + 1}},
		{"38;9;1", style{}},
	} {
		s := newScreen(2, 10)
		_, _ = s.Write([]byte("\x1b[" + c.in + "mx"))
		require.Equal(t, c.want, s.cur.pen, c.in)
		requireSame(t, s, replayed(s))
	}
}

// replayed is another terminal, in use, that shows a replay.
func replayed(s *screen) *screen {
	u := newScreen(s.rows, s.cols)
	_, _ = u.Write([]byte("what was\r\nthere before\x1b[3;1H\x1b[31mred"))
	_, _ = u.Write(s.replay())
	return u
}

// requireSame compares what a user sees, and how it goes on.
func requireSame(t testing.TB, want, got *screen) {
	t.Helper()
	require.Equal(t, described(want), described(got), "the replay: %q", want.replay())
	require.Equal(t, parserState(0), got.parser.state)
}

func described(s *screen) string {
	var b strings.Builder
	for _, lines := range [][][]cell{s.lines, s.main} {
		for i, line := range lines {
			for _, c := range trim(line) {
				fmt.Fprintf(&b, "%s%v", s.looks.text(c), s.looks.style(c.style()))
			}
			fmt.Fprintf(&b, "|%d\n", i)
		}
	}
	cur := s.cur
	for i, set := range cur.charsets {
		if set != '0' {
			cur.charsets[i] = 'B'
		}
	}
	fmt.Fprintf(&b, "%v %v %d-%d %d", cur, s.modes, s.top, s.bottom, len(s.main))
	return b.String()
}

// randomOutput is a program's output that uses everything.
func randomOutput(rnd *rand.Rand, n int) []byte {
	var b []byte
	for range n {
		switch rnd.IntN(12) {
		case 0, 1, 2:
			for range rnd.IntN(30) {
				b = append(b, "abcdefgh     XYZ"[rnd.IntN(16)])
			}
		case 3:
			b = append(b, []string{"\r\n", "\n", "\t", "\b", "\r", "\x0e", "\x0f", "世", "é", "e\u0301", "😀"}[rnd.IntN(11)]...)
		case 4, 5, 6:
			b = fmt.Appendf(b, "\x1b[%d;%d%c", rnd.IntN(12), rnd.IntN(40), "HABCDGdrJKLMP@XSTfm"[rnd.IntN(19)])
		case 7:
			b = fmt.Appendf(b, "\x1b[%d;%d;38;5;%dm", rnd.IntN(10), 30+rnd.IntN(8), rnd.IntN(256))
		case 8:
			b = fmt.Appendf(b, "\x1b[48;2;%d;%d;%dm", rnd.IntN(256), rnd.IntN(256), rnd.IntN(256))
		case 9:
			b = fmt.Appendf(b, "\x1b[?%d%c", []int{1, 5, 6, 7, 25, 47, 1047, 1049, 1000, 1006, 2004}[rnd.IntN(11)], "hl"[rnd.IntN(2)])
		case 10:
			b = append(b, []string{"\x1b7", "\x1b8", "\x1bM", "\x1bD", "\x1b=", "\x1b>", "\x1b(0", "\x1b(B", "\x1b)0", "\x1b[4h", "\x1b[4l", "\x1b[5 q", "\x1b[!p"}[rnd.IntN(13)]...)
		case 11:
			b = append(b, []string{"\x1b]0;t\x07", "\x1b[6n", "\x1b[0m", "\x1b[>4;2m", "\x1b[>1u"}[rnd.IntN(5)]...)
		}
	}
	return b
}

// Whatever a program has done to its screen, a replay shows it, and both go on
// alike.
func TestScreen_ReplayIsExact(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		s := newScreen(1+rnd.IntN(12), 2+rnd.IntN(38))
		_, _ = s.Write(randomOutput(rnd, rnd.IntN(60)))
		if rnd.IntN(4) == 0 {
			s.resize(1+rnd.IntN(12), 2+rnd.IntN(38))
			_, _ = s.Write(randomOutput(rnd, rnd.IntN(5)))
		}
		u := replayed(s)
		requireSame(t, s, u)
		replay := s.replay()
		for _, more := range []string{"\x1b[?1049l", "and on", "\r\n"} {
			_, _ = s.Write([]byte(more))
			_, _ = u.Write([]byte(more))
			require.Equal(t, described(s), described(u), "after %q, the replay: %q", more, replay)
		}
	}
}

func TestScreen_Farewell(t *testing.T) {
	s := newScreen(5, 20)
	_, _ = s.Write([]byte("$ vim\r\n"))
	require.Empty(t, s.farewell())
	_, _ = s.Write([]byte("\x1b[?1049h\x1b[2;3r\x1b[?1h\x1b=\x1b[?25l\x1b[?1006;1002h\x1b[?2004h\x1b[31m\x1b[4h\x1b[5 q\x1b[>4;2m\x1b(0xxx"))
	u := newScreen(5, 20)
	_, _ = u.Write(s.replay())
	requireSame(t, s, u)
	_, _ = u.Write(s.farewell())
	require.Equal(t, defaultModes(), u.modes)
	require.False(t, u.alternate())
	require.Equal(t, []int{0, 4}, []int{u.top, u.bottom})
	require.Equal(t, style{}, u.cur.pen)
	require.EqualValues(t, 'B', u.cur.charsets[0])
	require.Equal(t, "$ vim", u.picture())
	require.Equal(t, 1, u.cur.row)
}

func TestScreen_LastWords(t *testing.T) {
	s := newScreen(5, 20)
	_, _ = s.Write([]byte("\x1b[?1049h\x1b[?25lone\r\n\x1b[31mtwo\x1b[?1000h"))
	u := newScreen(5, 20)
	_, _ = u.Write(s.lastWords())
	require.Equal(t, "one\ntwo", u.picture())
	require.Equal(t, defaultModes(), u.modes)
	require.Equal(t, []int{2, 0}, []int{u.cur.row, u.cur.col})
}

// The cursor's line stays on the screen.
func TestScreen_Resize(t *testing.T) {
	s := newScreen(5, 10)
	_, _ = s.Write([]byte("1\r\n2\r\n3\r\n4"))
	s.resize(6, 20)
	require.Equal(t, "1\n2\n3\n4", s.picture())
	s.resize(2, 20)
	require.Equal(t, "3\n4", s.picture())
	require.Equal(t, 1, s.cur.row)
	_, _ = s.Write([]byte("567890\x1b[?1049halt"))
	s.resize(1, 3)
	_, _ = s.Write([]byte("\x1b[?1049l"))
	require.Equal(t, "456", s.picture())
	s.resize(70000, 70000)
	require.LessOrEqual(t, s.rows*s.cols, maxScreenCells)
	s.resize(0, 0)
	require.Equal(t, []int{1, 1}, []int{s.rows, s.cols})
	_, _ = s.Write([]byte("世x"))
}

// A program that uses every colour there is neither grows the tables without
// bound nor loses the ones it still shows, as long as they have room.
func TestScreen_LooksAreBounded(t *testing.T) {
	s := newScreen(24, 80)
	for i := range 200_000 {
		_, _ = fmt.Fprintf(s, "\x1b[38;2;%d;%d;%dm#", i>>16, i>>8&255, i&255)
	}
	require.Less(t, len(s.looks.styles), maxStyles)
	s = newScreen(24, 20)
	for i := range 50_000 {
		_, _ = fmt.Fprintf(s, "\x1b[38;2;%d;%d;%dm#", i>>16, i>>8&255, i&255)
	}
	u := replayed(s)
	requireSame(t, s, u)
	require.Equal(t, colorRGB+49_999, u.cur.pen.fg)
	for i := range 50_000 {
		_, _ = s.Write([]byte("e" + string(rune(0x300+i%50)) + string(rune(0x300+i/50%50)) + string(rune(0x300+i/2500%50))))
	}
	require.LessOrEqual(t, len(s.looks.marked), maxMarked)
	_, _ = s.Write([]byte("x" + strings.Repeat("\u0301", 1000)))
	require.Less(t, len(s.replay()), 1<<20)
}

func FuzzScreen(f *testing.F) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		f.Add(uint8(rnd.IntN(20)), uint8(rnd.IntN(80)), randomOutput(rnd, 30))
	}
	f.Fuzz(func(t *testing.T, rows, cols uint8, output []byte) {
		// Twice: the second size is where the first output left off.
		s := newScreen(int(rows), int(cols))
		half := len(output) / 2
		_, _ = s.Write(output[:half])
		s.resize(int(cols)%30, int(rows))
		_, _ = s.Write(output[half:])
		_, _ = s.Write([]byte("\x18")) // out of a half sequence
		if s.cols < 2 {
			return // wide characters do not fit
		}
		requireSame(t, s, replayed(s))
		u := newScreen(s.rows, s.cols)
		_, _ = u.Write(s.replay())
		_, _ = u.Write(s.farewell())
		require.Equal(t, defaultModes(), u.modes)
		require.False(t, u.alternate())
		_ = s.lastWords()
	})
}

func BenchmarkScreen(b *testing.B) {
	line := []byte("\x1b[32muser@box\x1b[0m:~$ ls -l some file names and what else there is on a line\r\n")
	s := newScreen(24, 80)
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		_, _ = s.Write(line)
	}
}

// A picture that fails costs the picture: neither a lock nor the command.
func TestKept_PictureThatFails(t *testing.T) {
	k := newKept(&execution{start: &proto.ExecStart{Tty: true}, agent: &Agent{log: slog.New(slog.DiscardHandler)}})
	before := k.screen
	require.Nil(t, k.picture(func(*screen) []byte { panic("no picture") }))
	require.NotSame(t, before, k.screen)
	k.remember([]byte("hello"))
	require.Contains(t, string(k.picture((*screen).replay)), "hello")
}
