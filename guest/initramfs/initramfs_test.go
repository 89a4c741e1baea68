package initramfs

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/u-root/u-root/pkg/cpio"
)

// The kernel finds the agent as /init, and a console; nothing else is there.
func TestImage(t *testing.T) {
	image := Image()
	f, err := image.Open(t.TempDir())
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, image.Verify(f))
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(f))
	require.NoError(t, err)
	var names []string
	for i, r := range records {
		if r.Name == cpio.Trailer {
			continue
		}
		names = append(names, r.Name)
		require.Zero(t, r.MTime, r.Name)
		require.Zero(t, r.UID+r.GID, r.Name)
		require.EqualValues(t, i+1, r.Ino, r.Name)
		switch r.Name {
		case "init":
			require.EqualValues(t, cpio.S_IFREG|0o755, r.Mode)
			magic := make([]byte, 4)
			_, err := r.ReadAt(magic, 0)
			require.NoError(t, err)
			require.Equal(t, "\x7fELF", string(magic))
		case "dev/console":
			require.EqualValues(t, cpio.S_IFCHR|0o600, r.Mode)
			require.EqualValues(t, 5, r.Rmajor)
			require.EqualValues(t, 1, r.Rminor)
		}
	}
	require.Equal(t, []string{"dev", "dev/console", "proc", "sys", "init"}, names)
	// Small enough to be unpacked in no time.
	require.Less(t, image.Size, int64(8<<20))
}
