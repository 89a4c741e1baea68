package sandbox

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
)

// clockOffset compares the guest's clock with the host's: the true offset lies
// within half of the round trip of the answer.
func clockOffset(t *testing.T, sb *Sandbox) (offset, trip time.Duration) {
	t.Helper()
	agent, err := sb.agentClient(t.Context())
	require.NoError(t, err)
	trip = time.Hour
	for range 10 {
		before := time.Now()
		r, err := agent.SetClock(t.Context(), &proto.SetClockRequest{})
		require.NoError(t, err)
		if d := time.Since(before); d < trip {
			trip = d
			offset = time.Unix(0, r.GetWallClockNs()).Sub(before.Round(0).Add(d / 2))
		}
	}
	return offset, trip
}

// The guest's clock is right within 10 ms after the boot, and again after the
// machine was stopped and after the host's clock jumped, as it does when the
// host wakes up.
func TestClock(t *testing.T) {
	kvmtest.NeedKVM(t)
	t.Setenv("SANDPIT_HOME", t.TempDir())
	sb, err := Create(t.Context(), "clock", Config{Memory: 128})
	require.NoError(t, err)
	defer sb.Close()
	right := func(when string) {
		t.Helper()
		var offset, trip time.Duration
		require.Eventually(t, func() bool {
			offset, trip = clockOffset(t, sb)
			return offset.Abs() <= 10*time.Millisecond+trip/2
		}, 10*time.Second, 50*time.Millisecond)
		t.Logf("%s: off by %v, known within %v", when, offset, trip/2)
	}
	right("after the boot")

	pid := monitorOf(t, "clock")
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	time.Sleep(2 * time.Second)
	require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	right("after the monitor was stopped")

	if os.Getenv("KVMRIG") == "" {
		t.Log("the clock of a machine that is not the tests' own is not set")
		return
	}
	for _, d := range []time.Duration{time.Hour, -time.Hour} {
		ts := unix.NsecToTimespec(time.Now().Add(d).UnixNano())
		require.NoError(t, unix.ClockSettime(unix.CLOCK_REALTIME, &ts))
		right("after the host's clock jumped by " + d.String())
	}
}

// monitorOf is the process ID of a sandbox's monitor.
func monitorOf(t *testing.T, name string) int {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, p := range procs {
		data, err := os.ReadFile(p)
		if err == nil && string(data) == "sandpit-monitor\x00"+name+"\x00" {
			pid, err := strconv.Atoi(strings.Split(p, "/")[2])
			require.NoError(t, err)
			return pid
		}
	}
	t.Fatal("no monitor")
	return 0
}
