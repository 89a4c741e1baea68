package flatten_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	oracle "github.com/erofs/go-erofs"
	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

// An entry of a test's archive: a header, and its content.
type ent struct {
	tar.Header
	data string
}

func file(name, data string) ent {
	return ent{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: when}, data}
}

func dir(name string, mode int64) ent {
	return ent{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, ModTime: when}, ""}
}

func symlink(name, target string) ent {
	return ent{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: when}, ""}
}

func link(name, target string) ent {
	return ent{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644, ModTime: when}, ""}
}

func whiteout(name string) ent { return file(name, "") }

func with(e ent, f func(*ent)) ent {
	f(&e)
	return e
}

var when = time.Unix(1_600_000_000, 123456789)

// archive makes a layer.
func archive(t testing.TB, ents ...ent) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range ents {
		h := e.Header
		h.Format = tar.FormatPAX
		require.NoError(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, e.data)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return buf.Bytes()
}

// build flattens layers into a file.
func build(t testing.TB, o flatten.Options, layers ...[]byte) (*os.File, flatten.Stats, error) {
	f, err := os.Create(filepath.Join(t.TempDir(), "root.erofs"))
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	b := flatten.New(f, o)
	for _, l := range layers {
		if err := b.Layer(context.Background(), bytes.NewReader(l)); err != nil {
			_, cerr := b.Close()
			require.ErrorIs(t, cerr, err)
			return nil, flatten.Stats{}, err
		}
	}
	stats, err := b.Close()
	return f, stats, err
}

// fsck has erofs-utils check an image with all its data.
func fsck(t testing.TB, path string) {
	if _, err := exec.LookPath("fsck.erofs"); testing.Short() && errors.Is(err, exec.ErrNotFound) {
		return
	}
	out, err := exec.Command("fsck.erofs", "--extract", path).CombinedOutput()
	require.NoError(t, err, "fsck.erofs: %s; if it is missing: apt-get install erofs-utils", out)
}

// flat flattens layers and returns the tree in short: "name" for files and
// "name/" for directories, with the content or target of what has one.
func flat(t testing.TB, layers ...[]byte) []string {
	f, _, err := build(t, flatten.Options{}, layers...)
	require.NoError(t, err)
	fsck(t, f.Name())
	fsys, err := oracle.Open(f)
	require.NoError(t, err)
	var lines []string
	err = fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		require.NoError(t, err, p)
		switch {
		case p == ".":
		case d.IsDir():
			lines = append(lines, p+"/")
		case d.Type()&fs.ModeSymlink != 0:
			target, err := fs.ReadLink(fsys, p)
			require.NoError(t, err)
			lines = append(lines, p+"->"+target)
		case d.Type().IsRegular():
			b, err := fs.ReadFile(fsys, p)
			require.NoError(t, err)
			lines = append(lines, strings.TrimSuffix(p+"="+string(b), "="))
		default:
			lines = append(lines, p+" "+d.Type().String())
		}
		return nil
	})
	require.NoError(t, err)
	return lines
}

func TestLayers(t *testing.T) {
	lower := []ent{
		dir("d", 0o700), file("d/a", "1"), file("d/b", "2"), dir("d/sub", 0o711), file("d/sub/x", "x"),
		file("f", "f"), symlink("l", "d"), symlink("abs", "/d/sub"), symlink("up", "../../d"),
	}
	for name, c := range map[string]struct {
		upper []ent
		want  []string
	}{
		"nothing":               {nil, []string{"abs->/d/sub", "d/", "d/a=1", "d/b=2", "d/sub/", "d/sub/x=x", "f=f", "l->d", "up->../../d"}},
		"whiteout":              {[]ent{whiteout("d/.wh.a"), whiteout(".wh.f")}, []string{"abs->/d/sub", "d/", "d/b=2", "d/sub/", "d/sub/x=x", "l->d", "up->../../d"}},
		"whiteout of directory": {[]ent{whiteout(".wh.d")}, []string{"abs->/d/sub", "f=f", "l->d", "up->../../d"}},
		"whiteout of nothing":   {[]ent{whiteout(".wh.no"), whiteout("no/.wh.no"), whiteout("f/.wh.no")}, []string{"abs->/d/sub", "d/", "d/a=1", "d/b=2", "d/sub/", "d/sub/x=x", "f=f", "l->d", "up->../../d"}},
		"opaque":                {[]ent{file("d/new", ""), whiteout("d/.wh..wh..opq"), file("d/sub/y", "y")}, []string{"abs->/d/sub", "d/", "d/new", "d/sub/", "d/sub/y=y", "f=f", "l->d", "up->../../d"}},
		"opaque root":           {[]ent{file("d/sub/y", "y"), whiteout(".wh..wh..opq")}, []string{"d/", "d/sub/", "d/sub/y=y"}},
		"own whiteout":          {[]ent{file("d/a", "new"), whiteout("d/.wh.a"), whiteout("d/.wh.b"), file("d/b", "new")}, []string{"abs->/d/sub", "d/", "d/a=new", "d/b=new", "d/sub/", "d/sub/x=x", "f=f", "l->d", "up->../../d"}},
		"through links":         {[]ent{file("l/new", "n"), file("abs/y", "y"), file("up/z", "z"), whiteout("abs/.wh.x"), link("k", "l/a")}, []string{"abs->/d/sub", "d/", "d/a=1", "d/b=2", "d/new=n", "d/sub/", "d/sub/y=y", "d/z=z", "f=f", "k=1", "l->d", "up->../../d"}},
		"file on directory":     {[]ent{file("d", "now a file")}, []string{"abs->/d/sub", "d=now a file", "f=f", "l->d", "up->../../d"}},
		"directory on file":     {[]ent{dir("f", 0o755), file("f/in", "")}, []string{"abs->/d/sub", "d/", "d/a=1", "d/b=2", "d/sub/", "d/sub/x=x", "f/", "f/in", "l->d", "up->../../d"}},
		"implied on file":       {[]ent{file("f/in", "")}, []string{"abs->/d/sub", "d/", "d/a=1", "d/b=2", "d/sub/", "d/sub/x=x", "f/", "f/in", "l->d", "up->../../d"}},
		"directory on link":     {[]ent{dir("l", 0o755), file("l/in", "")}, []string{"abs->/d/sub", "d/", "d/a=1", "d/b=2", "d/sub/", "d/sub/x=x", "f=f", "l/", "l/in", "up->../../d"}},
		"aufs":                  {[]ent{dir(".wh..wh.plnk", 0o700), file(".wh..wh.plnk/1.2", "no"), file(".wh..wh.aufs", "")}, []string{"abs->/d/sub", "d/", "d/a=1", "d/b=2", "d/sub/", "d/sub/x=x", "f=f", "l->d", "up->../../d"}},
		"overlay's whiteout":    {[]ent{with(file("d/a", ""), func(e *ent) { e.Typeflag = tar.TypeChar }), with(file("no", ""), func(e *ent) { e.Typeflag = tar.TypeChar })}, []string{"abs->/d/sub", "d/", "d/b=2", "d/sub/", "d/sub/x=x", "f=f", "l->d", "up->../../d"}},
		"odd names":             {[]ent{file("/rooted", ""), file("./d/./e//g", ""), file("d/sub/../h", ""), whiteout("./d//.wh.sub")}, []string{"abs->/d/sub", "d/", "d/a=1", "d/b=2", "d/e/", "d/e/g", "d/h", "f=f", "l->d", "rooted", "up->../../d"}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, flat(t, archive(t, lower...), archive(t, c.upper...)))
		})
	}
}
