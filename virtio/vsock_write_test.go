package virtio

import (
	"bytes"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

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
