package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFileSystem(t *testing.T) {
	for want, at := range map[string]struct {
		offset int
		magic  string
	}{
		"erofs": {1024, "\xe2\xe1\xf5\xe0"},
		"ext4":  {1080, "\x53\xef"},
		"xfs":   {0, "XFSB"},
		"fat":   {0x52, "FAT32   "},
	} {
		disk := make([]byte, 128<<10)
		copy(disk[at.offset:], at.magic)
		got, err := fileSystem(bytes.NewReader(disk))
		require.NoError(t, err)
		require.Equal(t, want, got)
		got, err = fileSystem(bytes.NewReader(disk[:at.offset]))
		require.NoError(t, err)
		require.Empty(t, got, "a disk that ends before the magic of %s", want)
	}
}

func TestPartitions(t *testing.T) {
	sys := t.TempDir()
	for name, content := range map[string]string{
		"vda/vda1/partition": "1\n", "vda/vda1/size": "2048\n",
		"vda/vda2/partition": "2\n", "vda/vda2/size": "409600\n",
		"vda/queue/size": "1\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(sys+"/"+name), 0o755))
		require.NoError(t, os.WriteFile(sys+"/"+name, []byte(content), 0o644))
	}
	parts, err := partitions(sys, "vda")
	require.NoError(t, err)
	require.Equal(t, []volume{{name: "vda1", sectors: 2048}, {name: "vda2", sectors: 409600}}, parts)
}
