package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func openDir(t testing.TB) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

func openLog(t testing.TB, root *os.Root, limits Limits) *Writer {
	t.Helper()
	w, err := Open(root, "test", limits)
	require.NoError(t, err)
	t.Cleanup(func() { w.Close() })
	return w
}

// readAll reads what there is now.
func readAll(t testing.TB, root *os.Root) []Entry {
	t.Helper()
	r := NewReader(root, "test")
	defer r.Close()
	var all []Entry
	for {
		e, err := r.Next()
		if err == io.EOF {
			return all
		}
		require.NoError(t, err)
		all = append(all, e)
	}
}

func data(entries []Entry) string {
	var b strings.Builder
	for _, e := range entries {
		b.Write(e.Data)
	}
	return b.String()
}

func sizes(t testing.TB, root *os.Root) map[int]int64 {
	t.Helper()
	seqs, err := segments(root, "test")
	require.NoError(t, err)
	m := map[int]int64{}
	for _, seq := range seqs {
		info, err := root.Stat(segmentName("test", seq))
		require.NoError(t, err)
		m[seq] = info.Size()
	}
	return m
}

var big = Limits{FileBytes: 1 << 20, Backups: 1}

func TestFormat(t *testing.T) {
	root := openDir(t)
	w := openLog(t, root, big)
	w.now = func() time.Time { return time.Date(2026, 5, 4, 10, 11, 12, 131415161, time.FixedZone("X", 7200)) }
	w.Append(Stdout, "AB12", []byte("hello <&>\nwor"))
	w.Append(Stderr, "AB12", []byte("ld\x1b[2J\x00é\n"))
	w.Append(Console, "", []byte{0xff, '\n'})
	w.Append(Console, "", nil)
	got, err := root.ReadFile(segmentName("test", 1))
	require.NoError(t, err)
	require.Equal(t, `{"t":"2026-05-04T08:11:12.131415161Z","s":"stdout","id":"AB12","d":"hello <&>\n"}
{"t":"2026-05-04T08:11:12.131415161Z","s":"stdout","id":"AB12","d":"wor"}
{"t":"2026-05-04T08:11:12.131415161Z","s":"stderr","id":"AB12","d":"ld\u001b[2J\u0000é\n"}
{"t":"2026-05-04T08:11:12.131415161Z","s":"console","e":"base64","d":"/wo="}
`, string(got))
	all := readAll(t, root)
	require.Len(t, all, 4)
	require.Equal(t, Entry{w.now().UTC(), Stderr, "AB12", []byte("ld\x1b[2J\x00é\n")}, all[2])
	require.Equal(t, "hello <&>\nworld\x1b[2J\x00é\n\xff\n", data(all))
}

// Whatever was written comes back as it was, in pieces of a bounded size.
func TestPieces(t *testing.T) {
	root := openDir(t)
	w := openLog(t, root, Limits{FileBytes: 64 << 20, Backups: 1})
	rng := rand.New(rand.NewPCG(1, 2))
	var want []byte
	for _, p := range [][]byte{
		[]byte(strings.Repeat("é", MaxPiece)), []byte("x" + strings.Repeat("é", MaxPiece)),
		bytes.Repeat([]byte{0}, 3*MaxPiece), bytes.Repeat([]byte{0x80}, 3*MaxPiece),
		[]byte(strings.Repeat("\n", 10)), []byte(strings.Repeat("a", MaxPiece-1) + "\n"), []byte(strings.Repeat("a", MaxPiece) + "\n"),
		[]byte(strings.Repeat("\x01\"\\\t", MaxPiece)), []byte(strings.Repeat("\x01\x02\"\\\t", MaxPiece)), []byte(strings.Repeat("\u2028", MaxPiece)), []byte("\x1b[31mred\x1b[0m\n"),
		[]byte("🙂"), []byte("\xf0\x9f"), []byte("\x99\x82"),
	} {
		w.Append(Stdout, strings.Repeat("x", 64), p)
		want = append(want, p...)
	}
	for range 200 {
		p := make([]byte, rng.IntN(3*MaxPiece))
		for i := range p {
			p[i] = byte(rng.IntN(1 << (1 + rng.IntN(8))))
		}
		w.Append(Stderr, "", p)
		want = append(want, p...)
	}
	require.Zero(t, w.Lost())
	all := readAll(t, root)
	for _, e := range all {
		require.NotEmpty(t, e.Data)
		require.LessOrEqual(t, len(e.Data), MaxPiece)
		require.NotEqual(t, Notice, e.Source)
		if i := bytes.IndexByte(e.Data, '\n'); i >= 0 {
			require.Equal(t, len(e.Data)-1, i)
		}
	}
	require.True(t, string(want) == data(all))
	raw, err := root.ReadFile(segmentName("test", 1))
	require.NoError(t, err)
	for l := range bytes.Lines(raw) {
		require.LessOrEqual(t, len(l), MaxLine)
		if l[len(l)-2] != '}' {
			t.Fatal("no JSON")
		}
	}
}

