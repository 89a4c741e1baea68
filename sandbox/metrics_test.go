package sandbox_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/internal/state"
	"github.com/sandpit-vm/sandpit/sandbox"
)

// guestNumbers runs a script that prints numbers.
func guestNumbers(t *testing.T, sb *sandbox.Sandbox, script string) []float64 {
	t.Helper()
	out, err := sb.Shell(deadline(t), script).Output()
	require.NoError(t, err)
	var numbers []float64
	for _, f := range strings.Fields(string(out)) {
		n, err := strconv.ParseFloat(f, 64)
		require.NoError(t, err, "%s", out)
		numbers = append(numbers, n)
	}
	return numbers
}

// What is measured from outside agrees with what the guest sees.
func TestMetrics(t *testing.T) {
	needVM(t)
	ctx := deadline(t)
	sb := create(t, "measured", sandbox.Config{Memory: 384})
	measure := func() sandbox.Metrics {
		m, err := sb.Metrics(ctx)
		require.NoError(t, err)
		return m
	}
	first := measure()
	require.EqualValues(t, 384<<20, first.MemoryLimitBytes)
	require.NotZero(t, first.MemoryBytes)
	require.LessOrEqual(t, first.MemoryBytes+first.MemoryAvailableBytes, first.MemoryLimitBytes)
	require.Greater(t, first.HostMemoryBytes, first.MemoryBytes/2)
	require.NotZero(t, first.RootFreeBytes)
	require.NotZero(t, first.DiskReadBytes, "the mount of the upper disk reads")
	require.Zero(t, first.NetRxBytes+first.NetTxBytes)
	require.Zero(t, first.Processes)
	require.Zero(t, first.OOMKills)
	require.Positive(t, first.Uptime)
	require.Positive(t, first.CPUTime)
	require.LessOrEqual(t, first.CPUTime, first.Uptime, "of one CPU")
	require.WithinDuration(t, time.Now(), first.Timestamp, time.Minute)

	t.Run("CPU time", func(t *testing.T) {
		// In hundredths of a second: user, nice, system, irq, softirq of all CPUs.
		const busy = `read cpu user nice system idle iowait irq softirq rest </proc/stat; echo $((user + nice + system + irq + softirq))`
		spin := sb.Shell(ctx, busy+`; end=$(($(date +%s) + 3)); while [ $(date +%s) -lt $end ]; do i=0; while [ $i -lt 2000 ]; do i=$((i + 1)); done; done; `+busy)
		before := measure()
		out, err := spin.Output()
		require.NoError(t, err)
		after := measure()
		var from, to float64
		_, err = fmt.Sscan(string(out), &from, &to)
		require.NoError(t, err)
		guest := time.Duration((to - from) * 1e7)
		host := after.CPUTime - before.CPUTime
		t.Logf("busy for the guest %v, for the host %v, in %v", guest, host, after.Uptime-before.Uptime)
		require.Greater(t, guest, time.Second)
		// The host's measurement spans two more of the agent's and the command's
		// start and end.
		require.InEpsilon(t, guest, host, 0.25)
	})
	t.Run("memory", func(t *testing.T) {
		before := measure()
		const used = `awk '/^MemTotal:/ { t = $2 } /^MemAvailable:/ { a = $2 } END { print (t - a) * 1024 }' /proc/meminfo 2>/dev/null ||
			{ t=$(grep MemTotal: /proc/meminfo | tr -dc 0-9); a=$(grep MemAvailable: /proc/meminfo | tr -dc 0-9); echo $(((t - a) * 1024)); }`
		n := guestNumbers(t, sb, "head -c 104857600 /dev/zero >/dev/shm/big; "+used)
		after := measure()
		t.Logf("%.1f MiB for the guest, %.1f MiB measured, %.1f MiB before; the monitor has %.1f MiB, %.1f MiB before", n[0]/(1<<20), mib(after.MemoryBytes), mib(before.MemoryBytes), mib(after.HostMemoryBytes), mib(before.HostMemoryBytes))
		require.InDelta(t, n[0], after.MemoryBytes, 5<<20)
		require.InDelta(t, 100<<20, float64(after.MemoryBytes)-float64(before.MemoryBytes), 8<<20)
		require.Greater(t, after.HostMemoryBytes, before.HostMemoryBytes+(60<<20))
		require.NoError(t, sb.Command(ctx, "rm", "/dev/shm/big").Run())
	})
	t.Run("disk", func(t *testing.T) {
		before := measure()
		require.NoError(t, sb.Shell(ctx, "head -c 16777216 /dev/urandom >/root/data; sync").Run())
		after := measure()
		t.Logf("%.1f MiB written", mib(after.DiskWriteBytes-before.DiskWriteBytes))
		require.GreaterOrEqual(t, after.DiskWriteBytes-before.DiskWriteBytes, uint64(16<<20))
		require.GreaterOrEqual(t, after.RootUsedBytes-before.RootUsedBytes, uint64(16<<20))
		require.Less(t, after.RootFreeBytes, before.RootFreeBytes)
	})
	t.Run("stream", func(t *testing.T) {
		sleeper := sb.Command(ctx, "sleep", "1000")
		require.NoError(t, sleeper.Start())
		defer func() { _ = sleeper.Wait() }()
		defer func() { require.NoError(t, sleeper.Kill()) }()
		var last sandbox.Metrics
		n := 0
		for m, err := range sb.MetricsStream(ctx, 50*time.Millisecond) {
			require.NoError(t, err)
			require.Greater(t, m.Uptime, last.Uptime)
			require.Equal(t, 1, m.Processes)
			require.GreaterOrEqual(t, m.CPUPercent, float32(0))
			require.Less(t, m.CPUPercent, float32(150))
			last = m
			if n++; n == 5 {
				break
			}
		}
		require.Equal(t, 5, n)
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		var end error
		for _, err := range sb.MetricsStream(short, time.Hour) {
			end = err
		}
		require.ErrorIs(t, end, context.DeadlineExceeded)
		for _, err := range sb.MetricsStream(ctx, time.Millisecond) {
			var bad *sandbox.ConfigError
			require.ErrorAs(t, err, &bad)
		}
	})
	t.Run("all", func(t *testing.T) {
		// One whose state cannot be read is said, and hides nothing.
		broken := stateDir(t, "measured") + "-broken"
		mkdirWith(t, broken, "state.json", "{")
		all, err := sandbox.AllMetrics(ctx)
		require.ErrorContains(t, err, "measured-broken")
		require.Len(t, all, 1)
		require.EqualValues(t, 384<<20, all["measured"].MemoryLimitBytes)
		removeAll(t, broken)
	})
	t.Run("the end", func(t *testing.T) {
		n := 0
		for _, err := range sb.MetricsStream(ctx, 20*time.Millisecond) {
			require.NoError(t, err)
			if n++; n == 2 {
				require.NoError(t, sb.Stop(ctx))
			}
		}
		require.GreaterOrEqual(t, n, 2)
		_, err := sb.Wait(ctx)
		require.NoError(t, err)
		_, err = sb.Metrics(ctx)
		require.ErrorIs(t, err, sandbox.ErrNotRunning)
		all, err := sandbox.AllMetrics(ctx)
		require.NoError(t, err)
		require.Empty(t, all)
	})
}

func mib(n uint64) float64 { return float64(n) / (1 << 20) }

func mkdirWith(t *testing.T, dir, name, content string) {
	t.Helper()
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, state.LockFile), nil, 0o600))
}

func removeAll(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, os.RemoveAll(dir))
}
