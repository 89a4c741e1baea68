package flatten_test

import (
	"archive/tar"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

// umociUnpack has umoci unpack the layers, as root, and returns the root.
func umociUnpack(t *testing.T, layers ...[]byte) string {
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		out, err := exec.Command("umoci", args...).CombinedOutput()
		require.NoError(t, err, "umoci %v: %s; if it is missing: apt-get install umoci", args, out)
	}
	image := filepath.Join(dir, "oci") + ":t"
	run("init", "--layout", filepath.Join(dir, "oci"))
	run("new", "--image", image)
	for i, l := range layers {
		path := filepath.Join(dir, fmt.Sprint(i, ".tar"))
		require.NoError(t, os.WriteFile(path, l, 0o600))
		run("raw", "add-layer", "--image", image, path)
	}
	run("unpack", "--image", image, filepath.Join(dir, "bundle"))
	return filepath.Join(dir, "bundle", "rootfs")
}

// Layers with every kind of replacement come out as umoci unpacks them.
func TestEqualsUmoci(t *testing.T) {
	if testing.Short() {
		t.Skip("needs umoci and root, which -short leaves out")
	}
	if !inMachine(t) {
		return
	}
	at := func(sec int64, ents ...ent) []ent {
		for i := range ents {
			ents[i].ModTime = time.Unix(sec, 5)
		}
		return ents
	}
	base := append([]ent{dir("./", 0o755)}, everything(t)...)
	base = append(base, dir("dir", 0o700), file("dir/a", "a"), file("dir/b", "b"), dir("dir/sub", 0o750), file("dir/sub/x", "x"),
		dir("opq", 0o700), file("opq/a", "a"), dir("opq/sub", 0o711), file("opq/sub/x", "x"),
		dir("real", 0o755), file("real/f", "f"), symlink("to real", "real"), symlink("abs real", "/real"), symlink("up real", "../../../real"),
		file("was file", "f"), dir("was dir", 0o755), file("was dir/f", "f"), symlink("was link", "real"),
		symlink("swapped", "real"))
	second := at(1_700_000_000,
		dir("./", 0o711), dir("dir", 0o755), file("dir/a", "second"), whiteout("dir/.wh.b"), file("dir/c", "c"),
		dir("opq", 0o755), whiteout("opq/.wh..wh..opq"), file("opq/new", "n"), dir("opq/sub", 0o700), file("opq/sub/y", "y"),
		file("to real/through", "t"), file("abs real/through abs", "t"), file("up real/through up", "t"), whiteout("to real/.wh.f"),
		dir("real", 0o755),
		dir("was file", 0o755), file("was file/in", "i"), file("was dir", "now file"), file("was link", "now file"),
		dir("swapped", 0o750), file("swapped/in", "i"),
		link("hard across", "dir/sub/x"), whiteout(".wh.d"), whiteout(".wh.not there"),
		with(file("small", "replaced"), func(e *ent) { e.Mode = 0o600 }), symlink("fifo", "small"),
	)
	third := at(1_800_000_000, dir("./", 0o755), dir("dir", 0o755), whiteout("dir/.wh.sub"), whiteout(".wh.opq"), file("opq2", ""), link("harder2", "harder"))
	var layers [][]byte
	for _, l := range [][]ent{base, second, third} {
		layers = append(layers, archive(t, l...))
		want := treeManifest(t, umociUnpack(t, layers...))
		f, _, err := build(t, flatten.Options{}, layers...)
		require.NoError(t, err)
		fsck(t, f.Name())
		require.Equal(t, want, imageManifest(t, f))
	}
}

