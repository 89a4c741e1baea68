package vmm_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/vmm"
)

// A guest that spins uses what it gets of a host's CPU until it is stopped; one
// that sleeps uses next to nothing.
func TestCPUTime(t *testing.T) {
	cpuTime := func(code ...byte) (used, up time.Duration) {
		m := newMachine(t, vmm.Config{Load: realMode(code...)})
		require.Zero(t, m.Stats().CPUTime)
		require.Zero(t, m.Stats().Uptime)
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		reason, err := m.Run(ctx)
		require.NoError(t, err)
		require.Equal(t, vmm.Stopped{}, reason)
		s := m.Stats()
		require.Equal(t, s.CPUTime, m.Stats().CPUTime, "it stands still afterwards")
		return s.CPUTime, s.Uptime
	}
	spun, up := cpuTime(0xeb, 0xfe)       // jmp $
	slept, _ := cpuTime(0xf4, 0xeb, 0xfd) // hlt; jmp $-1
	t.Logf("spun %v of %v, slept %v", spun, up, slept)
	require.Greater(t, spun, 20*time.Millisecond)
	require.LessOrEqual(t, spun, up)
	require.Less(t, slept, spun/2)
}
