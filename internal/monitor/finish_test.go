package monitor

import (
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/internal/state"
	"github.com/sandpit-vm/sandpit/vmm"
)

type closer func() error

func (c closer) Close() error { return c() }

// A guest that ended in order on a disk image that could not be written back
// has not ended in order.
func TestFinishWithALostDisk(t *testing.T) {
	d, _, m := testControl(t)
	m.dir = d
	closed := 0
	full := errors.New("no space left")
	m.toClose = []io.Closer{
		closer(func() error { closed++; return full }),
		closer(func() error { closed++; return nil }),
	}
	m.asked = &stopRequest{reason: ReasonStopped}
	m.finish(vmm.Shutdown{}, nil, m.closeDisks())
	require.NoError(t, m.closeDisks(), "they are closed once")
	require.Equal(t, 2, closed, "the others are closed nevertheless")
	var s state.State
	require.NoError(t, d.ReadJSON(state.StateFile, &s))
	require.Equal(t, state.Crashed, s.Status)
	require.Equal(t, ReasonCrashed, s.Reason)
	require.Contains(t, s.Detail, "not written back: no space left")

	m.finish(vmm.Shutdown{}, nil, nil)
	require.NoError(t, d.ReadJSON(state.StateFile, &s))
	require.Equal(t, state.Stopped, s.Status)
}
