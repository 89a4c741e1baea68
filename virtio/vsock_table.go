package virtio

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
)

const (
	// vsockMaxConns caps connections, those that are closing or that nobody
	// has accepted yet included (T63).
	vsockMaxConns = 1024
	// vsockWideConns is how many of them get the full window. A guest that
	// fills every buffer makes the host hold 64 MiB and 24 MiB.
	vsockWideConns = 256
	// vsockMaxResets caps the resets that wait for room in the rx queue. The
	// guest that causes more without reading them loses the rest (T63).
	vsockMaxResets = 256

	// Ports that Dial takes for the host's end.
	vsockFirstEphemeral = 1 << 31
	vsockLastEphemeral  = vsockAnyPort - 1
)

// vsockKey names a connection: both ports, the CIDs being fixed.
type vsockKey struct{ local, peer uint32 }

// vsockReset is a RST for a packet that belongs to no connection.
type vsockReset struct {
	key vsockKey
	typ uint16
}

// Dial connects to a port of the guest. A guest that refuses gives
// ECONNREFUSED. While the guest's driver is not up the request waits, until ctx
// is done.
func (v *Vsock) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "vsock", Addr: VsockAddr{uint32(v.cid), port}, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	c, err := v.newDial(port)
	if err != nil {
		return fail(os.NewSyscallError("connect", err))
	}
	select {
	case <-c.opened:
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.state.Phase != vsockConnecting:
	case c.state.RequestSent:
		c.reset(ctx.Err()) // the guest may have accepted it by now
	default:
		c.die(ctx.Err())
	}
	if c.dialErr == nil {
		return c, nil // and though the guest be gone by now, it may have said something
	}
	v.release(c)
	var errno syscall.Errno
	if errors.As(c.dialErr, &errno) {
		return fail(os.NewSyscallError("connect", errno))
	}
	return fail(c.dialErr)
}

// newDial enters a connection that is to be requested.
func (v *Vsock) newDial(port uint32) (*vsockConn, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.closed:
		return nil, syscall.ENETDOWN
	case port == vsockAnyPort:
		return nil, syscall.EADDRNOTAVAIL
	case v.live >= vsockMaxConns:
		return nil, syscall.EAGAIN
	}
	key := vsockKey{peer: port}
	for {
		key.local = v.nextPort
		if v.nextPort++; v.nextPort > vsockLastEphemeral {
			v.nextPort = vsockFirstEphemeral
		}
		if v.conns[key] == nil && v.listeners[key.local] == nil {
			break
		}
	}
	c := v.newConn(key)
	v.enqueue(c)
	return c, nil
}

// newConn enters a connection into the table. Called with v.mu held.
func (v *Vsock) newConn(key vsockKey) *vsockConn {
	c := &vsockConn{dev: v, opened: make(chan struct{}), inTable: true, held: true}
	c.readable.L, c.writable.L = &c.mu, &c.mu
	c.state.Key = key
	c.state.Recv.Window = vsockWindow
	if v.live >= vsockWideConns {
		c.state.Recv.Window = vsockNarrowWindow
	}
	v.live++
	v.conns[key] = c
	return c
}

// accept handles a REQUEST that belongs to no connection. It never waits.
func (v *Vsock) accept(key vsockKey, h *vsockHeader) {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.listeners[key.local] // the ports listened on are all there is (T64)
	if l == nil || v.closed || v.live >= vsockMaxConns || len(l.backlog) == cap(l.backlog) {
		v.enqueueReset(key, h.typ())
		return
	}
	c := v.newConn(key)
	// Nobody else knows c yet, so c.mu is not needed.
	c.state.Phase = vsockOpen
	c.state.OwesResponse = true
	c.state.Send.update(h.bufAlloc(), h.fwdCnt())
	close(c.opened)
	l.backlog <- c // there is room, and only we send
	v.enqueue(c)
}

// lookup finds the connection of a packet.
func (v *Vsock) lookup(key vsockKey) *vsockConn {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.conns[key]
}

// remove takes c out of the table. Its ports can be used again.
func (v *Vsock) remove(c *vsockConn) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if c.inTable {
		c.inTable = false
		delete(v.conns, c.state.Key)
		v.forget(c)
	}
}

// release tells that no user holds c any more.
func (v *Vsock) release(c *vsockConn) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if c.held {
		c.held = false
		v.forget(c)
	}
}

// forget is called with v.mu held.
func (v *Vsock) forget(c *vsockConn) {
	if !c.inTable && !c.held {
		v.live--
	}
}

// schedule lets the rx worker know that c may have something to send. Called
// with c.mu held.
func (c *vsockConn) schedule() {
	c.dev.mu.Lock()
	defer c.dev.mu.Unlock()
	c.dev.enqueue(c)
}

// enqueue is called with v.mu held.
func (v *Vsock) enqueue(c *vsockConn) {
	if c.queued {
		return
	}
	c.queued = true
	if v.readyTail == nil {
		v.readyHead = c
	} else {
		v.readyTail.nextReady = c
	}
	v.readyTail = c
	v.wakeSender()
}

// enqueueReset is called with v.mu held.
func (v *Vsock) enqueueReset(key vsockKey, typ uint16) {
	if len(v.resets) == vsockMaxResets {
		v.dropped++
		return
	}
	v.resets = append(v.resets, vsockReset{key, typ})
	v.wakeSender()
}

// wakeSender is called with v.mu held.
func (v *Vsock) wakeSender() {
	select {
	case v.wake <- struct{}{}:
	default: // it has not noticed the last time yet
	}
}

// dequeue returns the connection that has waited longest, or else nil.
func (v *Vsock) dequeue() *vsockConn {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.readyHead
	if c == nil {
		return nil
	}
	if v.readyHead = c.nextReady; v.readyHead == nil {
		v.readyTail = nil
	}
	c.queued, c.nextReady = false, nil
	return c
}

// dequeueReset returns the oldest reset that waits.
func (v *Vsock) dequeueReset() (r vsockReset, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.resets) == 0 {
		return r, false
	}
	r = v.resets[0]
	v.resets = v.resets[:copy(v.resets, v.resets[1:])]
	return r, true
}

// failAll ends every connection with err. Dials that the guest has not heard of
// stay, if keep is set: there will be another driver.
func (v *Vsock) failAll(err error, keep bool) {
	v.mu.Lock()
	v.resets = v.resets[:0]
	conns := make([]*vsockConn, 0, len(v.conns))
	for _, c := range v.conns {
		conns = append(conns, c)
	}
	v.mu.Unlock()
	for _, c := range conns {
		c.mu.Lock()
		if s := &c.state; !keep || s.Phase != vsockConnecting || s.RequestSent {
			c.die(err)
		}
		c.mu.Unlock()
	}
}
