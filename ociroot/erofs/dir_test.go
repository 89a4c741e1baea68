package erofs_test

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/ociroot/erofs"
)

// names returns those of a directory as another reader lists them.
func names(t testing.TB, fsys fs.FS, dir string) []string {
	entries, err := fs.ReadDir(fsys, dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Directories whose entries end anywhere around the end of a block, with and
// without room beside the inode.
func TestDirectoryBlocks(t *testing.T) {
	im := newImage(t, erofs.Options{})
	file := im.addFile(im.root, "file", "x", erofs.Attr{Mode: 0o644})
	want := map[string][]string{}
	for _, n := range []int{1, 2, 13, 14, 15, 16, 30, 31, 200} {
		for length := 200; length <= 255; length += 5 {
			name := fmt.Sprintf("dir %d of %d", n, length)
			dir, err := im.w.AddDir(erofs.Attr{Mode: 0o755})
			im.put(im.root, name, dir, err)
			for i := range n {
				k := fmt.Sprintf("%03d", i) + strings.Repeat("n", length-3)
				im.put(dir, k, file, nil)
				want[name] = append(want[name], k)
			}
		}
	}
	fsys := im.finish()
	for dir, list := range want {
		require.Equal(t, list, names(t, fsys, dir))
	}
}

func TestDirectoryOf100000(t *testing.T) {
	im := newImage(t, erofs.Options{})
	file := im.addFile(im.root, "x", "x", erofs.Attr{Mode: 0o644})
	dir, err := im.w.AddDir(erofs.Attr{Mode: 0o755})
	im.put(im.root, "dir", dir, err)
	for i := range 100_000 {
		im.put(dir, fmt.Sprintf("entry %x", i*2654435761%(1<<32)), file, nil)
	}
	fsys := im.finish()
	require.Equal(t, sortedKeys(im.dirs[dir]), names(t, fsys, "dir"))
	require.Equal(t, 100_001, stat(t, fsys, "x").Nlink)
}

func TestNamesOfAnyByte(t *testing.T) {
	im := newImage(t, erofs.Options{})
	for c := 1; c < 256; c++ {
		if c != '/' && c != '.' {
			im.addFile(im.root, string([]byte{byte(c)}), "x", erofs.Attr{Mode: 0o644})
		}
		im.addFile(im.root, "."+string([]byte{byte(c)}), "x", erofs.Attr{Mode: 0o644})
		if c == '/' || c == '.' {
			delete(im.dirs[im.root], "."+string([]byte{byte(c)}))
		}
	}
	require.Len(t, im.dirs[im.root], 253+253)
	require.Equal(t, sortedKeys(im.dirs[im.root]), names(t, im.finish(), "."))
}

func TestDeepTree(t *testing.T) {
	im := newImage(t, erofs.Options{})
	dir, path := im.root, "."
	for range 300 { // fsck.erofs crashes at 1000
		sub, err := im.w.AddDir(erofs.Attr{Mode: 0o755})
		dir = im.put(dir, "d", sub, err)
		path += "/d"
	}
	im.addFile(dir, "f", "deep", erofs.Attr{Mode: 0o644})
	fsys := im.finish()
	require.Equal(t, "deep", string(readFile(t, fsys, path[2:]+"/f")))
}

func TestTreesThatCannotBe(t *testing.T) {
	for name, f := range map[string]func(im *image) erofs.Lister{
		"empty name":   func(im *image) erofs.Lister { return im.listing("") },
		"dot":          func(im *image) erofs.Lister { return im.listing(".") },
		"dot dot":      func(im *image) erofs.Lister { return im.listing("..") },
		"slash":        func(im *image) erofs.Lister { return im.listing("a/b") },
		"NUL":          func(im *image) erofs.Lister { return im.listing("a\x00") },
		"long":         func(im *image) erofs.Lister { return im.listing(strings.Repeat("n", 256)) },
		"twice":        func(im *image) erofs.Lister { return im.listing("a", "a") },
		"disorder":     func(im *image) erofs.Lister { return im.listing("b", "a") },
		"no inode":     func(im *image) erofs.Lister { return im.node("a", 99) },
		"zero":         func(im *image) erofs.Lister { return im.node("a", 0) },
		"root in root": func(im *image) erofs.Lister { return im.node("a", im.root) },
	} {
		t.Run(name, func(t *testing.T) {
			im := newImage(t, erofs.Options{})
			err := im.w.Close(im.root, f(im))
			require.ErrorIs(t, err, erofs.ErrInvalid)
		})
	}
	im := newImage(t, erofs.Options{})
	file := im.addFile(im.root, "f", "", erofs.Attr{Mode: 0o644})
	require.ErrorIs(t, im.w.Close(file, im.list), erofs.ErrInvalid)
}

// listing has one new file under each name.
func (im *image) listing(names ...string) erofs.Lister {
	file := im.addFile(im.root, "f", "", erofs.Attr{Mode: 0o644})
	return func(dir erofs.NodeID, yield func([]byte, erofs.NodeID) bool) {
		for _, n := range names {
			if !yield([]byte(n), file) {
				return
			}
		}
	}
}

func (im *image) node(name string, id erofs.NodeID) erofs.Lister {
	return func(dir erofs.NodeID, yield func([]byte, erofs.NodeID) bool) { yield([]byte(name), id) }
}

func TestManyAttributes(t *testing.T) {
	im := newImage(t, erofs.Options{})
	want := map[string]map[string]string{}
	add := func(name string, xattrs ...erofs.Xattr) {
		im.addFile(im.root, name, "x", erofs.Attr{Mode: 0o644, Xattrs: xattrs})
		want[name] = map[string]string{}
		for _, x := range xattrs {
			want[name][x.Name] = string(x.Value)
		}
	}
	big := make([]byte, 65535)
	for i := range big {
		big[i] = byte(i * 7)
	}
	add("big", erofs.Xattr{Name: "user.big", Value: big})
	add("big too", erofs.Xattr{Name: "user.big", Value: big}, erofs.Xattr{Name: "user.small", Value: []byte("s")})
	add("long", erofs.Xattr{Name: "user." + strings.Repeat("n", 255), Value: []byte("v")})
	// More than an inode can share, and more than fit into a block.
	var many []erofs.Xattr
	for i := range 400 {
		many = append(many, erofs.Xattr{Name: fmt.Sprintf("user.many%03d", i), Value: big[:i]})
	}
	add("many", many...)
	add("many too", many...)
	add("some", many[100:150]...)
	fsys := im.finish()
	for name, xattrs := range want {
		require.Equal(t, xattrs, stat(t, fsys, name).Xattrs, name)
	}
}

func TestAttributesThatCannotBe(t *testing.T) {
	im := newImage(t, erofs.Options{})
	for name, c := range map[string]struct {
		xattrs []erofs.Xattr
		err    error
	}{
		"no prefix":   {[]erofs.Xattr{{Name: "x"}}, erofs.ErrInvalid},
		"only prefix": {[]erofs.Xattr{{Name: "user."}}, erofs.ErrInvalid},
		"unknown":     {[]erofs.Xattr{{Name: "system.nfs4_acl"}}, erofs.ErrInvalid},
		"not an ACL":  {[]erofs.Xattr{{Name: "system.posix_acl_access.x"}}, erofs.ErrInvalid},
		"long":        {[]erofs.Xattr{{Name: "user." + strings.Repeat("n", 256)}}, erofs.ErrInvalid},
		"NUL":         {[]erofs.Xattr{{Name: "user.a\x00"}}, erofs.ErrInvalid},
		"twice":       {[]erofs.Xattr{{Name: "user.a"}, {Name: "user.a", Value: []byte("2")}}, erofs.ErrInvalid},
		"large":       {[]erofs.Xattr{{Name: "user.a", Value: make([]byte, 65536)}}, erofs.ErrTooLarge},
		"many": {func() (x []erofs.Xattr) {
			for i := range 5 {
				x = append(x, erofs.Xattr{Name: fmt.Sprint("user.", i), Value: make([]byte, 60000)})
			}
			return x
		}(), erofs.ErrTooLarge},
	} {
		_, err := im.w.AddDir(erofs.Attr{Xattrs: c.xattrs})
		require.ErrorIs(t, err, c.err, name)
	}
	_, err := im.w.AddDir(erofs.Attr{MtimeNsec: 1e9})
	require.ErrorIs(t, err, erofs.ErrInvalid)
	_, err = im.w.AddSpecial(erofs.Attr{Mode: 0o644})
	require.ErrorIs(t, err, erofs.ErrInvalid)
	for _, target := range []string{"", "a\x00b", strings.Repeat("x", 4096)} {
		_, err = im.w.AddSymlink(erofs.Attr{}, []byte(target))
		require.ErrorIs(t, err, erofs.ErrInvalid)
	}
	require.Empty(t, names(t, im.finish(), "."))
}
