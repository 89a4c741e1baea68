package monitor

import (
	"time"

	"golang.org/x/sys/unix"
)

// Phase is a part of the time from the beginning of a creation to the moment
// the agent was ready. Phases of the guest are measured by its own clock.
type Phase struct {
	Name     string
	Duration time.Duration
}

// Boot says how a sandbox came up: where the time went, and the VM exits until
// the agent was ready, by kind.
type Boot struct {
	Phases []Phase
	Exits  map[string]uint64
}

// PhaseClock splits the time of a creation into phases. It begins in the
// creator and goes on in the monitor.
type PhaseClock struct {
	Last   int64 // CLOCK_MONOTONIC, which means the same in both processes
	Phases []Phase
}

// NewPhaseClock starts the first phase.
func NewPhaseClock() *PhaseClock { return &PhaseClock{Last: now()} }

// Mark ends a phase and begins the next.
func (c *PhaseClock) Mark(name string) { c.markAt(name, now()) }

func (c *PhaseClock) markAt(name string, t int64) {
	c.Phases = append(c.Phases, Phase{name, time.Duration(t - c.Last)})
	c.Last = t
}

// now is CLOCK_MONOTONIC in nanoseconds; a time.Time's monotonic part means
// nothing in another process.
func now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // the clock always exists; phases would be wrong, nothing else
	}
	return ts.Nano()
}
