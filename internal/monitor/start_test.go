package monitor

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/internal/state"
)

// A monitor that dies without a word, of whatever, is noticed at once: nobody
// else holds its end of the socket.
func TestStart_MonitorDiesSilently(t *testing.T) {
	home := state.Home{Sandboxes: filepath.Join(t.TempDir(), "sandboxes")}
	d, lock, err := home.Create("box", struct{}{}, false)
	require.NoError(t, err)
	file := func() *os.File {
		f, err := os.Open(os.DevNull)
		require.NoError(t, err)
		return f
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	// Without a Clock its message is refused, and it has nobody to tell.
	_, err = Start(ctx, d, Spec{}, &Files{KVM: file(), Kernel: file(), Initramfs: file(), Lock: lock})
	var boot *BootError
	require.ErrorAs(t, err, &boot)
	require.Equal(t, "monitor process", boot.Stage)
	require.ErrorContains(t, err, "it was replaced while it ran", "its log says why")
	locked, err := d.Locked()
	require.NoError(t, err)
	require.False(t, locked)
}
