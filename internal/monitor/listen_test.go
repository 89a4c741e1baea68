package monitor

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/internal/state"
)

// A monitor that was killed leaves its socket behind, which is in nobody's way.
func TestListenAfterAKill(t *testing.T) {
	dir := t.TempDir()
	h := state.Home{Sandboxes: dir, Cache: dir}
	d, lock, err := h.Create("box", struct{}{}, false)
	require.NoError(t, err)
	defer lock.Close()
	for range 2 {
		l, err := listen(d)
		require.NoError(t, err)
		require.NoError(t, l.Close(), "the file stays")
	}
	_, _, err = Dial(context.Background(), d, Call{Op: OpBoot})
	require.ErrorIs(t, err, ErrGone)
}