// Names that lead elsewhere are refused, or stay inside.
func TestHostileNames_Row30(t *testing.T) {
	for name, c := range map[string]struct {
		ents []ent
		want error
	}{
		"up":                       {[]ent{file("../x", "")}, flatten.ErrEscape},
		"up from root":             {[]ent{file("/../x", "")}, flatten.ErrEscape},
		"up from below":            {[]ent{dir("a", 0o755), file("a/../../x", "")}, flatten.ErrEscape},
		"up as directory":          {[]ent{dir("a/../..", 0o777)}, flatten.ErrEscape},
		"whiteout up":              {[]ent{whiteout("../.wh.x")}, flatten.ErrEscape},
		"hard link up":             {[]ent{link("x", "../../etc/passwd")}, flatten.ErrEscape},
		"hard link to nothing":     {[]ent{link("x", "/etc/passwd")}, flatten.ErrMalformed},
		"hard link to a directory": {[]ent{dir("d", 0o755), link("x", "d")}, flatten.ErrMalformed},
		"hard link to the root":    {[]ent{link("x", ".")}, flatten.ErrMalformed},
		"link as root":             {[]ent{symlink(".", "/etc")}, flatten.ErrMalformed},
		"link as /":                {[]ent{symlink("/", "/etc")}, flatten.ErrMalformed},
		"file as root":             {[]ent{file("a/..", "")}, flatten.ErrMalformed},
		"loop":                     {[]ent{symlink("a", "b"), symlink("b", "a"), file("a/x", "")}, flatten.ErrMalformed},
		"own file as directory":    {[]ent{file("a", ""), file("a/x", "")}, flatten.ErrMalformed},
		"long component":           {[]ent{file(strings.Repeat("n", 256), "")}, flatten.ErrMalformed},
		"long name":                {[]ent{file(strings.Repeat("n/", 2048)+"x", "")}, flatten.ErrMalformed},
		"deep name":                {[]ent{file(strings.Repeat("n/", 1030)+"x", "")}, flatten.ErrMalformed},
		"long target":              {[]ent{symlink("x", strings.Repeat("n/", 2048))}, flatten.ErrMalformed},
		"long implied component":   {[]ent{symlink("x", strings.Repeat("n", 256)), file("x/y", "")}, flatten.ErrMalformed},
		"whiteout of nothing":      {[]ent{whiteout(".wh.")}, flatten.ErrMalformed},
		"whiteout of .":            {[]ent{whiteout(".wh..")}, flatten.ErrMalformed},
		"whiteout of ..":           {[]ent{dir("a", 0o755), whiteout("a/.wh...")}, flatten.ErrMalformed},
		"below a whiteout":         {[]ent{file(".wh.a/b", "")}, flatten.ErrMalformed},
		"device":                   {[]ent{with(file("x", ""), func(e *ent) { e.Typeflag, e.Devmajor = tar.TypeChar, 4096 })}, flatten.ErrMalformed},
		"unknown type":             {[]ent{with(file("x", ""), func(e *ent) { e.Typeflag = 'Z' })}, flatten.ErrMalformed},
		"owner":                    {[]ent{with(file("x", ""), func(e *ent) { e.Uid = 1<<32 - 1 })}, flatten.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			last := c.ents[len(c.ents)-1].Name
			_, _, err := build(t, flatten.Options{}, archive(t, file("fine", "")), archive(t, c.ents...))
			require.ErrorIs(t, err, c.want)
			require.ErrorIs(t, err, flatten.ErrMalformed)
			var e *flatten.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, 1, e.Layer)
			require.Equal(t, last, e.Name)
		})
	}
	// These are odd and harmless.
	require.Equal(t, []string{"a->/../../etc", "etc/", "etc/x", "h->/../../etc"}, flat(t, archive(t,
		symlink("a", "/../../etc"), file("a/x", ""), link("h", "a"), link("a", "a"), link("etc/../a", "./a"))))
	require.Equal(t, []string{"b/", "b/x=1", "l->b"}, flat(t, archive(t, symlink("l", "b"), file("l/x", "1"))))
	require.Equal(t, []string{"d=in d"}, flat(t, archive(t, dir("d", 0o755), file("d/f", "in d"), link("d", "d/f"))))
	require.True(t, slices.Equal([]string{"x"}, flat(t, archive(t, dir("x", 0o700), symlink("x", "y"), file("x", "")))))
}
