package upper

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// superblock is what ext4 says of itself: its blocks and its magic number.
func superblock(t *testing.T, f *os.File) (blocks uint64) {
	t.Helper()
	sb := make([]byte, 1024)
	_, err := f.ReadAt(sb, 1024)
	require.NoError(t, err)
	require.Equal(t, uint16(0xef53), binary.LittleEndian.Uint16(sb[0x38:]))
	return uint64(binary.LittleEndian.Uint32(sb[0x4:])) | uint64(binary.LittleEndian.Uint32(sb[0x150:]))<<32
}

func TestCreate(t *testing.T) {
	for _, tt := range []struct{ size, fileSystem int64 }{
		{MinSize, MinSize},
		{1 << 30, MinSize},
		{DefaultSize - 4096, MinSize},
		{DefaultSize, DefaultSize},
		{100 << 30, DefaultSize},
	} {
		path := filepath.Join(t.TempDir(), "root.upper")
		f, err := Create(path, tt.size)
		require.NoError(t, err)
		defer f.Close()
		info, err := f.Stat()
		require.NoError(t, err)
		require.Equal(t, tt.size, info.Size())
		require.Equal(t, fs.FileMode(0o600), info.Mode())
		require.Less(t, info.Sys().(*syscall.Stat_t).Blocks*512, int64(4<<20), "the file is sparse")
		require.EqualValues(t, tt.fileSystem/4096, superblock(t, f))

		_, err = Create(path, tt.size)
		require.ErrorIs(t, err, fs.ErrExist)
	}
}

func TestCreate_Refused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	for _, size := range []int64{-1, 0, MinSize - 4096, MinSize + 1, MaxSize + 4096} {
		_, err := Create(path, size)
		require.ErrorIs(t, err, ErrSize)
	}
	_, err := Create(filepath.Join(dir, "none", "x"), MinSize)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoFileExists(t, path)
}

// The embedded bytes are those that the constants name, to the end.
func TestTemplates(t *testing.T) {
	dec, err := zstd.NewReader(bytes.NewReader(templates))
	require.NoError(t, err)
	defer dec.Close()
	all, err := io.ReadAll(dec)
	require.NoError(t, err)
	require.Len(t, all, imageSize)
	require.Equal(t, imageSHA256(), sha256.Sum256(all))
}
