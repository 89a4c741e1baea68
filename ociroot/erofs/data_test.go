package erofs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/ociroot/erofs"
)

const chunk = 64 << 10

func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32()) | 1
	}
	return b
}

func TestFileSizes(t *testing.T) {
	im := newImage(t, erofs.Options{})
	want := map[string][]byte{}
	for _, n := range []int{0, 1, 4095, 4096, 4097, 8192, chunk - 1, chunk, chunk + 1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3<<20 + 12345} {
		name := fmt.Sprint(n)
		want[name] = noise(uint64(n), n)
		// However the reader gives its bytes.
		d, err := im.w.WriteData(iotest.HalfReader(iotest.DataErrReader(bytes.NewReader(want[name]))), int64(n))
		require.NoError(t, err)
		require.Equal(t, int64(n), d.Size())
		id, err := im.w.AddFile(erofs.Attr{Mode: 0o644}, d)
		im.put(im.root, name, id, err)
	}
	fsys := im.finish()
	for name, b := range want {
		require.True(t, bytes.Equal(b, readFile(t, fsys, name)), name)
	}
}

// Files with holes anywhere take space for the rest only.
func TestSparseFiles(t *testing.T) {
	im := newImage(t, erofs.Options{})
	want := map[string][]byte{}
	stored := 0
	for pattern := range 1 << 6 {
		for _, end := range []int{1, 5000, chunk} {
			b := make([]byte, 5*chunk+end)
			for i := range 6 {
				if pattern&(1<<i) != 0 {
					// One byte anywhere makes a chunk data.
					c := b[i*chunk : min((i+1)*chunk, len(b))]
					c[(pattern*7919+i*104729)%len(c)] = 1
					stored += (len(c) + 4095) / 4096
				}
			}
			name := fmt.Sprintf("%06b %d", pattern, end)
			want[name] = b
			im.addFile(im.root, name, string(b), erofs.Attr{Mode: 0o644})
		}
	}
	fsys := im.finish()
	for name, b := range want {
		require.True(t, bytes.Equal(b, readFile(t, fsys, name)), name)
	}
	require.Less(t, im.w.Size()/4096, int64(stored+20))
}

func TestHugeHole(t *testing.T) {
	im := newImage(t, erofs.Options{})
	const size = 1<<30 + 5
	d, err := im.w.WriteData(io.MultiReader(io.LimitReader(zeros{}, size-5), strings.NewReader("12345")), size)
	require.NoError(t, err)
	id, err := im.w.AddFile(erofs.Attr{Mode: 0o644}, d)
	im.put(im.root, "f", id, err)
	im.finish()
	require.Less(t, im.w.Size(), int64(100<<10))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// What an upper layer replaces is not in the image any more, and takes no space.
func TestDiscard(t *testing.T) {
	im := newImage(t, erofs.Options{})
	secret := strings.Repeat("secret!!", 1<<20)
	attr := erofs.Attr{Mode: 0o644}
	im.addFile(im.root, "before", "b", attr)
	gone := im.addFile(im.root, "gone", secret, attr)
	sparse := im.addFile(im.root, "sparse", strings.Repeat("\x00", chunk)+secret[:3*chunk]+strings.Repeat("\x00", chunk)+"secret", attr)
	im.addFile(im.root, "after", "a", attr)
	d := im.data("secret")
	require.NoError(t, im.w.Discard(d))
	for _, id := range []erofs.NodeID{gone, sparse} {
		im.w.Link(id)
		im.w.Link(id)
		require.NoError(t, im.w.Unlink(id))
		require.NoError(t, im.w.Unlink(id))
		require.ErrorIs(t, im.w.Unlink(id), erofs.ErrInvalid)
	}
	delete(im.dirs[im.root], "gone")
	delete(im.dirs[im.root], "sparse")
	// A new inode may have the old one's number, and shares nothing with it.
	im.addFile(im.root, "new", "n", attr)
	fsys := im.finish()
	require.Equal(t, []string{"after", "before", "new"}, names(t, fsys, "."))
	require.Equal(t, "n", string(readFile(t, fsys, "new")))
	require.Equal(t, "a", string(readFile(t, fsys, "after")))
	b, err := os.ReadFile(im.file.Name())
	require.NoError(t, err)
	require.False(t, bytes.Contains(b, []byte("secret")))
	var st unix.Stat_t
	require.NoError(t, unix.Stat(im.file.Name(), &st))
	require.Greater(t, st.Size, int64(8<<20))
	require.Less(t, st.Blocks*512, int64(1<<20), "the space is still taken")
}

func TestReaderFails(t *testing.T) {
	im := newImage(t, erofs.Options{})
	boom := errors.New("boom")
	secret := strings.Repeat("secret!!", 1<<18)
	for _, size := range []int64{1, 5000, 3 << 20} {
		_, err := im.w.WriteData(io.MultiReader(io.LimitReader(strings.NewReader(secret), size-1), iotest.ErrReader(boom)), size)
		require.Equal(t, boom, err)
		_, err = im.w.WriteData(strings.NewReader(secret[:min(size-1, int64(len(secret)))]), size)
		require.Equal(t, io.ErrUnexpectedEOF, err)
	}
	_, err := im.w.WriteData(nil, -1)
	require.ErrorIs(t, err, erofs.ErrInvalid)
	_, err = im.w.WriteData(nil, 1<<62)
	require.ErrorIs(t, err, erofs.ErrTooLarge)
	im.addFile(im.root, "fine", "fine", erofs.Attr{Mode: 0o644})
	fsys := im.finish()
	require.Equal(t, "fine", string(readFile(t, fsys, "fine")))
	b, err := os.ReadFile(im.file.Name())
	require.NoError(t, err)
	require.False(t, bytes.Contains(b, []byte("secret")))
}

// brokenOutput fails after some writes.
type brokenOutput struct {
	memory
	writes int
}

func (o *brokenOutput) WriteAt(p []byte, off int64) (int, error) {
	if o.writes--; o.writes < 0 {
		return 0, unix.ENOSPC
	}
	return o.memory.WriteAt(p, off)
}

// memory is an output without a file.
type memory []byte

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(*m) {
		*m = append(*m, make([]byte, need-len(*m))...)
	}
	return copy((*m)[off:], p), nil
}