// Files stay within their size, as many as are wanted are kept, and the newest
// entries are all there.
func TestRotation(t *testing.T) {
	root := openDir(t)
	limits := Limits{FileBytes: 1000, Backups: 2}
	w := openLog(t, root, limits)
	var want []string
	for i := range 500 {
		s := fmt.Sprintf("%d %s\n", i, strings.Repeat("y", i%90))
		w.Append(Stdout, "id", []byte(s))
		want = append(want, s)
		if i%50 == 0 {
			// The next process goes on in the same file.
			require.NoError(t, w.Close())
			w = openLog(t, root, limits)
		}
	}
	m := sizes(t, root)
	require.Len(t, m, 3)
	for seq, size := range m {
		require.LessOrEqual(t, size, limits.FileBytes, "file %d", seq)
	}
	all := readAll(t, root)
	require.Equal(t, strings.Join(want[len(want)-len(all):], ""), data(all))
	require.Greater(t, len(all), 15)
	// One chunk of many lines is no other matter.
	w.Append(Stdout, "id", []byte(strings.Repeat("z\n", 100)))
	for seq, size := range sizes(t, root) {
		require.LessOrEqual(t, size, limits.FileBytes, "file %d", seq)
	}
	// A line that is larger than a file has one to itself.
	w.Append(Stdout, "id", []byte(strings.Repeat("z", 2000)+"\n"))
	w.Append(Stdout, "id", []byte("after\n"))
	all = readAll(t, root)
	require.Equal(t, strings.Repeat("z", 2000)+"\n", string(all[len(all)-2].Data))
	require.Equal(t, "after\n", string(all[len(all)-1].Data))
}

// A crash leaves a file that ends anywhere: what is whole is read, what is
// written later too.
func TestCutOffAnywhere(t *testing.T) {
	root := openDir(t)
	w := openLog(t, root, big)
	w.Append(Stdout, "id", []byte("one\ntwo\n"))
	require.NoError(t, w.Close())
	whole, err := root.ReadFile(segmentName("test", 1))
	require.NoError(t, err)
	first := bytes.IndexByte(whole, '\n') + 1
	for n := range len(whole) + 1 {
		root := openDir(t)
		require.NoError(t, root.WriteFile(segmentName("test", 1), whole[:n], 0o600))
		lines := strings.Count(string(whole[:n]), "\n")
		require.Len(t, readAll(t, root), lines, "cut off after %d bytes", n)
		w := openLog(t, root, big)
		w.Append(Stdout, "id", []byte("three\n"))
		all := readAll(t, root)
		require.Equal(t, "three\n", string(all[len(all)-1].Data))
		if n != 0 && n != first && n != len(whole) {
			switch {
			case n == first-1, n == len(whole)-1:
				require.Len(t, all, lines+2, "only its end was missing")
			default:
				require.Equal(t, Notice, all[lines].Source)
				require.Contains(t, string(all[lines].Data), "damaged")
			}
		}
		tail, err := NewReader(root, "test").Tail(1, everything)
		require.NoError(t, err)
		require.Equal(t, "three\n", data(tail))
	}
}

