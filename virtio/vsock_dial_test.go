package virtio

import (
	"context"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestVsockDial(t *testing.T) {
	w := newVsockWire(t)
	res := w.dial(t.Context(), 1024)
	p := w.expect(vsockOpRequest)
	require.Equal(t, [4]uint64{2, 3, 1024, vsockWindow},
		[4]uint64{p.srcCID, p.dstCID, uint64(p.dstPort), uint64(p.bufAlloc)})
	w.send(w.guest(vsockOpResponse, 1024, p.srcPort))
	r := within(t, res)
	require.NoError(t, r.err)
	require.Equal(t, VsockAddr{2, p.srcPort}, r.c.LocalAddr())
	require.Equal(t, VsockAddr{3, 1024}, r.c.RemoteAddr())
	require.Equal(t, "vsock", r.c.RemoteAddr().Network())
	require.Equal(t, "3:1024", r.c.RemoteAddr().String())
	done := startWrite(r.c, []byte("hello"))
	require.Equal(t, "hello", string(w.expect(vsockOpRW).data))
	require.Equal(t, ioResult{5, nil}, within(t, done))
}

func TestVsockDial_Refused(t *testing.T) {
	w := newVsockWire(t)
	res := w.dial(t.Context(), 1024)
	p := w.expect(vsockOpRequest)
	w.send(w.guest(vsockOpRst, 1024, p.srcPort))
	r := within(t, res)
	require.ErrorIs(t, r.err, syscall.ECONNREFUSED)
	var op *net.OpError
	require.ErrorAs(t, r.err, &op)
	require.Equal(t, "dial", op.Op)
	table, live := w.conns()
	require.Zero(t, table+live)
	w.expectNothing()
}

func TestVsockDial_T61_WrongAnswer(t *testing.T) {
	for _, op := range []uint16{vsockOpRW, vsockOpShutdown, vsockOpCreditUpdate, vsockOpRequest, 99} {
		w := newVsockWire(t)
		res := w.dial(t.Context(), 1024)
		p := w.expect(vsockOpRequest)
		w.send(w.guest(op, 1024, p.srcPort))
		require.ErrorIs(t, within(t, res).err, syscall.EPROTO)
		w.expect(vsockOpRst)
		table, live := w.conns()
		require.Zero(t, table+live)
	}
}

// TestVsockDial_ClosedAtOnce: what the guest said before it went is not lost.
func TestVsockDial_ClosedAtOnce(t *testing.T) {
	w := newVsockWire(t)
	c, err := w.v.newDial(1024)
	require.NoError(t, err)
	p := w.expect(vsockOpRequest)
	w.send(w.guest(vsockOpResponse, 1024, p.srcPort))
	d := w.guest(vsockOpRW, 1024, p.srcPort)
	d.data = []byte("bye")
	w.send(d)
	w.send(w.guest(vsockOpRst, 1024, p.srcPort))
	require.NoError(t, c.dialErr)
	b := make([]byte, 5)
	n, err := c.Read(b)
	require.NoError(t, err)
	require.Equal(t, "bye", string(b[:n]))
}

func TestVsockDial_Context(t *testing.T) {
	w := newVsockWire(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := w.v.Dial(ctx, 1024)
	require.ErrorIs(t, err, context.Canceled)

	// Before the guest has heard of it: nothing is sent.
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = w.v.Dial(ctx, 1024)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	var ne net.Error
	require.ErrorAs(t, err, &ne)
	require.True(t, ne.Timeout())
	w.expectNothing()

	// Afterwards: the guest may have accepted already.
	ctx, cancel = context.WithCancel(t.Context())
	res := w.dial(ctx, 1024)
	p := w.expect(vsockOpRequest)
	cancel()
	require.ErrorIs(t, within(t, res).err, context.Canceled)
	w.send(w.guest(vsockOpResponse, 1024, p.srcPort))
	w.expect(vsockOpRst)
	table, live := w.conns()
	require.Zero(t, table+live)
}

func TestVsockDial_T63_HalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newVsockWire(t)
		res := w.dial(context.Background(), 1024)
		w.expect(vsockOpRequest)
		start := time.Now()
		r := <-res
		require.ErrorIs(t, r.err, syscall.ETIMEDOUT)
		require.Equal(t, vsockOpenTimeout, time.Since(start))
		w.expect(vsockOpRst)
		table, live := w.conns()
		require.Zero(t, table+live)
	})
}

// TestVsockDial_Ephemeral: the host's ports differ, wrap, and keep clear of
// listeners.
func TestVsockDial_Ephemeral(t *testing.T) {
	w := newVsockWire(t)
	w.v.nextPort = vsockLastEphemeral - 1
	_, err := w.v.Listen(vsockFirstEphemeral)
	require.NoError(t, err)
	var got []uint32
	for range 4 {
		c, err := w.v.newDial(7)
		require.NoError(t, err)
		got = append(got, c.state.Key.local)
	}
	require.Equal(t, []uint32{vsockLastEphemeral - 1, vsockLastEphemeral, vsockFirstEphemeral + 1, vsockFirstEphemeral + 2}, got)
	_, err = w.v.Dial(t.Context(), vsockAnyPort)
	require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
}

func TestVsockListen_Errors(t *testing.T) {
	w := newVsockWire(t)
	l, err := w.v.Listen(1024)
	require.NoError(t, err)
	require.Equal(t, VsockAddr{2, 1024}, l.Addr())
	_, err = w.v.Listen(1024)
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	_, err = w.v.Listen(vsockAnyPort)
	require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
	accepted := make(chan error, 1)
	go func() { _, err := l.Accept(); accepted <- err }()
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	require.ErrorIs(t, within(t, accepted), net.ErrClosed)
	l, err = w.v.Listen(1024)
	require.NoError(t, err)
	go func() { _, err := l.Accept(); accepted <- err }()
	require.NoError(t, w.v.Close())
	require.ErrorIs(t, within(t, accepted), net.ErrClosed)
	_, err = w.v.Listen(1025)
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = w.v.Dial(t.Context(), 1)
	require.ErrorIs(t, err, syscall.ENETDOWN)
}
