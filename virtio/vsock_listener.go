package virtio

import (
	"net"
	"os"
	"sync"
	"syscall"
)

// vsockBacklog is how many connections may wait for Accept on one port. The
// guest's next are refused.
const vsockBacklog = 128

// vsockListener is a port that the guest can connect to.
type vsockListener struct {
	dev     *Vsock
	port    uint32
	backlog chan *vsockConn // sent to under Vsock.mu, while in the table
	once    sync.Once
	done    chan struct{} // closed by Close
}

// Listen opens a port of the host to the guest. Listeners outlive the guest's
// driver: they serve whichever is active.
func (v *Vsock) Listen(port uint32) (net.Listener, error) {
	l := &vsockListener{
		dev:     v,
		port:    port,
		backlog: make(chan *vsockConn, vsockBacklog),
		done:    make(chan struct{}),
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var err error
	switch {
	case v.closed:
		err = net.ErrClosed
	case port == vsockAnyPort:
		err = os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)
	case v.listeners[port] != nil:
		err = os.NewSyscallError("bind", syscall.EADDRINUSE)
	default:
		v.listeners[port] = l
		return l, nil
	}
	return nil, &net.OpError{Op: "listen", Net: "vsock", Addr: l.Addr(), Err: err}
}

// Accept waits for the guest to connect. Connections that the guest has reset
// meanwhile, without having sent anything, are passed over.
func (l *vsockListener) Accept() (net.Conn, error) {
	for {
		select {
		case <-l.done:
			return nil, &net.OpError{Op: "accept", Net: "vsock", Addr: l.Addr(), Err: net.ErrClosed}
		case c := <-l.backlog:
			c.mu.Lock()
			gone := c.err != nil && c.in.n == 0
			c.mu.Unlock()
			if !gone {
				return c, nil
			}
			c.Close()
		}
	}
}

// Close frees the port. Connections that nobody has accepted are closed, and
// waiting Accepts fail.
func (l *vsockListener) Close() error {
	l.once.Do(func() {
		l.dev.mu.Lock()
		delete(l.dev.listeners, l.port)
		l.dev.mu.Unlock()
		close(l.done)
		// Nobody sends any more. An Accept may take one all the same, and
		// then its caller has it.
		for {
			select {
			case c := <-l.backlog:
				c.abort()
			default:
				return
			}
		}
	})
	return nil
}

// Addr returns a VsockAddr.
func (l *vsockListener) Addr() net.Addr { return VsockAddr{vsockHostCID, l.port} }

// abort resets the connection, which no user has seen.
func (c *vsockConn) abort() {
	c.mu.Lock()
	c.reset(syscall.ECONNRESET)
	c.mu.Unlock()
	c.Close()
}
