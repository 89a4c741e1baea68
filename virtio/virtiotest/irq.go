package virtiotest

import (
	"sync/atomic"
	"time"
)

// IRQ is an interrupt line that counts. Its methods may be called from any
// goroutine.
type IRQ struct {
	n     atomic.Int64
	pulse chan struct{}
}

// Trigger counts an interrupt.
func (i *IRQ) Trigger() error {
	i.n.Add(1)
	select {
	case i.pulse <- struct{}{}:
	default:
	}
	return nil
}

// Count is the number of interrupts so far.
func (i *IRQ) Count() int { return int(i.n.Load()) }

// Wait waits for an interrupt, one that has come since the last Wait included.
func (i *IRQ) Wait(timeout time.Duration) bool {
	select {
	case <-i.pulse:
		return true
	case <-time.After(timeout):
		return false
	}
}