func (m *memory) Truncate(size int64) error {
	*m = append((*m)[:min(int64(len(*m)), size)], make([]byte, max(0, size-int64(len(*m))))...)
	return nil
}

func TestOutputFails(t *testing.T) {
	for writes := range 5 {
		out := &brokenOutput{writes: writes}
		w := erofs.NewWriter(out, erofs.Options{})
		root, err := w.AddDir(erofs.Attr{})
		require.NoError(t, err)
		_, err = w.WriteData(bytes.NewReader(noise(1, 3<<20)), 3<<20)
		if err == nil {
			err = w.Close(root, func(erofs.NodeID, func([]byte, erofs.NodeID) bool) {})
		}
		require.ErrorIs(t, err, unix.ENOSPC, writes)
		var e *erofs.Error
		require.ErrorAs(t, err, &e)
		_, again := w.WriteData(strings.NewReader("x"), 1)
		require.ErrorIs(t, again, unix.ENOSPC)
		require.ErrorIs(t, w.Close(root, nil), unix.ENOSPC)
		// There is no superblock: nothing takes this for an image.
		require.False(t, bytes.Contains(out.memory, []byte{0xe2, 0xe1, 0xf5, 0xe0}))
	}
	im := newImage(t, erofs.Options{})
	im.finish()
	_, err := im.w.AddDir(erofs.Attr{})
	require.ErrorIs(t, err, erofs.ErrClosed)
	require.ErrorIs(t, im.w.Close(im.root, im.list), erofs.ErrClosed)
	require.NoError(t, im.file.Close())
	w := erofs.NewWriter(im.file, erofs.Options{})
	_, err = w.AddDir(erofs.Attr{})
	require.ErrorIs(t, err, os.ErrClosed)
}

// An output that cannot punch holes gets the same bytes as one that can.
func TestSameBytes(t *testing.T) {
	fill := func(w *erofs.Writer) {
		root, err := w.AddDir(erofs.Attr{Mode: 0o755, Xattrs: []erofs.Xattr{{Name: "user.a"}, {Name: "user.b"}}})
		require.NoError(t, err)
		list := map[string]erofs.NodeID{}
		for i := range 50 {
			b := noise(uint64(i), i*5000)
			d, err := w.WriteData(bytes.NewReader(b), int64(len(b)))
			require.NoError(t, err)
			if i%3 == 0 {
				require.NoError(t, w.Discard(d))
				continue
			}
			list[fmt.Sprintf("%02d", i)], err = w.AddFile(erofs.Attr{Mode: 0o600, Xattrs: []erofs.Xattr{{Name: "user.b"}, {Name: "user.a"}}}, d)
			require.NoError(t, err)
		}
		require.NoError(t, w.Close(root, func(_ erofs.NodeID, yield func([]byte, erofs.NodeID) bool) {
			for _, name := range sortedKeys(list) {
				if !yield([]byte(name), list[name]) {
					return
				}
			}
		}))
	}
	o := erofs.Options{BuildTime: time.Unix(1, 2), VolumeName: "v"}
	var m memory = []byte("what was there before")
	fill(erofs.NewWriter(&m, o))
	im := newImage(t, o)
	fill(im.w)
	b, err := os.ReadFile(im.file.Name())
	require.NoError(t, err)
	require.True(t, bytes.Equal(m, b))
	fsck(t, im.file.Name())
}

func TestSuperblock(t *testing.T) {
	if _, err := exec.LookPath("dump.erofs"); errors.Is(err, exec.ErrNotFound) && testing.Short() {
		t.Skip("needs dump.erofs, which -short leaves out")
	}
	im := newImage(t, erofs.Options{
		BuildTime: time.Unix(1_600_000_000, 5), VolumeName: "a name that is too long", UUID: [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
	})
	im.addFile(im.root, "f", "x", erofs.Attr{Mode: 0o644})
	im.addFile(im.root, "sparse", strings.Repeat("\x00", chunk), erofs.Attr{Mode: 0o644})
	im.finish()
	out, err := exec.Command("dump.erofs", "-s", "-S", im.file.Name()).CombinedOutput()
	require.NoError(t, err, "dump.erofs: %s; if it is missing: apt-get install erofs-utils", out)
	for _, want := range []string{"01020304-0506-0708-090a-0b0c0d0e0f10", "mtime", "chunked_file", "sb_csum"} {
		require.Contains(t, string(out), want)
	}
	require.Regexp(t, `inode count:\s+3\n`, string(out))
	b, err := os.ReadFile(im.file.Name())
	require.NoError(t, err)
	require.Equal(t, "a name that is \x00", string(b[1024+64:1024+80]))
}
