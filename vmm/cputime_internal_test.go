package vmm

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The clock agrees with what the thread itself reads, from another thread, and
// counts from its beginning only.
func TestThreadClock(t *testing.T) {
	var c threadClock
	require.Zero(t, c.read())
	begun, check, checked := make(chan struct{}), make(chan time.Duration), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		spin(20 * time.Millisecond)
		c.begin()
		before := own(t)
		close(begun)
		spin(50 * time.Millisecond)
		check <- own(t) - before
		<-checked
		c.end()
		close(check)
	}()
	<-begun
	want := <-check
	got := c.read()
	checked <- struct{}{}
	<-check
	require.InDelta(t, want, got, float64(10*time.Millisecond))
	end := c.read()
	spin(5 * time.Millisecond)
	require.Equal(t, end, c.read(), "it stands still afterwards")
	require.GreaterOrEqual(t, end, got)
}

func own(t *testing.T) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		t.Error(err)
	}
	return time.Duration(ts.Nano())
}

// spin uses so much CPU time of its thread, which is locked or does not matter.
func spin(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
	}
}
