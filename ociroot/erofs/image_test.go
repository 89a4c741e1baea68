package erofs_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	oracle "github.com/erofs/go-erofs"
	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/ociroot/erofs"
)

// image is one being made, with a tree of names.
type image struct {
	t    testing.TB
	w    *erofs.Writer
	file *os.File
	root erofs.NodeID
	dirs map[erofs.NodeID]map[string]erofs.NodeID
}

func newImage(t testing.TB, o erofs.Options) *image {
	f, err := os.Create(filepath.Join(t.TempDir(), "image.erofs"))
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	im := &image{t: t, w: erofs.NewWriter(f, o), file: f, dirs: map[erofs.NodeID]map[string]erofs.NodeID{}}
	im.root, err = im.w.AddDir(erofs.Attr{Mode: 0o755})
	require.NoError(t, err)
	return im
}

func (im *image) put(dir erofs.NodeID, name string, id erofs.NodeID, err error) erofs.NodeID {
	require.NoError(im.t, err)
	if im.dirs[dir] == nil {
		im.dirs[dir] = map[string]erofs.NodeID{}
	}
	im.dirs[dir][name] = id
	return id
}

func (im *image) data(content string) erofs.Data {
	d, err := im.w.WriteData(strings.NewReader(content), int64(len(content)))
	require.NoError(im.t, err)
	return d
}

func (im *image) addFile(dir erofs.NodeID, name, content string, a erofs.Attr) erofs.NodeID {
	d := im.data(content)
	id, err := im.w.AddFile(a, d)
	return im.put(dir, name, id, err)
}

func (im *image) list(dir erofs.NodeID, yield func([]byte, erofs.NodeID) bool) {
	for _, name := range sortedKeys(im.dirs[dir]) {
		if !yield([]byte(name), im.dirs[dir][name]) {
			return
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// finish closes the image, has fsck.erofs check it, and opens it with another
// reader.
func (im *image) finish() fs.FS {
	require.NoError(im.t, im.w.Close(im.root, im.list))
	info, err := im.file.Stat()
	require.NoError(im.t, err)
	require.Equal(im.t, im.w.Size(), info.Size())
	fsck(im.t, im.file.Name())
	fsys, err := oracle.Open(im.file)
	require.NoError(im.t, err)
	return fsys
}

// fsck runs erofs-utils' checker, which also reads all data.
func fsck(t testing.TB, path string) {
	if testing.Short() {
		if _, err := exec.LookPath("fsck.erofs"); errors.Is(err, exec.ErrNotFound) {
			return // the readers of this test remain
		}
	}
	out, err := exec.Command("fsck.erofs", "--extract", path).CombinedOutput()
	require.NoError(t, err, "fsck.erofs: %s; if it is missing: apt-get install erofs-utils", out)
	require.NotContains(t, string(out), "<E>")
}

func readFile(t testing.TB, fsys fs.FS, name string) []byte {
	f, err := fsys.Open(name)
	require.NoError(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	return b
}

func stat(t testing.TB, fsys fs.FS, name string) *oracle.Stat {
	info, err := fs.Lstat(fsys, name)
	require.NoError(t, err)
	return info.Sys().(*oracle.Stat)
}

func TestEmpty(t *testing.T) {
	im := newImage(t, erofs.Options{})
	fsys := im.finish()
	entries, err := fs.ReadDir(fsys, ".")
	require.NoError(t, err)
	require.Empty(t, entries)
	require.Equal(t, int64(2*4096), im.w.Size())
}

func TestAttributesAndTypes(t *testing.T) {
	im := newImage(t, erofs.Options{VolumeName: "a volume with a name", UUID: [16]byte{1, 2, 3}})
	xattrs := []erofs.Xattr{
		{Name: "user.b", Value: []byte("two\x00\n")},
		{Name: "user.a", Value: nil},
		{Name: "security.capability", Value: []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
	}
	file := im.addFile(im.root, "file", "hello\n", erofs.Attr{Mode: 0o4755, UID: 70000, GID: 1 << 31, Mtime: -5, MtimeNsec: 999999999, Xattrs: xattrs})
	im.put(im.root, "hard", file, nil)
	im.addFile(im.root, "same", "", erofs.Attr{Mode: 0o600, Xattrs: xattrs[:1]})
	sub, err := im.w.AddDir(erofs.Attr{Mode: 0o1777})
	im.put(im.root, "-sub", sub, err)
	for name, mode := range map[string]uint16{
		"char": erofs.ModeChar | 0o666, "block": erofs.ModeBlock | 0o660,
		"fifo": erofs.ModeFIFO | 0o600, "sock": erofs.ModeSocket | 0o700,
	} {
		dev, ok := erofs.MakeDev(0xabc, 0xfedcb)
		require.True(t, ok)
		id, err := im.w.AddSpecial(erofs.Attr{Mode: mode, Rdev: dev})
		im.put(sub, name, id, err)
	}
	for name, n := range map[string]int{"short": 1, "long": 4095, "inline": 4032, "outline": 4033} {
		id, err := im.w.AddSymlink(erofs.Attr{Mode: 0o777}, bytes.Repeat([]byte{'x'}, n))
		im.put(sub, name, id, err)
	}
	fsys := im.finish()

	require.Equal(t, "hello\n", string(readFile(t, fsys, "hard")))
	s := stat(t, fsys, "file")
	require.Equal(t, fs.ModeSetuid|0o755, s.Mode)
	require.Equal(t, []any{uint32(70000), uint32(1 << 31), int64(-5), uint32(999999999), 2},
		[]any{s.UID, s.GID, int64(s.Mtime), s.MtimeNs, s.Nlink})
	require.Equal(t, map[string]string{"user.b": "two\x00\n", "user.a": "", "security.capability": string(xattrs[2].Value)}, s.Xattrs)
	require.Equal(t, map[string]string{"user.b": "two\x00\n"}, stat(t, fsys, "same").Xattrs)
	require.Equal(t, stat(t, fsys, "hard").Ino, s.Ino)
	require.Equal(t, fs.ModeDir|fs.ModeSticky|0o777, stat(t, fsys, "-sub").Mode)
	require.Equal(t, 3, stat(t, fsys, ".").Nlink)
	require.Equal(t, fs.ModeDevice|fs.ModeCharDevice|0o666, stat(t, fsys, "-sub/char").Mode)
	require.Equal(t, uint32(0xcb|0xabc<<8|0xfed<<20), stat(t, fsys, "-sub/block").Rdev)
	for name, n := range map[string]int{"short": 1, "long": 4095, "inline": 4032, "outline": 4033} {
		target, err := fs.ReadLink(fsys, "-sub/"+name)
		require.NoError(t, err)
		require.Equal(t, strings.Repeat("x", n), target)
	}
}
