package vmm

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// threadClock measures the CPU time of one thread, from any other.
type threadClock struct {
	mu   sync.Mutex
	tid  int           // 0 while the thread is not there
	base time.Duration // what the thread had used before begin
	used time.Duration // since, when last read
}

// begin is called by the thread, once.
func (c *threadClock) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tid = unix.Gettid()
	c.base, _ = threadTime(c.tid)
}

// end is called by the thread, which goes on with something else: its number
// may become another's.
func (c *threadClock) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readLocked()
	c.tid = 0
}

func (c *threadClock) read() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.readLocked()
}

// readLocked is called with c.mu held.
func (c *threadClock) readLocked() time.Duration {
	if c.tid != 0 {
		if t, err := threadTime(c.tid); err == nil {
			c.used = t - c.base
		}
	}
	return c.used
}

// threadTime is the CPU time of one of this process's threads: what the
// scheduler gave it, in the guest and in KVM. The clock's number is the
// kernel's ABI (pthread_getcpuclockid(3) makes it so): the thread's number,
// inverted, with CPUCLOCK_PERTHREAD_MASK and CPUCLOCK_SCHED.
func threadTime(tid int) (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^tid<<3|6), &ts); err != nil {
		return 0, err
	}
	return time.Duration(ts.Nano()), nil
}
