package upper

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCreate(t *testing.T) {
	cache, path := t.TempDir(), filepath.Join(t.TempDir(), "root.upper")
	f, err := Create(cache, path, 4<<30)
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(t, err)
	require.Equal(t, int64(4<<30), info.Size())
	require.Equal(t, fs.FileMode(0o600), info.Mode())
	require.Less(t, info.Sys().(*syscall.Stat_t).Blocks*512, int64(1<<20), "the file is sparse")

	want, err := Template().Open(cache)
	require.NoError(t, err)
	defer want.Close()
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < MinSize; off += int64(len(a)) {
		_, err := want.ReadAt(a, off)
		require.NoError(t, err)
		_, err = f.ReadAt(b, off)
		require.NoError(t, err)
		require.True(t, bytes.Equal(a, b), "MiB %d differs from the template", off>>20)
	}
	require.Equal(t, "\x53\xef", string(func() []byte { f.ReadAt(a[:2], 1080); return a[:2] }()), "ext4's magic")

	_, err = Create(cache, path, 4<<30)
	require.ErrorIs(t, err, fs.ErrExist)
}

func TestCreate_Refused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	for _, size := range []int64{-1, 0, MinSize - 4096, MinSize + 1, MaxSize + 4096} {
		_, err := Create(dir, path, size)
		require.ErrorIs(t, err, ErrSize)
	}
	_, err := Create(dir, filepath.Join(dir, "none", "x"), MinSize)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoFileExists(t, path)
	_, err = os.Stat(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}
