package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// vsockAddr is an address of AF_VSOCK.
type vsockAddr struct{ cid, port uint32 }

func (vsockAddr) Network() string  { return "vsock" }
func (a vsockAddr) String() string { return fmt.Sprintf("%d:%d", a.cid, a.port) }

// vsockConn is a stream socket behind the runtime's poller. os.File has all
// that net.Conn asks for but the addresses.
type vsockConn struct {
	*os.File
	remote vsockAddr
}

func (c *vsockConn) LocalAddr() net.Addr  { return vsockAddr{cid: unix.VMADDR_CID_ANY} }
func (c *vsockConn) RemoteAddr() net.Addr { return c.remote }

// Close ends the connection in both directions even while a read or a write
// is under way, which a mere close of the descriptor would wait for.
func (c *vsockConn) Close() error {
	if rc, err := c.SyscallConn(); err == nil {
		_ = rc.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	}
	return c.File.Close()
}

// CloseWrite tells the peer that no more will come.
func (c *vsockConn) CloseWrite() error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var opErr error
	if err := rc.Control(func(fd uintptr) { opErr = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
		return err
	}
	return opErr
}

// dialVsock connects to a port of another machine. The kernel gives up after
// two seconds without an answer.
func dialVsock(cid, port uint32) (net.Conn, error) {
	addr := vsockAddr{cid, port}
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, &Error{Op: "vsock socket", Err: err}
	}
	err = unix.Connect(fd, &unix.SockaddrVM{CID: cid, Port: port})
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return nil, &Error{Op: "connect to vsock", Path: addr.String(), Err: err}
	}
	return &vsockConn{File: os.NewFile(uintptr(fd), "vsock"), remote: addr}, nil
}

// vsockListener accepts connections from one peer only: the host. A process
// of the guest that reaches the port, through a loopback transport, is none.
type vsockListener struct {
	file *os.File
	addr vsockAddr
	peer uint32
}

// vsockBacklog is how many connections may wait to be accepted: a guest that is
// busy refuses none of as many commands as may begin at once.
const vsockBacklog = maxExecs

func listenVsock(port, peer uint32) (*vsockListener, error) {
	addr := vsockAddr{unix.VMADDR_CID_ANY, port}
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, &Error{Op: "vsock socket", Err: err}
	}
	err = unix.Bind(fd, &unix.SockaddrVM{CID: addr.cid, Port: addr.port})
	if err == nil {
		err = unix.Listen(fd, vsockBacklog)
	}
	if err != nil {
		unix.Close(fd)
		return nil, &Error{Op: "listen on vsock", Path: addr.String(), Err: err}
	}
	f := os.NewFile(uintptr(fd), "vsock listener")
	return &vsockListener{file: f, addr: addr, peer: peer}, nil
}

// Accept implements net.Listener.
func (l *vsockListener) Accept() (net.Conn, error) {
	rc, err := l.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	for {
		var fd int
		var from unix.Sockaddr
		var opErr error
		err := rc.Read(func(lfd uintptr) bool {
			fd, from, opErr = unix.Accept4(int(lfd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return !errors.Is(opErr, unix.EAGAIN)
		})
		if err != nil {
			return nil, err
		}
		switch {
		case errors.Is(opErr, unix.EINTR), errors.Is(opErr, unix.ECONNABORTED):
			continue
		case errors.Is(opErr, unix.EMFILE), errors.Is(opErr, unix.ENFILE), errors.Is(opErr, unix.ENOMEM), errors.Is(opErr, unix.ENOBUFS):
			time.Sleep(20 * time.Millisecond) // until something is closed
			continue
		case opErr != nil:
			return nil, &Error{Op: "accept on vsock", Path: l.addr.String(), Err: opErr}
		}
		if vm, ok := from.(*unix.SockaddrVM); ok && vm.CID == l.peer {
			f := os.NewFile(uintptr(fd), "vsock")
			return &vsockConn{File: f, remote: vsockAddr{vm.CID, vm.Port}}, nil
		}
		unix.Close(fd)
	}
}

// Close implements net.Listener.
func (l *vsockListener) Close() error { return l.file.Close() }

// Addr implements net.Listener.
func (l *vsockListener) Addr() net.Addr { return l.addr }
