package flatten_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/ociroot/erofs"
	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

func TestLimits_Row31(t *testing.T) {
	many := func(n int) []byte {
		var ents []ent
		for i := range n {
			ents = append(ents, file(fmt.Sprint(i), "0123456789"))
		}
		return archive(t, ents...)
	}
	deep := archive(t, file(strings.Repeat("d/", 99)+"f", ""))
	attrs := func(n int) []byte {
		return archive(t, with(file("f", ""), func(e *ent) {
			e.PAXRecords = map[string]string{"SCHILY.xattr.user.a": strings.Repeat("v", n)}
		}))
	}
	for name, c := range map[string]struct {
		limits flatten.Limits
		layers [][]byte
		field  string
	}{
		"entries":               {flatten.Limits{Entries: 100}, [][]byte{many(100)}, ""},
		"an entry more":         {flatten.Limits{Entries: 100}, [][]byte{many(101)}, "Entries"},
		"over layers":           {flatten.Limits{Entries: 100}, [][]byte{many(50), many(51)}, "Entries"},
		"implied directories":   {flatten.Limits{Entries: 100}, [][]byte{deep}, ""},
		"one more of them":      {flatten.Limits{Entries: 99}, [][]byte{deep}, "Entries"},
		"whiteouts":             {flatten.Limits{Entries: 1}, [][]byte{archive(t, whiteout(".wh.a"), whiteout(".wh.b"))}, "Entries"},
		"bytes":                 {flatten.Limits{Bytes: int64(len(many(100)))}, [][]byte{many(100)}, ""},
		"bytes of the archive":  {flatten.Limits{Bytes: int64(len(many(100)) - 1)}, [][]byte{many(100)}, "Bytes"},
		"bytes over layers":     {flatten.Limits{Bytes: 2 * int64(len(many(10)))}, [][]byte{many(10), many(10), many(1)}, "Bytes"},
		"bytes that are behind": {flatten.Limits{Bytes: 1 << 20}, [][]byte{append(many(1), make([]byte, 1<<20)...)}, "Bytes"},
		"names":                 {flatten.Limits{NameBytes: 290}, [][]byte{many(100)}, ""},
		"more names":            {flatten.Limits{NameBytes: 289}, [][]byte{many(100)}, "NameBytes"},
		"targets":               {flatten.Limits{NameBytes: 1000}, [][]byte{archive(t, symlink("l", strings.Repeat("x", 1000)))}, "NameBytes"},
		"attributes":            {flatten.Limits{NameBytes: 1000}, [][]byte{attrs(1000)}, "NameBytes"},
		"attributes of the root": {flatten.Limits{NameBytes: 1000}, [][]byte{archive(t, with(dir("./", 0o755), func(e *ent) {
			e.PAXRecords = map[string]string{"SCHILY.xattr.user.a": strings.Repeat("v", 1000)}
		}))}, "NameBytes"},
	} {
		t.Run(name, func(t *testing.T) {
			f, _, err := build(t, flatten.Options{Limits: c.limits}, c.layers...)
			if c.field == "" {
				require.NoError(t, err)
				fsck(t, f.Name())
				return
			}
			require.ErrorIs(t, err, flatten.ErrLimit)
			require.NotErrorIs(t, err, flatten.ErrMalformed)
			var e *flatten.LimitError
			require.ErrorAs(t, err, &e)
			require.Equal(t, c.field, e.Field)
			require.Contains(t, err.Error(), "raise Limits."+c.field)
		})
	}
}

