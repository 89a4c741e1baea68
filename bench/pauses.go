package main

import (
	"sync"
	"time"
)

// A machine stands still, for all its programs at once, when its own host has
// no processor for it: emulated ones do, on busy hosts. Whatever is measured
// then is slow, and says nothing about the program that was measured.
const (
	pauseLook  = 10 * time.Millisecond  // a sleep
	pauseFloor = 100 * time.Millisecond // that took so much longer is a pause
)

// pauses are the times at which the machine stood still.
type pauses struct {
	stop chan struct{}
	done sync.WaitGroup

	mu    sync.Mutex
	spans [][2]time.Time
}

// watchPauses looks out for pauses until end.
func watchPauses() *pauses {
	p := &pauses{stop: make(chan struct{})}
	p.done.Go(func() {
		for {
			before := time.Now()
			select {
			case <-p.stop:
				return
			case <-time.After(pauseLook):
			}
			if after := time.Now(); after.Sub(before) > pauseLook+pauseFloor {
				p.mu.Lock()
				p.spans = append(p.spans, [2]time.Time{before, after})
				p.mu.Unlock()
			}
		}
	})
	return p
}

func (p *pauses) end() {
	close(p.stop)
	p.done.Wait()
}

// within is how long the machine stood still in a span of time.
func (p *pauses) within(from, to time.Time) (sum time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.spans {
		begin, end := s[0], s[1]
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		sum += max(end.Sub(begin), 0)
	}
	return sum
}
