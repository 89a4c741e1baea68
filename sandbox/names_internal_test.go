package sandbox

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/internal/monitor"
	"github.com/sandpit-vm/sandpit/internal/state"
)

// overWithout is a life that ended without a word.
type overWithout struct{}

func (overWithout) Ended() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
func (overWithout) Final() *state.State { return nil }

// A Sandbox that has ended does nothing to another that has its name.
func TestNameTakenByAnother(t *testing.T) {
	t.Setenv("SANDPIT_HOME", t.TempDir())
	home, err := state.DefaultHome()
	require.NoError(t, err)
	dir, lock, err := home.Create("box", record{}, false)
	require.NoError(t, err)
	require.NoError(t, dir.WriteJSON(state.StateFile, state.State{Status: Running}))
	l, err := net.Listen("unix", dir.File(state.ControlSocket))
	require.NoError(t, err)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Error("the other sandbox was called")
			conn.Close()
		}
	}()
	for _, ephemeral := range []bool{false, true} {
		old := &Sandbox{name: "box", dir: dir, life: overWithout{}, cfg: Config{Ephemeral: ephemeral}}
		require.ErrorIs(t, old.Command(t.Context(), "true").Run(), ErrNotRunning)
		require.ErrorIs(t, old.Touch(t.Context()), ErrNotRunning)
		_, err = old.agentClient(t.Context())
		require.ErrorIs(t, err, ErrNotRunning)
		require.NoError(t, old.Stop(t.Context()))
		status, err := old.Wait(t.Context())
		require.NoError(t, err)
		require.Equal(t, monitor.ReasonCrashed, status.Reason)
	}
	require.NoError(t, l.Close())
	require.NoError(t, lock.Close())
	require.NoError(t, dir.WriteJSON(state.StateFile, state.State{Status: Stopped}))
	old := &Sandbox{name: "box", dir: dir, life: overWithout{}, cfg: Config{Ephemeral: true}}
	_, err = old.Wait(t.Context())
	require.NoError(t, err)
	_, err = Get(t.Context(), "box")
	require.NoError(t, err, "one that is to stay, stays")
}

// What is removed between two looks is not found; what ends between them has
// ended.
func TestHandleOfWhatVanishes(t *testing.T) {
	t.Setenv("SANDPIT_HOME", t.TempDir())
	home, err := state.DefaultHome()
	require.NoError(t, err)
	dir, lock, err := home.Create("box", record{}, false)
	require.NoError(t, err)
	h, err := Get(t.Context(), "box")
	require.NoError(t, err)
	require.Equal(t, Starting, h.Status())
	require.ErrorIs(t, h.Stop(t.Context()), ErrNotRunning, "there is nobody to ask yet")

	// The last word is written, and the socket gone; the lock follows.
	require.NoError(t, dir.WriteJSON(state.StateFile, state.State{Status: Stopped, Updated: time.Now()}))
	require.NoError(t, h.Stop(t.Context()))
	require.NoError(t, h.Kill(t.Context()))

	require.NoError(t, lock.Close())
	require.NoError(t, dir.Remove())
	_, err = h.Connect(t.Context())
	require.ErrorIs(t, err, ErrNotFound)
	_, err = h.Start(t.Context())
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorIs(t, h.Remove(t.Context()), ErrNotFound)
	require.NoError(t, h.Stop(t.Context()))
	_, err = dir.Read()
	require.ErrorIs(t, err, ErrNotFound)
}