// A few bytes that claim to be terabytes are refused before a byte is made of
// them, and a sparse file within the limit takes no space.
func TestSparseBomb_Row31(t *testing.T) {
	sparse := func(size int64) []byte {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		// GNU's PAX format 1.0: a map in front of the data, of no extent but the
		// end's.
		body := fmt.Sprintf("1\n%d\n0\n", size)
		body += strings.Repeat("\x00", 512-len(body))
		// The writer of archive/tar refuses such records; so write them ourselves.
		records := ""
		for _, kv := range [][2]string{{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.name", "bomb"}, {"GNU.sparse.realsize", fmt.Sprint(size)}} {
			for n := len(kv[0]) + len(kv[1]) + 3; ; n++ {
				if r := fmt.Sprintf("%d %s=%s\n", n, kv[0], kv[1]); len(r) == n {
					records += r
					break
				}
			}
		}
		require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "pax", Size: int64(len(records))}))
		_, err := io.WriteString(w, records)
		require.NoError(t, err)
		require.NoError(t, w.Flush())
		b := buf.Bytes()
		b[156] = 'x'
		fixChecksum(b[:512])
		require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "sparse", Size: int64(len(body))}))
		_, err = io.WriteString(w, body)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return buf.Bytes()
	}
	start := time.Now()
	_, _, err := build(t, flatten.Options{}, sparse(1<<50))
	require.ErrorIs(t, err, flatten.ErrLimit)
	require.Less(t, time.Since(start), 5*time.Second)
	f, stats, err := build(t, flatten.Options{}, sparse(1<<28))
	require.NoError(t, err)
	require.Equal(t, int64(1<<28), stats.Bytes)
	require.Less(t, stats.ImageBytes, int64(1<<16))
	fsck(t, f.Name())
}

// fixChecksum makes a tar header's checksum right.
func fixChecksum(h []byte) {
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

// Work grows with the layer, not with the square of it.
func TestManyWhiteouts_Row31(t *testing.T) {
	const n = 20_000
	var lower, upper []ent
	for i := range n {
		lower = append(lower, file(fmt.Sprintf("d/%d", i), ""))
		upper = append(upper, file(fmt.Sprintf("d/e/new%d", i), ""), file(fmt.Sprint("new", i), ""), whiteout("d/.wh..wh..opq"), whiteout(".wh..wh..opq"), whiteout(".wh.d"))
	}
	chain := ""
	for range 500 {
		chain += "c/"
		upper = append(upper, dir(chain[:len(chain)-1], 0o755))
	}
	for i := 2; i <= len(chain); i += 2 {
		upper = append(upper, whiteout(chain[:i]+".wh..wh..opq"), whiteout(chain[:len(chain)-i]+".wh..wh..opq"))
	}
	start := time.Now()
	_, stats, err := build(t, flatten.Options{}, archive(t, lower...), archive(t, upper...))
	require.NoError(t, err)
	require.Equal(t, int64(2*n), stats.Files)
	require.Less(t, time.Since(start), 20*time.Second)
}

func TestDamagedArchives(t *testing.T) {
	good := archive(t, file("a", "content"), file("b", strings.Repeat("x", 100_000)))
	for _, n := range []int{1, 511, 513, 1025, 1536 + 3, 2048 + 1536 + 100, len(good) / 2} {
		_, _, err := build(t, flatten.Options{}, good[:n])
		require.ErrorIs(t, err, flatten.ErrMalformed, n)
	}
	bad := bytes.Clone(good)
	bad[0] ^= 1
	_, _, err := build(t, flatten.Options{}, bad)
	require.ErrorIs(t, err, flatten.ErrMalformed)
	_, _, err = build(t, flatten.Options{}, []byte("this is no archive, whatever it is"))
	require.ErrorIs(t, err, flatten.ErrMalformed)

	// The archive's end may be missing, and a layer may be empty.
	for _, l := range [][]byte{nil, make([]byte, 1024), good[:len(good)-1024]} {
		_, _, err = build(t, flatten.Options{}, l)
		require.NoError(t, err)
	}
}

// The reader's errors are not the archive's, nor are those of the output.
func TestWhoseError(t *testing.T) {
	boom := errors.New("boom")
	layer := archive(t, file("a", strings.Repeat("x", 3<<20)))
	for _, n := range []int64{0, 100, 600, 100_000, 2 << 20, int64(len(layer))} {
		b := flatten.New(discard{}, flatten.Options{})
		err := b.Layer(context.Background(), io.MultiReader(io.LimitReader(bytes.NewReader(layer), n), iotest.ErrReader(boom)))
		require.ErrorIs(t, err, boom, n)
		require.NotErrorIs(t, err, flatten.ErrMalformed)
		_, again := b.Close()
		require.Equal(t, err, again)
		require.Equal(t, err, b.Layer(context.Background(), bytes.NewReader(layer)))
		require.Equal(t, err, b.Tree(context.Background(), nil))
	}

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := flatten.New(discard{}, flatten.Options{}).Layer(ctx, bytes.NewReader(layer))
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, flatten.ErrMalformed)

	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	require.NoError(t, err)
	defer full.Close()
	b := flatten.New(noTruncate{full}, flatten.Options{})
	err = b.Layer(context.Background(), bytes.NewReader(layer))
	require.ErrorIs(t, err, unix.ENOSPC)
	require.NotErrorIs(t, err, flatten.ErrMalformed)
	var e *erofs.Error
	require.ErrorAs(t, err, &e)

	f, err := os.Open("/dev/null")
	require.NoError(t, err)
	defer f.Close()
	_, err = flatten.New(f, flatten.Options{}).Close()
	require.ErrorAs(t, err, &e)
	b = flatten.New(discard{}, flatten.Options{})
	_, err = b.Close()
	require.NoError(t, err)
	_, err = b.Close()
	require.ErrorIs(t, err, flatten.ErrClosed)
	require.ErrorIs(t, b.Layer(context.Background(), bytes.NewReader(layer)), flatten.ErrClosed)
}

