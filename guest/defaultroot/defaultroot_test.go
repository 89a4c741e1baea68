package defaultroot

import (
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/erofs/go-erofs"
	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/guest/userland"
)

func openImage(t *testing.T) (fs.FS, *os.File) {
	t.Helper()
	f, err := Image().Open(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	require.NoError(t, Image().Verify(f))
	img, err := erofs.Open(f)
	require.NoError(t, err)
	return img, f
}

func TestImage_Contents(t *testing.T) {
	img, f := openImage(t)
	for _, l := range userland.Links() {
		fi, err := fs.Stat(img, strings.TrimPrefix(l.Path, "/"))
		require.NoError(t, err, l.Path)
		require.True(t, fi.Mode().IsRegular(), "%s leads to the binary", l.Path)
		require.Equal(t, fs.FileMode(0o755), fi.Mode().Perm(), l.Path)
	}
	for _, p := range []string{"bin/sh", "usr/bin/env", "sbin/poweroff"} {
		_, err := fs.Stat(img, p)
		require.NoError(t, err, p)
	}
	for p, mode := range map[string]fs.FileMode{
		"tmp": 0o1777, "root": 0o700, "home/user": 0o755,
		"dev": 0o755, "proc": 0o755, "sys": 0o755, "run": 0o755,
	} {
		fi, err := fs.Stat(img, p)
		require.NoError(t, err, p)
		require.True(t, fi.IsDir(), p)
		require.Equal(t, mode, fi.Mode()&0o7777, p) // the reader keeps the kernel's bits
		st, ok := fi.Sys().(*erofs.Stat)
		require.True(t, ok)
		if p == "home/user" {
			require.EqualValues(t, 1000, st.UID)
		} else {
			require.Zero(t, st.UID)
		}
	}
	passwd, err := fs.ReadFile(img, "etc/passwd")
	require.NoError(t, err)
	require.Contains(t, string(passwd), "root:x:0:0:root:/root:/bin/sh\n")
	require.Contains(t, string(passwd), "user:x:1000:1000:")

	elf, err := fs.ReadFile(img, "usr/bin/userland")
	require.NoError(t, err)
	require.Equal(t, "\x7fELF", string(elf[:4]))
	require.Less(t, len(elf), 12<<20)
	require.Less(t, len(Image().Compressed), 5<<20)
	fi, err := f.Stat()
	require.NoError(t, err)
	require.Zero(t, fi.Size()%4096, "the image is a whole number of blocks")
}

func TestDefaultConfig(t *testing.T) {
	cfg := DefaultConfig()
	require.Equal(t, []string{"/bin/sh"}, cfg.Cmd)
	require.Equal(t, "/", cfg.WorkingDir)
	cfg.Env[0] = "changed"
	require.NotEqual(t, "changed", DefaultConfig().Env[0])
}

// The committed image is what the sources give.
func TestImage_IsCurrent(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the userland")
	}
	out, err := exec.CommandContext(t.Context(), "go", "run", "./mkroot", "-check").CombinedOutput()
	require.NoError(t, err, "%s", out)
}
