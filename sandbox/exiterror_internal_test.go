package sandbox

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/guest/proto"
	"github.com/sandpit-vm/sandpit/internal/monitor"
	"github.com/sandpit-vm/sandpit/internal/state"
)

// lasting is a life that goes on.
type lasting struct{}

func (lasting) Ended() <-chan struct{} { return nil }
func (lasting) Final() *state.State    { return nil }

// What explains a lost connection waits for the end of the sandbox no longer
// than the caller's context, and not at all if it was not lost.
func TestLostWithinContext(t *testing.T) {
	cause := errors.New("cause")
	s := &Sandbox{life: lasting{}}
	ctx, cancel := context.WithCancel(t.Context())
	lost := proto.Lost(ctx, cause)
	require.ErrorIs(t, lost, proto.ErrLost)
	require.ErrorIs(t, lost, cause)
	begin := time.Now()
	require.Equal(t, lost, s.lost(lost))
	require.GreaterOrEqual(t, time.Since(begin), endWait)
	cancel()
	require.ErrorIs(t, proto.Lost(ctx, cause), context.Canceled)
	for _, err := range []error{lost, cause} {
		begin = time.Now()
		for range 20 {
			require.Equal(t, err, s.lost(err))
		}
		require.Less(t, time.Since(begin), 10*endWait)
	}
	ended := &Sandbox{life: overWithout{}}
	require.ErrorContains(t, ended.lost(lost), "the sandbox ended first: ")
	require.ErrorContains(t, ended.lost(cause), "the sandbox ended first: cause")
}

// The context of each kind of call reaches there.
func TestLostConnections(t *testing.T) {
	sb := connectedTo(t, func(conn net.Conn, op string) {
		answer(conn)
		if op == monitor.OpDial {
			conn.Close()
		}
	})
	for name, do := range map[string]func(context.Context) error{
		"exec": func(ctx context.Context) error { return sb.Command(ctx, "x").Run() },
		"stat": func(ctx context.Context) error { _, err := sb.FS().Stat(ctx, "/x"); return err },
		"open": func(ctx context.Context) error { _, err := sb.FS().Open(ctx, "/x"); return err },
	} {
		// Long enough for an emulated processor: the connection ends first.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		err := do(ctx)
		cancel()
		var conn interface{ Done() <-chan struct{} }
		require.True(t, errors.As(err, &conn), "%s: %v", name, err)
		require.ErrorIs(t, err, proto.ErrLost)
		select {
		case <-conn.Done():
		default:
			t.Errorf("%s: the context goes on", name)
		}
	}
}
