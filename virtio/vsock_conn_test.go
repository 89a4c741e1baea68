package virtio

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestVsockConn_HalfClose(t *testing.T) {
	w := newVsockWire(t)
	c := w.connected()
	require.NoError(t, c.CloseWrite())
	p := w.expect(vsockOpShutdown)
	require.EqualValues(t, vsockShutSend, p.flags)
	require.NoError(t, c.CloseWrite())
	w.expectNothing() // said once
	_, err := c.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.EPIPE)

	// The guest goes on.
	d := w.guest(vsockOpRW, 5000, 1024)
	d.data = []byte("answer")
	w.send(d)
	s := w.guest(vsockOpShutdown, 5000, 1024)
	s.flags = vsockShutBoth
	w.send(s)
	w.expect(vsockOpRst) // and may use the port again
	b, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "answer", string(b))
	table, live := w.conns()
	require.Equal(t, [2]int{0, 1}, [2]int{table, live})
	require.NoError(t, c.Close())
	_, live = w.conns()
	require.Zero(t, live)
	w.expectNothing()
}

func TestVsockConn_CloseRead(t *testing.T) {
	w := newVsockWire(t)
	c := w.connected()
	d := w.guest(vsockOpRW, 5000, 1024)
	d.data = make([]byte, 60<<10)
	w.send(d)
	require.NoError(t, c.CloseRead())
	p := w.expect(vsockOpShutdown)
	require.EqualValues(t, vsockShutReceive, p.flags)
	for range 100 { // on its way: discarded, not an offence
		w.send(d)
	}
	require.Zero(t, c.in.n)
	require.Nil(t, c.in.head)
	_, err := c.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	done := startWrite(c, []byte("x"))
	require.Len(t, w.expect(vsockOpRW).data, 1)
	require.Equal(t, ioResult{1, nil}, within(t, done))
	require.NoError(t, c.CloseWrite())
	require.EqualValues(t, vsockShutBoth, w.expect(vsockOpShutdown).flags)
}

// TestVsockConn_GuestStopsReading: a waiting Write fails, what comes is read.
func TestVsockConn_GuestStopsReading(t *testing.T) {
	w := newVsockWire(t)
	c := w.connected()
	u := w.guest(vsockOpCreditUpdate, 5000, 1024)
	u.bufAlloc = 0
	w.send(u)
	done := startWrite(c, []byte("hello"))
	w.expect(vsockOpCreditRequest)
	s := w.guest(vsockOpShutdown, 5000, 1024)
	s.flags = vsockShutReceive
	w.send(s)
	r := within(t, done)
	require.Zero(t, r.n)
	require.ErrorIs(t, r.err, syscall.EPIPE)
	d := w.guest(vsockOpRW, 5000, 1024)
	d.data = []byte("hi")
	w.send(d)
	b := make([]byte, 5)
	n, err := c.Read(b)
	require.NoError(t, err)
	require.Equal(t, "hi", string(b[:n]))
}

// TestVsockConn_T65_NothingAfterShutdown: no data follows our SHUTDOWN, though
// the Write that waits has not noticed yet.
func TestVsockConn_T65_NothingAfterShutdown(t *testing.T) {
	w := newVsockWire(t)
	c := w.connected()
	c.mu.Lock()
	c.outTaken, c.out = true, []byte("late") // as a Write that has not woken up
	c.mu.Unlock()
	require.NoError(t, c.CloseWrite())
	w.expect(vsockOpShutdown)
	w.send(w.guest(vsockOpCreditUpdate, 5000, 1024))
	w.expectNothing()
}

func TestVsockConn_Close(t *testing.T) {
	w := newVsockWire(t)
	c := w.connected()
	d := w.guest(vsockOpRW, 5000, 1024)
	d.data = []byte("unread")
	w.send(d)
	u := w.guest(vsockOpCreditUpdate, 5000, 1024)
	u.bufAlloc = 0
	w.send(u)
	write := startWrite(c, []byte("stuck"))
	w.expect(vsockOpCreditRequest)
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	require.ErrorIs(t, within(t, write).err, net.ErrClosed)
	p := w.expect(vsockOpShutdown)
	require.EqualValues(t, vsockShutBoth, p.flags)
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, c.SetDeadline(time.Now()), net.ErrClosed)
	require.ErrorIs(t, c.CloseWrite(), net.ErrClosed)
	w.send(d) // on its way
	w.expectNothing()
	require.Nil(t, c.in.head)
	w.send(w.guest(vsockOpRst, 5000, 1024))
	w.expectNothing()
	table, live := w.conns()
	require.Zero(t, table+live)
	require.Nil(t, c.timer)
}

func TestVsockConn_CloseTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newVsockWire(t)
		c := w.connected()
		require.NoError(t, c.Close())
		w.expect(vsockOpShutdown)
		time.Sleep(vsockCloseTimeout - time.Second)
		synctest.Wait()
		w.expectNothing()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		w.expect(vsockOpRst)
		table, live := w.conns()
		require.Zero(t, table+live)
	})
}

// TestVsockConn_CloseBoth: SHUTDOWNs that cross end in a RST from us.
func TestVsockConn_CloseBoth(t *testing.T) {
	w := newVsockWire(t)
	c := w.connected()
	require.NoError(t, c.Close())
	s := w.guest(vsockOpShutdown, 5000, 1024)
	s.flags = vsockShutBoth
	w.send(s)
	w.expect(vsockOpRst)
	w.expectNothing()
	table, live := w.conns()
	require.Zero(t, table+live)
	// The same port again.
	w.accepted(w.v.listeners[1024], 5000)
}

func TestVsockConn_Reset(t *testing.T) {
	w := newVsockWire(t)
	c := w.connected()
	d := w.guest(vsockOpRW, 5000, 1024)
	d.data = []byte("before")
	w.send(d)
	w.send(w.guest(vsockOpRst, 5000, 1024))
	b := make([]byte, 10)
	n, err := c.Read(b)
	require.NoError(t, err)
	require.Equal(t, "before", string(b[:n]))
	_, err = c.Read(b)
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	require.Equal(t, "read", op.Op)
	require.True(t, errors.Is(err, syscall.ECONNRESET))
	_, err = c.Write(b)
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.ErrorIs(t, c.CloseWrite(), syscall.ENOTCONN)
	require.NoError(t, c.Close())
	w.expectNothing()
}

func TestVsockConn_Deadlines(t *testing.T) {
	w := newVsockWire(t)
	c := w.connected()
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Millisecond)))
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	_, err = c.Write([]byte("x"))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, c.SetDeadline(time.Time{}))
	r := startRead(c, make([]byte, 1))
	require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Hour)))
	require.NoError(t, c.SetReadDeadline(time.Now().Add(-time.Hour)))
	require.ErrorIs(t, within(t, r).err, os.ErrDeadlineExceeded)
	require.NoError(t, c.SetReadDeadline(time.Time{}))
	d := w.guest(vsockOpRW, 5000, 1024)
	d.data = []byte("x")
	w.send(d)
	n, err := c.Read(make([]byte, 1))
	require.NoError(t, err)
	require.Equal(t, 1, n)
}
