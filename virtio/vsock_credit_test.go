package virtio

import (
	"bytes"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestVsockSendCredit_T62_Saturates(t *testing.T) {
	const top = 1<<32 - 1
	for _, start := range []uint32{0, 1 << 31, top - 50} { // counters wrap
		c := vsockSendCredit{TxCnt: start, PeerFwdCnt: start}
		c.update(100, start)
		require.EqualValues(t, 100, c.free())
		c.take(80)
		require.EqualValues(t, 20, c.free())
		c.update(50, start) // shrinks below what is in flight
		require.Zero(t, c.free())
		c.update(0, start)
		require.Zero(t, c.free())
		c.update(top, start)
		require.EqualValues(t, vsockMaxInFlight-80, c.free())
		c.update(100, start+80)
		require.EqualValues(t, 100, c.free())
		for _, bad := range []uint32{start + 81, start + 79, start, start - 1, start + 1<<31} {
			c.update(100, bad) // backwards, or more than was ever sent
			require.EqualValues(t, 100, c.free(), "fwd_cnt %d", bad)
		}
	}
}

func TestVsockRecvCredit_T62_NeverMoreThanTheWindow(t *testing.T) {
	c := vsockRecvCredit{Window: 1000, RxCnt: 1<<32 - 10, FwdCnt: 1<<32 - 10, Announced: 1<<32 - 10}
	require.True(t, c.accept(1000))
	require.False(t, c.accept(1))
	require.False(t, c.accept(1<<32-1))
	require.False(t, c.due())
	c.taken(249)
	require.False(t, c.due())
	c.taken(1)
	require.True(t, c.due())
	_, fwd := c.announce()
	require.EqualValues(t, 240, fwd)
	require.False(t, c.due())
	require.True(t, c.accept(250))
	require.False(t, c.accept(1))
}

// TestVsockCredit_T62_GuestExceeds: a guest that sends more than it was allowed
// loses the connection; what it had credit for stays readable.
func TestVsockCredit_T62_GuestExceeds(t *testing.T) {
	w := newVsockWire(t)
	c := w.connected()
	p := w.guest(vsockOpRW, 5000, 1024)
	p.data = bytes.Repeat([]byte("x"), 64<<10)
	for range vsockWindow / len(p.data) {
		w.send(p)
	}
	w.expectNothing()
	p.data = []byte("x")
	w.send(p)
	w.expect(vsockOpRst)
	b := make([]byte, vsockWindow+1)
	n, err := c.Read(b)
	require.NoError(t, err)
	require.Equal(t, vsockWindow, n)
	_, err = c.Read(b)
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

// TestVsockCredit_Updates: a peer that is about to run out hears in time, and
// no oftener than it must.
func TestVsockCredit_Updates(t *testing.T) {
	w := newVsockWire(t)
	c := w.connected()
	p := w.guest(vsockOpRW, 5000, 1024)
	p.data = make([]byte, 32<<10)
	credit, updates := vsockWindow, 0
	var acked uint32
	b := make([]byte, 32<<10)
	for range 1000 {
		require.GreaterOrEqual(t, credit, len(p.data))
		w.send(p)
		credit -= len(p.data)
		_, err := c.Read(b)
		require.NoError(t, err)
		if u, ok := w.recv(0); ok {
			require.EqualValues(t, vsockOpCreditUpdate, u.op)
			updates++
			credit += int(u.fwdCnt - acked)
			acked = u.fwdCnt
		}
	}
	require.Less(t, updates, 300)
}

func TestVsockCredit_Request(t *testing.T) {
	w := newVsockWire(t)
	w.connected()
	for range 100 {
		w.send(w.guest(vsockOpCreditRequest, 5000, 1024))
	}
	u := w.expect(vsockOpCreditUpdate)
	require.EqualValues(t, vsockWindow, u.bufAlloc)
	w.expectNothing() // one answer is enough
}

// TestVsockCredit_T66_ZeroBuffer: a guest without a buffer stalls its own
// connection and nothing else.
func TestVsockCredit_T66_ZeroBuffer(t *testing.T) {
	w := newVsockWire(t)
	c := w.connected()
	u := w.guest(vsockOpCreditUpdate, 5000, 1024)
	u.bufAlloc = 0
	w.send(u)
	done := startWrite(c, []byte("hello"))
	w.expect(vsockOpCreditRequest)
	for range 100 {
		w.send(u)
		w.expectNothing() // it was asked once
	}

	other := w.accepted(w.v.listeners[1024], 5001)
	otherDone := startWrite(other, []byte("world"))
	require.Equal(t, "world", string(w.expect(vsockOpRW).data))
	require.Equal(t, ioResult{5, nil}, within(t, otherDone))

	u.bufAlloc = 2
	w.send(u)
	require.Equal(t, "he", string(w.expect(vsockOpRW).data))
	w.expect(vsockOpCreditRequest)
	require.NoError(t, c.SetWriteDeadline(time.Now()))
	r := within(t, done)
	require.Equal(t, 2, r.n)
	require.ErrorIs(t, r.err, os.ErrDeadlineExceeded)
}

// TestVsockCredit_T62_BufferShrinks: credit that is taken away while data is in
// flight makes the writer wait, and is not counted below zero.
func TestVsockCredit_T62_BufferShrinks(t *testing.T) {
	w := newVsockWire(t)
	c := w.connected()
	data := bytes.Repeat([]byte("0123456789"), 10)
	u := w.guest(vsockOpCreditUpdate, 5000, 1024)
	u.bufAlloc = 50
	w.send(u)
	done := startWrite(c, data)
	require.Len(t, w.expect(vsockOpRW).data, 50)
	w.expect(vsockOpCreditRequest)
	u.bufAlloc, u.fwdCnt = 10, 20
	w.send(u)
	w.expectNothing()
	u.bufAlloc = 1<<32 - 1
	u.fwdCnt = 10 // backwards
	w.send(u)
	require.Len(t, w.expect(vsockOpRW).data, 50)
	require.Equal(t, ioResult{100, nil}, within(t, done))
}
