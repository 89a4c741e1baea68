package virtio

import "time"

// throttle is a token bucket over bytes: burst at once, rate a second in the
// long run. It belongs to one goroutine.
type throttle struct {
	rate  int // bytes per second; 0 does not throttle
	burst int

	tokens int
	last   time.Time
}

// take returns how many of n bytes may pass now, at least one. It waits for
// them if there are none, and returns zero if done is closed meanwhile.
func (t *throttle) take(n int, done <-chan struct{}) int {
	if t.rate == 0 || n <= 0 {
		return n
	}
	for {
		now := time.Now()
		if t.last.IsZero() {
			t.tokens = t.burst
		} else if elapsed := now.Sub(t.last); elapsed < time.Second {
			t.tokens = min(t.burst, t.tokens+int(elapsed*time.Duration(t.rate)/time.Second))
		} else {
			t.tokens = t.burst
		}
		t.last = now
		if t.tokens > 0 {
			n = min(n, t.tokens)
			t.tokens -= n
			return n
		}
		// Long enough for a decent piece: no wake-up for every byte.
		wait := time.Duration(min(n, t.burst, 64<<10)) * time.Second / time.Duration(t.rate)
		timer := time.NewTimer(max(wait, time.Millisecond))
		select {
		case <-timer.C:
		case <-done:
			timer.Stop()
			return 0
		}
	}
}