func everything(*Entry) bool { return true }

func TestDamage(t *testing.T) {
	root := openDir(t)
	w := openLog(t, root, Limits{FileBytes: 10 << 20, Backups: 3})
	name := segmentName("test", 1)
	w.Append(Stdout, "", []byte("before\n"))
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	defer f.Close()
	for _, damage := range []string{
		"{\n", "null\n", "{}\n", "\n", strings.Repeat("\x00", 5*MaxLine) + "\n", strings.Repeat("x", 70000) + "\n",
		`{"t":"2026-05-04T08:11:12Z","s":"stdout","e":"base64","d":"?"}` + "\n",
		`{"t":"2026-05-04T08:11:12Z","s":"stdout","e":"rot13","d":"x"}` + "\n",
		`{"t":"2026-05-04T08:11:12Z","s":"","d":"x"}` + "\n",
	} {
		_, err := f.WriteString(damage)
		require.NoError(t, err)
	}
	w.Append(Stdout, "", []byte("after\n"))
	all := readAll(t, root)
	require.Equal(t, "before\n", string(all[0].Data))
	require.Equal(t, "after\n", string(all[len(all)-1].Data))
	require.Len(t, all, 10)
	for _, e := range all[1:9] {
		require.Equal(t, Notice, e.Source)
		require.Equal(t, all[0].Time, e.Time)
	}
	tail, err := NewReader(root, "test").Tail(2, everything)
	require.NoError(t, err)
	require.Equal(t, "before\nafter\n", data(tail))

	// A file that cannot be read hides no other.
	require.NoError(t, w.Close())
	require.NoError(t, root.Mkdir(segmentName("test", 2), 0o700))
	require.NoError(t, root.WriteFile(segmentName("test", 3), []byte(`{"t":"2026-05-04T08:11:12Z","s":"stdout","d":"third\n"}`+"\n"), 0o600))
	all = readAll(t, root)
	require.Len(t, all, 12)
	require.Equal(t, Notice, all[10].Source)
	require.Equal(t, "third\n", string(all[11].Data))
	tail, err = NewReader(root, "test").Tail(3, everything)
	require.NoError(t, err)
	require.Equal(t, "third\n", string(tail[len(tail)-1].Data))
	require.Equal(t, "after\n", string(tail[0].Data))
}

func TestNames(t *testing.T) {
	require.Equal(t, "output.000001.log", segmentName("output", 1))
	require.Equal(t, 1234567, segmentSeq("output", segmentName("output", 1234567)))
	for _, name := range []string{
		"output.log", "output.1.log", "output.000000.log", "output.-00001.log", "output.+00001.log", "console.000001.log",
		"output.000001.log.gz", "output.0000001.log", "output.99999999999999999999.log", "output.00000x.log",
	} {
		require.Zero(t, segmentSeq("output", name), name)
	}
}

// A symbolic link in the place of a file is not followed.
func TestNoLinks(t *testing.T) {
	root := openDir(t)
	target := filepath.Join(root.Name(), "target")
	require.NoError(t, os.WriteFile(target, []byte("x"), 0o600))
	require.NoError(t, os.Symlink("target", filepath.Join(root.Name(), segmentName("test", 1))))
	_, err := Open(root, "test", big)
	require.ErrorContains(t, err, "not a regular file")
	got, err := os.ReadFile(target)
	require.NoError(t, err)
	require.Equal(t, "x", string(got))
}

func TestNothingThere(t *testing.T) {
	root := openDir(t)
	require.Empty(t, readAll(t, root))
	r := NewReader(root, "test")
	tail, err := r.Tail(5, everything)
	require.NoError(t, err)
	require.Empty(t, tail)
	w := openLog(t, root, big)
	w.Append(Stdout, "", []byte("x\n"))
	e, err := r.Next()
	require.NoError(t, err)
	require.Equal(t, "x\n", string(e.Data))
	require.NoError(t, r.Close())
	require.NoError(t, os.RemoveAll(root.Name()))
	require.Empty(t, readAll(t, root), "a log that was deleted is at its end")
}

