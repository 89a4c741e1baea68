package monitor

import (
	"sync"
	"time"
)

// phaseClock collects the phases of a boot: each mark ends one.
type phaseClock struct {
	mu     sync.Mutex
	last   int64
	phases []Phase
}

func (c *phaseClock) since(t int64) { c.last = t }

// mark ends the phase called name at t.
func (c *phaseClock) mark(name string, t int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phases = append(c.phases, Phase{name, time.Duration(t - c.last)})
	c.last = t
}

func (c *phaseClock) list() []Phase {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Phase(nil), c.phases...)
}
