package rig

import (
	"errors"
	"sync"

	"github.com/sandpit-vm/sandpit/internal/rig/wire"
)

// warmClient is one command's connection.
type warmClient struct {
	id   uint32
	conn *wire.Conn

	mu     sync.Mutex // guards what follows
	cond   sync.Cond
	buf    []byte // encoded frames for the client
	closed bool   // no more will come
}

// maxQueued bounds what is queued for a client that does not read: two windows,
// in the worst case of one byte per frame.
const maxQueued = 16 << 20

// fromL1 passes L1's frames to their clients. It never waits for one.
func (s *warmServer) fromL1() {
	for {
		f, err := s.m.conn.Receive()
		if err != nil {
			s.end <- s.m.diagnose(err)
			return
		}
		s.mu.Lock()
		s.pings = 0
		c := s.clients[f.Command]
		if f.Kind == wire.KindExit {
			delete(s.clients, f.Command)
		}
		s.mu.Unlock()
		if c == nil {
			continue
		}
		if err := c.push(f); err != nil {
			_ = c.conn.Close()
		}
		if f.Kind == wire.KindExit {
			c.close()
		}
	}
}

var errQueueFull = errors.New("the client does not read")

// push queues a frame. Clients number their only command 1.
func (c *warmClient) push(f wire.Frame) error {
	f.Command = 1
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	if len(c.buf)+len(f.Payload) > maxQueued {
		return errQueueFull
	}
	c.buf = f.Append(c.buf)
	c.cond.Signal()
	return nil
}

// close lets the writing goroutine end once the queue is empty.
func (c *warmClient) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.cond.Signal()
}

// write sends what is queued. The connection is closed by the client, after
// Exit, or by the reading goroutine.
func (c *warmClient) write() {
	var out []byte
	for {
		c.mu.Lock()
		for len(c.buf) == 0 && !c.closed {
			c.cond.Wait()
		}
		out, c.buf = c.buf, out[:0]
		c.mu.Unlock()
		if len(out) == 0 {
			return
		}
		if err := c.conn.WriteEncoded(out); err != nil {
			_ = c.conn.Close()
			return
		}
	}
}