// discard is an output that keeps nothing.
type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (discard) Truncate(int64) error                   { return nil }

type noTruncate struct{ *os.File }

func (noTruncate) Truncate(int64) error { return nil }

// Everything of a layer is read: its digest is over all of it.
func TestReadsToTheEnd(t *testing.T) {
	layer := append(archive(t, file("a", "")), bytes.Repeat([]byte("behind"), 1<<20)...)
	r := bytes.NewReader(layer)
	b := flatten.New(discard{}, flatten.Options{})
	require.NoError(t, b.Layer(context.Background(), r))
	require.Zero(t, r.Len())
}

func TestSameBytes(t *testing.T) {
	layers := [][]byte{archive(t, everything(t)...), archive(t, whiteout(".wh.d"), file("x", "y"), file("a/b/c", "implied"))}
	var first []byte
	for range 3 {
		f, _, err := build(t, flatten.Options{Image: erofs.Options{BuildTime: when}}, layers...)
		require.NoError(t, err)
		b, err := os.ReadFile(f.Name())
		require.NoError(t, err)
		if first == nil {
			first = b
		}
		require.True(t, bytes.Equal(first, b))
	}
}

func TestStats(t *testing.T) {
	_, stats, err := build(t, flatten.Options{}, archive(t, file("gone", "x"), file("a", "123"), dir("d", 0o755)),
		archive(t, whiteout(".wh.gone"), link("b", "a"), link("d/c", "b"), symlink("s", "a"), file("d/e/f", "45"),
			with(file("fifo", ""), func(e *ent) { e.Typeflag = tar.TypeFifo }),
			with(file("x", ""), func(e *ent) {
				e.PAXRecords = map[string]string{"SCHILY.xattr.system.nfs4_acl": "v", "SCHILY.xattr.user.a": "v"}
			})))
	require.NoError(t, err)
	require.NotZero(t, stats.ImageBytes)
	stats.ImageBytes = 0
	require.Equal(t, flatten.Stats{Layers: 2, Files: 3, Dirs: 3, Symlinks: 1, Specials: 1, Links: 2, Bytes: 5, DroppedXattrs: 1}, stats)
}

func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*i>>3 + i)
	}
	return b
}