// A reader that runs beside the writer gets everything once, through any number
// of files.
func TestReaderBesideWriter(t *testing.T) {
	root := openDir(t)
	const n = 20000
	var read sync.Mutex
	w := openLog(t, root, Limits{FileBytes: 3000, Backups: 1 << 20})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			r := NewReader(root, "test")
			defer r.Close()
			for i := 0; i < n; {
				e, err := r.Next()
				if err == io.EOF {
					time.Sleep(100 * time.Microsecond)
					continue
				}
				if want := fmt.Sprintf("%d\n", i); err != nil || string(e.Data) != want {
					read.Lock()
					defer read.Unlock()
					t.Errorf("want %q, got %q, %v", want, e.Data, err)
					return
				}
				i++
			}
		})
	}
	for i := range n {
		w.Append(Stdout, "", fmt.Appendf(nil, "%d\n", i))
	}
	wg.Wait()
	require.Zero(t, w.Lost())
}

// One that is too slow is told what it missed.
func TestReaderTooSlow(t *testing.T) {
	root := openDir(t)
	w := openLog(t, root, Limits{FileBytes: 1000, Backups: 1})
	w.Append(Stdout, "", []byte("first\n"))
	r := NewReader(root, "test")
	defer r.Close()
	e, err := r.Next()
	require.NoError(t, err)
	require.Equal(t, "first\n", string(e.Data))
	for i := range 100 {
		w.Append(Stdout, "", fmt.Appendf(nil, "%d\n", i))
	}
	var all []Entry
	for {
		e, err := r.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		all = append(all, e)
	}
	require.Equal(t, "0\n", string(all[0].Data), "its own file it can read to the end")
	require.Equal(t, "99\n", string(all[len(all)-1].Data))
	notices := 0
	for i, e := range all {
		if e.Source == Notice {
			notices++
			require.Contains(t, string(e.Data), "deleted before they were read")
			require.Less(t, i, len(all)-1)
		}
	}
	require.Equal(t, 1, notices)
}

// Tail and Next together are the log, wherever the tail begins.
func TestTail(t *testing.T) {
	root := openDir(t)
	w := openLog(t, root, Limits{FileBytes: 1000, Backups: 5})
	for i := range 40 {
		w.Append([]string{Stdout, Stderr}[i%2], "", fmt.Appendf(nil, "%d\n", i))
	}
	all := readAll(t, root)
	require.Len(t, all, 40)
	for n := range 45 {
		r := NewReader(root, "test")
		tail, err := r.Tail(n, everything)
		require.NoError(t, err)
		require.Equal(t, data(all[max(0, 40-n):]), data(tail))
		_, err = r.Next()
		require.Equal(t, io.EOF, err)
		r.Close()
	}
	tail, err := NewReader(root, "test").Tail(3, func(e *Entry) bool { return e.Source == Stderr })
	require.NoError(t, err)
	require.Equal(t, "35\n37\n39\n", data(tail))
	r := NewReader(root, "test")
	defer r.Close()
	_, err = r.Tail(0, everything)
	require.NoError(t, err)
	w.Append(Stdout, "", []byte("next\n"))
	e, err := r.Next()
	require.NoError(t, err)
	require.Equal(t, "next\n", string(e.Data))
}

// shortDisk is a file on a disk that has room for so many bytes.
type shortDisk struct {
	*os.File
	room     *int
	truncate bool
}

func (d shortDisk) Write(p []byte) (int, error) {
	n := min(len(p), *d.room)
	*d.room -= n
	n, err := d.File.Write(p[:n])
	if err == nil && n < len(p) {
		err = syscall.ENOSPC
	}
	return n, err
}

func (d shortDisk) Truncate(size int64) error {
	if !d.truncate {
		return syscall.EIO
	}
	return d.File.Truncate(size)
}

