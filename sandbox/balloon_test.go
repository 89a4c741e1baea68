package sandbox_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// What a guest used once and does not use any more, the host has again: the
// guest's kernel reports free memory to the balloon, every two seconds.
func TestIdleGuestGivesMemoryBack(t *testing.T) {
	needVM(t)
	ctx := deadline(t)
	sb := create(t, "giver", sandbox.Config{Memory: 512})
	hostMemory := func() uint64 {
		m, err := sb.Metrics(ctx)
		require.NoError(t, err)
		return m.HostMemoryBytes
	}
	const used = 200 << 20
	before := hostMemory()
	require.NoError(t, sb.Shell(ctx, "head -c 209715200 /dev/zero >/dev/shm/used").Run())
	during := hostMemory()
	require.Greater(t, during, before+used*9/10)
	require.NoError(t, sb.Shell(ctx, "rm /dev/shm/used").Run())
	freed := time.Now()
	after := hostMemory()
	for end := freed.Add(30 * time.Second); after > before+used/10 && time.Now().Before(end); after = hostMemory() {
		time.Sleep(200 * time.Millisecond)
	}
	t.Logf("host memory: %.0f MiB before, %.0f with 200 MiB used, %.0f %.1f s after they were freed",
		mib(before), mib(during), mib(after), time.Since(freed).Seconds())
	require.LessOrEqual(t, after, before+used/10)

	// And the memory is there when it is needed again.
	require.NoError(t, sb.Shell(ctx, "head -c 50000000 /dev/zero >/dev/shm/again && rm /dev/shm/again").Run())
}
