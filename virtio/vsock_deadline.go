package virtio

import (
	"net"
	"sync"
	"time"
)

// vsockDeadline is a read or write deadline: when it passes, those who wait are
// woken. Guarded by the connection's mutex.
type vsockDeadline struct {
	expired bool
	timer   *time.Timer
	sets    uint64 // counts calls: a timer that fires late compares
}

func (d *vsockDeadline) stop() {
	d.sets++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// set is called with c.mu held; cond is over c.mu.
func (d *vsockDeadline) set(t time.Time, mu *sync.Mutex, cond *sync.Cond) {
	d.stop()
	d.expired = false
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.expired = true
		cond.Broadcast()
		return
	}
	this := d.sets
	d.timer = time.AfterFunc(wait, func() {
		mu.Lock()
		defer mu.Unlock()
		if d.sets == this {
			d.expired = true
			cond.Broadcast()
		}
	})
}

// SetDeadline sets both deadlines.
func (c *vsockConn) SetDeadline(t time.Time) error { return c.setDeadline(t, true, true) }

// SetReadDeadline makes reads fail with os.ErrDeadlineExceeded from t on; zero
// is never.
func (c *vsockConn) SetReadDeadline(t time.Time) error { return c.setDeadline(t, true, false) }

// SetWriteDeadline makes writes fail with os.ErrDeadlineExceeded from t on;
// zero is never.
func (c *vsockConn) SetWriteDeadline(t time.Time) error { return c.setDeadline(t, false, true) }

func (c *vsockConn) setDeadline(t time.Time, read, write bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("set deadline", net.ErrClosed)
	}
	if read {
		c.readBy.set(t, &c.mu, &c.readable)
	}
	if write {
		c.writeBy.set(t, &c.mu, &c.writable)
	}
	return nil
}

// startTimer breaks the connection off with err unless stopTimer is called
// within d: the guest does not answer. Called with c.mu held.
func (c *vsockConn) startTimer(d time.Duration, err error) {
	c.stopTimer()
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.timer == t {
			c.reset(err)
		}
	})
	c.timer = t
}

// stopTimer is called with c.mu held.
func (c *vsockConn) stopTimer() {
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
}