// A full disk costs what does not fit, and nothing else; later the log says so.
func TestDiskFull(t *testing.T) {
	for _, truncate := range []bool{true, false} {
		for room := range 400 {
			root := openDir(t)
			w := openLog(t, root, big)
			w.file = shortDisk{w.file.(*os.File), &room, truncate}
			const n = 8
			for i := range n {
				w.Append(Stdout, "", fmt.Appendf(nil, "%d\n", i))
			}
			lost := w.Lost()
			room = 1 << 20
			w.Append(Stdout, "", []byte("after\n"))
			all := readAll(t, root)
			require.Equal(t, "after\n", string(all[len(all)-1].Data))
			kept, said := 0, ""
			for _, e := range all {
				switch e.Source {
				case Stdout:
					kept++
				case Notice:
					said += string(e.Data)
				}
			}
			if truncate {
				require.Equal(t, int(n+1-lost.Entries), kept)
			} else {
				// One that lacked nothing but its end counts as lost.
				require.GreaterOrEqual(t, kept, int(n+1-lost.Entries))
			}
			if lost.Entries > 0 {
				require.ErrorIs(t, lost.Err, syscall.ENOSPC)
				require.Contains(t, said, fmt.Sprintf("%d entries of the log, %d bytes, were not written: no space left on device", lost.Entries, lost.Bytes))
			} else {
				require.Empty(t, said)
			}
			w.Append(Stdout, "", []byte("more\n"))
			require.Len(t, readAll(t, root), len(all)+1, "said once")
		}
	}
}

// With no room for a new file either, the old one stays within its size.
func TestNoNewFile(t *testing.T) {
	root := openDir(t)
	w := openLog(t, root, Limits{FileBytes: 500, Backups: 1})
	create, full := w.create, true
	w.create = func(name string) (file, error) {
		if full {
			return nil, syscall.ENOSPC
		}
		return create(name)
	}
	for range 100 {
		w.Append(Stdout, "", []byte("x\n"))
	}
	require.LessOrEqual(t, sizes(t, root)[1], int64(500))
	require.NotZero(t, w.Lost().Entries)
	full = false
	w.Append(Stdout, "", []byte("after\n"))
	all := readAll(t, root)
	require.Equal(t, "after\n", string(all[len(all)-1].Data))
	require.Equal(t, Notice, all[len(all)-2].Source)
}

func TestClosed(t *testing.T) {
	root := openDir(t)
	w := openLog(t, root, big)
	require.NoError(t, w.Close())
	w.Append(Stdout, "", []byte("late\n"))
	require.EqualValues(t, 1, w.Lost().Entries)
	require.NoError(t, w.Close())
	require.Empty(t, readAll(t, root))
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(`{"t":"2026-05-04T08:11:12Z","s":"stdout","d":"x\n"}`+"\n"), []byte("{"))
	f.Add([]byte("\n\n"), []byte(`{"t":"2026-05-04T08:11:12Z","s":"a","e":"base64","d":"eA=="}`+"\n"))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		root := openDir(t)
		require.NoError(t, root.WriteFile(segmentName("test", 1), one, 0o600))
		require.NoError(t, root.WriteFile(segmentName("test", 3), two, 0o600))
		all := readAll(t, root)
		require.LessOrEqual(t, len(all), 3+bytes.Count(one, []byte{'\n'})+bytes.Count(two, []byte{'\n'}))
		for _, e := range all {
			require.NotEmpty(t, e.Source)
		}
		r := NewReader(root, "test")
		defer r.Close()
		tail, err := r.Tail(5, everything)
		require.NoError(t, err)
		require.LessOrEqual(t, len(tail), 5)
		w, err := Open(root, "test", big)
		require.NoError(t, err)
		defer w.Close()
		w.Append(Stdout, "", []byte("last\n"))
		e, err := Entry{}, error(nil)
		for err == nil {
			var next Entry
			if next, err = r.Next(); err == nil {
				e = next
			}
		}
		require.True(t, errors.Is(err, io.EOF))
		require.Equal(t, "last\n", string(e.Data))
	})
}
