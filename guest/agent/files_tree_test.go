package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A tree is not copied into itself, whatever names lead there.
func TestCopyTreeIntoItself(t *testing.T) {
	top := t.TempDir()
	require.NoError(t, os.MkdirAll(top+"/src/sub/deep", 0o755))
	require.NoError(t, os.Mkdir(top+"/elsewhere", 0o755))
	require.NoError(t, os.WriteFile(top+"/src/f", []byte("x"), 0o644))
	require.NoError(t, os.Symlink(top+"/src/sub", top+"/link"))
	require.NoError(t, os.Symlink("link/deep", top+"/link2"))
	require.NoError(t, os.Symlink("../elsewhere", top+"/src/out"))
	count := func(dir string) (n int) {
		require.NoError(t, filepath.WalkDir(dir, func(string, os.DirEntry, error) error { n++; return nil }))
		return n
	}
	before := count(top)
	for _, dst := range []string{
		"/src", "/src/", "/src/.", "/src/new", "/src/sub", "/src/sub/new", "/link", "/link/new", "/link/new/", "/link2", "/link2/new", "/link2/../new",
		"/elsewhere/../src/new", "/src/none/new", "/src/f/new", "/link/none/new", "/src/sub/deep/../..",
	} {
		c := treeCopy{ctx: t.Context()}
		require.ErrorIs(t, c.run(top+"/src", top+dst), unix.EINVAL, dst)
		require.Equal(t, before, count(top), dst)
	}
	for _, dst := range []string{"/copy", "/elsewhere/copy", "/src/out/copy2", "/link/../../copy3"} {
		c := treeCopy{ctx: t.Context()}
		require.NoError(t, c.run(top+"/src", top+dst), dst)
	}
	for _, dst := range []string{"/copy", "/elsewhere/copy", "/elsewhere/copy2", "/copy3"} {
		got, err := os.ReadFile(top + dst + "/f")
		require.NoError(t, err)
		require.Equal(t, "x", string(got))
	}
	c := treeCopy{ctx: t.Context()}
	require.ErrorIs(t, c.run(top+"/src", top+"/none/new"), unix.ENOENT)
	require.Error(t, c.run(top+"/src", ""))
}
