package virtio

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
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

// TestVsockConn_DeadlineWhileCopying: a Write does not return while the rx
// worker reads from its slice.
func TestVsockConn_DeadlineWhileCopying(t *testing.T) {
	w := newVsockWire(t)
	c := w.connected()
	done := startWrite(c, []byte("hello"))
	var h vsockHeader
	require.Eventually(t, c.pending, 10*time.Second, time.Millisecond)
	payload, ok := c.next(&h, 3)
	require.True(t, ok)
	require.NoError(t, c.SetWriteDeadline(time.Now()))
	select {
	case <-done:
		require.Fail(t, "slice is still in use")
	case <-time.After(20 * time.Millisecond):
	}
	c.sent(len(payload))
	r := within(t, done)
	require.Equal(t, 3, r.n)
	require.ErrorIs(t, r.err, os.ErrDeadlineExceeded)
}

// TestVsockConn_Writers: the bytes of one Write stay together.
func TestVsockConn_Writers(t *testing.T) {
	w := newVsockWire(t)
	c := w.connected()
	u := w.guest(vsockOpCreditUpdate, 5000, 1024)
	var wg sync.WaitGroup
	const each = 50
	for i := range 8 {
		wg.Go(func() {
			for range each {
				if _, err := c.Write(bytes.Repeat([]byte{byte(i)}, 100)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var got []byte
	for len(got) < 8*each*100 {
		if p, ok := w.recv(37); ok && p.op == vsockOpRW {
			got = append(got, p.data...)
			u.fwdCnt = uint32(len(got))
			w.send(u)
		}
	}
	wg.Wait()
	for ; len(got) > 0; got = got[100:] {
		require.Equal(t, bytes.Repeat(got[:1], 100), got[:100])
	}
}

// TestVsockReset_T37: a reset ends connections and spares listeners, and dials
// that the guest has not heard of.
func TestVsockReset_T37(t *testing.T) {
	w := newVsockWire(t)
	c := w.connected()
	sent := w.dial(t.Context(), 9)
	w.expect(vsockOpRequest)
	waiting := w.dial(t.Context(), 10)
	require.Eventually(t, func() bool { n, _ := w.conns(); return n == 3 }, 10*time.Second, time.Millisecond)
	read := startRead(c, make([]byte, 1))
	w.send(w.guest(vsockOpRW, 77, 77)) // a RST waits

	w.v.Reset()
	require.ErrorIs(t, within(t, read).err, syscall.ECONNRESET)
	require.ErrorIs(t, within(t, sent).err, syscall.ECONNRESET)
	_, err := c.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.ECONNRESET)

	p := w.expect(vsockOpRequest)
	w.send(w.guest(vsockOpResponse, 10, p.srcPort))
	require.NoError(t, within(t, waiting).err)
	w.accepted(w.v.listeners[1024], 5000)
}

// TestVsockRoundRobin: one writer with much to send does not keep others
// waiting.
func TestVsockRoundRobin(t *testing.T) {
	w := newVsockWire(t)
	l, err := w.v.Listen(1024)
	require.NoError(t, err)
	bulk, small := w.accepted(l, 1), w.accepted(l, 2)
	done := startWrite(bulk, make([]byte, 200<<10))
	w.expectIn(vsockOpRW, 1000)
	startWrite(small, []byte("x"))
	require.Eventually(t, small.pending, 10*time.Second, time.Millisecond)
	for i := 0; ; i++ {
		if p := w.expectIn(vsockOpRW, 1000); p.dstPort == 2 {
			break
		}
		require.Less(t, i, 3)
	}
	bulk.Close()
	within(t, done)
}

// TestVsockBuffer is the receive buffer against a byte slice.
func TestVsockBuffer(t *testing.T) {
	pool := sync.Pool{New: func() any { return new(vsockSegment) }}
	rng := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		var q vsockBuffer
		var want, got []byte
		var busy []byte
		for range 300 {
			if rng.IntN(2) == 0 && q.n < vsockWindow {
				b := make([]byte, 1+rng.IntN(40<<10))
				for i := range b {
					b[i] = byte(rng.Uint32())
				}
				s := q.reserve(len(b), &pool)
				if rng.IntN(2) == 0 && q.n > 0 { // a reader in between
					p := q.peek()
					got = append(got, p...)
					q.take(len(p), &pool)
				}
				for rest := b; len(rest) > 0; s = s.next {
					rest = rest[copy(s.b[s.w:], rest):]
				}
				q.commit(len(b), &pool)
				want = append(want, b...)
			} else if q.n > 0 {
				busy = q.peek()
				k := 1 + rng.IntN(len(busy))
				got = append(got, busy[:k]...)
				q.take(k, &pool)
			}
			require.Equal(t, len(want)-len(got), q.n)
			if q.n == 0 {
				require.Nil(t, q.head)
			}
		}
		for q.n > 0 {
			p := q.peek()
			got = append(got, p...)
			q.take(len(p), &pool)
		}
		require.True(t, bytes.Equal(want, got))
		require.Nil(t, q.head)
	}
}
