package flatten_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

// Archives of GNU tar, in each of its formats, of files that each can express.
func TestTarFormats(t *testing.T) {
	if _, err := exec.LookPath("tar"); errors.Is(err, exec.ErrNotFound) && testing.Short() {
		t.Skip("needs tar, which -short leaves out")
	}
	dir := t.TempDir()
	sub := filepath.Join(dir, "tree")
	require.NoError(t, os.MkdirAll(filepath.Join(sub, "d"), 0o750))
	sparse := make([]byte, 3<<20)
	copy(sparse[1<<20:], "data")
	copy(sparse[3<<20-1:], "e")
	require.NoError(t, os.WriteFile(filepath.Join(sub, "d/plain"), noise(5000), 0o640))
	f, err := os.Create(filepath.Join(sub, "sparse"))
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("data"), 1<<20)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("e"), 3<<20-1)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, os.Symlink("d/plain", filepath.Join(sub, "link")))
	require.NoError(t, os.Link(filepath.Join(sub, "d/plain"), filepath.Join(sub, "hard")))
	names := []string{"d", "hard", "link", "sparse"}
	long := []string{strings.Repeat("long/", 60) + "name", "\xff\xfe"}
	for _, name := range long {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(sub, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(sub, name), []byte("long"), 0o600))
	}
	for _, path := range []string{"d/plain", "sparse", "d", long[0], long[1]} {
		require.NoError(t, os.Chtimes(filepath.Join(sub, path), when, when.Truncate(time.Second)))
	}
	all := append([]string{"long", "\xff\xfe"}, names...)
	for name, c := range map[string]struct {
		flags []string
		names []string
	}{
		"v7":         {[]string{"--format=v7"}, names},
		"ustar":      {[]string{"--format=ustar"}, names},
		"oldgnu":     {[]string{"--format=oldgnu", "-S"}, all},
		"gnu":        {[]string{"--format=gnu", "-S"}, all},
		"posix":      {[]string{"--format=posix"}, all},
		"sparse 0.0": {[]string{"--format=posix", "-S", "--sparse-version=0.0"}, all},
		"sparse 0.1": {[]string{"--format=posix", "-S", "--sparse-version=0.1"}, all},
		"sparse 1.0": {[]string{"--format=posix", "-S", "--sparse-version=1.0"}, all},
		"global":     {[]string{"--format=posix", "--pax-option=comment=a global header"}, all},
	} {
		t.Run(name, func(t *testing.T) {
			layer, err := exec.Command("tar", append(append([]string{"-C", sub, "-cf", "-"}, c.flags...), c.names...)...).Output()
			require.NoError(t, err)
			f, _, err := build(t, flatten.Options{}, layer)
			require.NoError(t, err)
			fsck(t, f.Name())
			got := strings.Join(imageManifest(t, f), "\n")
			for _, line := range treeManifest(t, sub) {
				path := strings.Split(line, `"`)[1]
				switch {
				case path == ".", strings.HasPrefix(path, "long") && len(c.names) == len(names), strings.HasPrefix(path, `\xff`) && len(c.names) == len(names):
				case path == "link", strings.HasPrefix(path, "long"), path == "d":
					// Their time has nanoseconds, which only PAX keeps.
					require.Contains(t, got, `"`+path+`" `)
				default:
					require.Contains(t, got, line)
				}
			}
		})
	}
}

// What overlayfs would take for its own is harmless, and not lost.
func TestOverlayNames(t *testing.T) {
	attrs := func(e *ent) {
		e.PAXRecords = map[string]string{}
		for _, name := range []string{"trusted.overlay.opaque", "trusted.overlay.overlay.x", "user.overlay.opaque", "trusted.overlayx"} {
			e.PAXRecords["SCHILY.xattr."+name] = "y"
		}
	}
	f, _, err := build(t, flatten.Options{}, archive(t, with(dir("d", 0o755), attrs)))
	require.NoError(t, err)
	lines := imageManifest(t, f)
	require.Len(t, lines, 2)
	require.True(t, strings.HasSuffix(lines[1],
		" trusted.overlay.overlay.opaque=79 trusted.overlay.overlay.overlay.x=79 trusted.overlayx=79 user.overlay.opaque=79"), lines[1])
}

// Two attributes that are the same one in the end, in whatever order a map has
// them.
func TestSameAttributeTwice(t *testing.T) {
	_, _, err := build(t, flatten.Options{}, archive(t, with(file("f", ""), func(e *ent) {
		e.PAXRecords = map[string]string{"SCHILY.xattr.user.a%25": "1", "SCHILY.xattr.user.a%": "2"}
	})))
	require.ErrorIs(t, err, flatten.ErrMalformed)
}

// A directory that only exists in the upper layer because of what is in it does
// not keep what an opaque whiteout hides, whichever comes first.
func TestOpaqueOrder(t *testing.T) {
	lower := archive(t, dir("d", 0o700), dir("d/sub", 0o500), file("d/sub/old", ""))
	mark := whiteout("d/.wh..wh..opq")
	in := with(file("d/sub/new", ""), func(e *ent) { e.ModTime = time.Unix(0, 0) })
	var first []string
	for _, upper := range [][]ent{{mark, in}, {in, mark}, {in, mark, mark}, {mark, in, mark}} {
		f, _, err := build(t, flatten.Options{}, lower, archive(t, upper...))
		require.NoError(t, err)
		lines := imageManifest(t, f)
		if first == nil {
			first = lines
			require.Len(t, lines, 4)
		}
		require.Equal(t, first, lines)
	}
}

// Regular files by other letters.
func TestOldTypes(t *testing.T) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "contiguous", Size: 4, Mode: 0o600}))
	_, err := io.WriteString(w, "data")
	require.NoError(t, err)
	require.NoError(t, w.Close())
	b := buf.Bytes()
	b[156] = tar.TypeCont
	fixChecksum(b[:512])
	require.Equal(t, []string{"contiguous=data"}, flat(t, b))
	b[156] = 0 // V7's regular file
	fixChecksum(b[:512])
	require.Equal(t, []string{"contiguous=data"}, flat(t, b))
}
