package virtio

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// VsockAddr is the address of a vsock socket.
type VsockAddr struct {
	CID  uint32 // 2 is the host
	Port uint32
}

// Network returns "vsock".
func (a VsockAddr) Network() string { return "vsock" }

// String returns CID and port, "3:1024".
func (a VsockAddr) String() string { return fmt.Sprintf("%d:%d", a.CID, a.Port) }

// vsockConn is the host's end of a connection. No goroutine belongs to it:
// callers of Read and Write wait, and the device's two workers do the rest.
//
// Locks: c.mu may be held when Vsock.mu is taken, never the other way round.
// Payload is copied without a lock: out marks what is lent to the rx worker,
// and vsockBuffer says how tx worker and reader share the buffer.
type vsockConn struct {
	dev    *Vsock
	opened chan struct{} // closed when a dial has succeeded or failed

	mu       sync.Mutex // guards what follows
	readable sync.Cond  // in, err, or a deadline changed
	writable sync.Cond  // out, err, or a deadline changed
	state    vsockConnState
	in       vsockBuffer
	out      []byte // the rest of what a Write wants sent
	err      error  // why the connection failed; data that came before stays
	dialErr  error  // why it never came about
	closed   bool   // by Close

	outTaken   bool // a Write is at work
	outBusy    bool // the rx worker copies from out
	outLeaving bool // a Write waits for outBusy to end

	readBy, writeBy vsockDeadline
	timer           *time.Timer // of the handshake, or of the close

	// Guarded by Vsock.mu:
	queued    bool       // in the list of those with something to send
	nextReady *vsockConn // in that list
	inTable   bool
	held      bool // by a user or a backlog
}

// Read reads what there is, at least one byte. Data that arrived before the
// connection ended is delivered first; then it returns io.EOF if the guest shut
// its side down, or ECONNRESET.
func (c *vsockConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if err := c.readError(); err != nil {
			return 0, c.opError("read", err)
		}
		if len(p) == 0 {
			return 0, nil
		}
		if c.in.n > 0 && !c.in.draining {
			break
		}
		c.readable.Wait()
	}
	n := 0
	for n < len(p) && c.in.n > 0 {
		k := c.copyOut(p[n:], c.in.peek())
		c.in.take(k, &c.dev.segments)
		n += k
	}
	c.readable.Broadcast() // to other readers
	c.state.Recv.taken(uint32(n))
	if c.state.Recv.due() && !c.state.OwesCredit {
		c.state.OwesCredit = true
		c.schedule()
	}
	return n, nil
}

// copyOut is called with c.mu held, and lets go of it meanwhile.
func (c *vsockConn) copyOut(to, from []byte) int {
	c.mu.Unlock()
	defer c.mu.Lock()
	return copy(to, from)
}

// readError is why there is nothing to wait for. Called with c.mu held.
func (c *vsockConn) readError() error {
	switch s := &c.state; {
	case c.closed:
		return net.ErrClosed
	case c.readBy.expired:
		return os.ErrDeadlineExceeded
	case s.LocalShut&vsockShutReceive != 0:
		return io.EOF
	case c.in.n > 0 || c.in.draining || c.in.filling:
		return nil
	case s.PeerShut&vsockShutSend != 0:
		return io.EOF
	}
	return c.err
}

// Write waits until all of p lies in the guest's memory, or the connection
// ends, or the deadline passes. How much the guest takes is its own affair:
// nothing is buffered here.
func (c *vsockConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if err := c.writeError(); err != nil {
			return 0, c.opError("write", err)
		}
		if !c.outTaken {
			break
		}
		c.writable.Wait()
	}
	if len(p) == 0 {
		return 0, nil
	}
	c.outTaken, c.out = true, p
	c.schedule()
	var err error
	for len(c.out) > 0 || c.outBusy {
		if err == nil {
			err = c.writeError()
		}
		if c.outLeaving = err != nil; c.outLeaving && !c.outBusy {
			break
		}
		c.writable.Wait()
	}
	n := len(p) - len(c.out)
	c.outTaken, c.outLeaving, c.out = false, false, nil
	c.writable.Broadcast() // to other writers
	if n < len(p) {
		return n, c.opError("write", err)
	}
	return n, nil
}

// writeError is why nothing can be sent. Called with c.mu held.
func (c *vsockConn) writeError() error {
	switch s := &c.state; {
	case c.closed:
		return net.ErrClosed
	case c.writeBy.expired:
		return os.ErrDeadlineExceeded
	case c.err != nil:
		return c.err
	case s.LocalShut&vsockShutSend != 0, s.PeerShut&vsockShutReceive != 0:
		return syscall.EPIPE
	}
	return nil
}

// Close ends the connection. The guest is told, and has some seconds to answer
// before the port can be used again; Close does not wait for that.
func (c *vsockConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	c.readBy.stop()
	c.writeBy.stop()
	c.in.drop(&c.dev.segments)
	c.readable.Broadcast()
	c.writable.Broadcast()
	if c.state.Phase == vsockOpen {
		c.state.Phase = vsockClosing
		c.state.LocalShut, c.state.OwesShut = vsockShutBoth, true
		c.startTimer(c.dev.closeTimeout, syscall.ETIMEDOUT)
		c.schedule()
	}
	c.dev.release(c)
	return nil
}

// CloseWrite tells the guest that no more data will come. A Write that is
// waiting fails.
func (c *vsockConn) CloseWrite() error { return c.shutdown(vsockShutSend) }

// CloseRead tells the guest that no more data will be read, and discards what
// was not read.
func (c *vsockConn) CloseRead() error { return c.shutdown(vsockShutReceive) }

func (c *vsockConn) shutdown(flag uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return c.opError("shutdown", net.ErrClosed)
	case c.err != nil:
		return c.opError("shutdown", syscall.ENOTCONN)
	}
	if c.state.LocalShut&flag == 0 {
		c.state.LocalShut |= flag
		c.state.OwesShut = true
		c.schedule()
	}
	if flag == vsockShutReceive {
		c.in.drop(&c.dev.segments)
	}
	c.readable.Broadcast()
	c.writable.Broadcast()
	return nil
}

// LocalAddr returns a VsockAddr.
func (c *vsockConn) LocalAddr() net.Addr {
	return VsockAddr{vsockHostCID, c.state.Key.local} // never changes
}

// RemoteAddr returns a VsockAddr.
func (c *vsockConn) RemoteAddr() net.Addr {
	return VsockAddr{uint32(c.dev.cid), c.state.Key.peer} // never changes
}

// opError wraps err as package net does. Called with c.mu held or not.
func (c *vsockConn) opError(op string, err error) error {
	if err == io.EOF {
		return err
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: "vsock", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}
