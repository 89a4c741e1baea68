package vmm

import (
	"context"
	"errors"
	"sync"
)

// gate is where vCPUs wait while the machine is paused.
type gate struct {
	mu     sync.Mutex
	shut   bool
	ended  bool
	parked int
	// change is closed and replaced at every change of the fields above.
	change chan struct{}
}

func (g *gate) init() { g.change = make(chan struct{}) }

// notify wakes everyone who waits for a change. Called with g.mu held.
func (g *gate) notify() {
	close(g.change)
	g.change = make(chan struct{})
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.ended && !g.shut {
		g.shut = true
		g.notify()
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		g.shut = false
		g.notify()
	}
}

func (g *gate) isShut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut
}

// end opens the gate for good: pass returns false from now on.
func (g *gate) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended, g.shut = true, false
	g.notify()
}

// pass waits while the gate is shut. It returns false once the machine ended.
func (g *gate) pass() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		g.parked++
		g.notify()
		for g.shut {
			change := g.change
			g.mu.Unlock()
			<-change
			g.mu.Lock()
		}
		g.parked--
	}
	return !g.ended
}

// waitParked waits until n vCPUs wait at the gate.
func (g *gate) waitParked(ctx context.Context, n int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.parked < n {
		if g.ended {
			return errors.New("machine ended")
		}
		change := g.change
		g.mu.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
		}
		g.mu.Lock()
		if err := ctx.Err(); err != nil && g.parked < n {
			return err
		}
	}
	return nil
}
