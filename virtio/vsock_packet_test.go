package virtio

import (
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVsockPacket_T61_Addresses(t *testing.T) {
	w := newVsockWire(t)
	_, err := w.v.Listen(1024)
	require.NoError(t, err)
	for _, cid := range []uint64{0, 1, 2, 4, 3 | 1<<32, 1<<32 - 1, 1<<64 - 1} {
		p := w.guest(vsockOpRequest, 5000, 1024)
		p.srcCID = cid
		w.send(p)
		w.expectNothing()
	}
	for _, cid := range []uint64{0, 1, 3, 4, 2 | 1<<32, 1<<64 - 1} {
		p := w.guest(vsockOpRequest, 5000, 1024)
		p.dstCID = cid
		w.send(p)
		w.expectNothing()
	}
	w.send(w.guest(vsockOpRequest, 5000, 1024))
	w.expect(vsockOpResponse)
}

func TestVsockPacket_T61_UnknownType(t *testing.T) {
	w := newVsockWire(t)
	c := w.connected()
	for _, typ := range []uint16{0, 2, 3, 0xffff} {
		p := w.guest(vsockOpRW, 5000, 1024)
		p.typ, p.data = typ, []byte("x")
		w.send(p)
		r := w.expect(vsockOpRst) // virtio 1.2 §5.10.6.4
		require.Equal(t, typ, r.typ)
		p.op = vsockOpRst
		w.send(p)
		w.expectNothing() // a RST is not answered
	}
	// The stream is another matter.
	p := w.guest(vsockOpRW, 5000, 1024)
	p.data = []byte("y")
	w.send(p)
	b := make([]byte, 10)
	n, err := c.Read(b)
	require.NoError(t, err)
	require.Equal(t, "y", string(b[:n]))
}

func TestVsockPacket_T61_UnknownOp(t *testing.T) {
	for _, op := range []uint16{vsockOpInvalid, vsockOpRequest, vsockOpResponse, 8, 9, 0xffff} {
		w := newVsockWire(t)
		c := w.connected()
		w.send(w.guest(op, 5000, 1024))
		w.expect(vsockOpRst)
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		_, err = c.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		w.expectNothing()
	}
}

func TestVsockPacket_T61_NoConnection(t *testing.T) {
	w := newVsockWire(t)
	for op := range uint16(10) {
		w.send(w.guest(op, 5000, 1024))
		if op == vsockOpRst {
			w.expectNothing()
			continue
		}
		r := w.expect(vsockOpRst)
		require.Equal(t, [4]uint32{1024, 5000, 2, 3}, [4]uint32{r.srcPort, r.dstPort, uint32(r.srcCID), uint32(r.dstCID)})
	}
}

func TestVsockPacket_T64_OnlyListeningPorts(t *testing.T) {
	w := newVsockWire(t)
	l, err := w.v.Listen(1024)
	require.NoError(t, err)
	for _, port := range []uint32{0, 1, 22, 1023, 1025, 1<<32 - 1} {
		w.send(w.guest(vsockOpRequest, 5000, port))
		w.expect(vsockOpRst)
	}
	require.NoError(t, l.Close())
	w.send(w.guest(vsockOpRequest, 5000, 1024))
	w.expect(vsockOpRst)
	table, live := w.conns()
	require.Zero(t, table+live)
}

func TestVsockPacket_T60_Length(t *testing.T) {
	for name, p := range map[string]vsockPacket{
		"more than there is": {length: 11, data: make([]byte, 10)},
		"more than 64 KiB":   {length: 64<<10 + 1, data: make([]byte, 64<<10+1)},
		"all ones":           {length: 1<<32 - 1, data: make([]byte, 10)},
		"sign bit":           {length: 1 << 31, data: make([]byte, 10)},
	} {
		t.Run(name, func(t *testing.T) {
			w := newVsockWire(t)
			c := w.connected()
			q := w.guest(vsockOpRW, 5000, 1024)
			q.length, q.data = p.length, p.data
			w.send(q)
			w.expect(vsockOpRst)
			_, err := c.Read(make([]byte, 1))
			require.ErrorIs(t, err, syscall.ECONNRESET)

			q.op, q.srcPort = vsockOpRequest, 6000
			w.send(q)
			w.expect(vsockOpRst)
			table, _ := w.conns()
			require.Zero(t, table)
		})
	}
	t.Run("less than there is", func(t *testing.T) {
		w := newVsockWire(t)
		c := w.connected()
		q := w.guest(vsockOpRW, 5000, 1024)
		q.length, q.data = 3, []byte("abcdef") // virtio 1.2 §5.10.6: the rest is padding
		w.send(q)
		b := make([]byte, 10)
		n, err := c.Read(b)
		require.NoError(t, err)
		require.Equal(t, "abc", string(b[:n]))
	})
}

func TestVsockPacket_T65_ZeroLengthAndAfterShutdown(t *testing.T) {
	w := newVsockWire(t)
	c := w.connected()
	w.send(w.guest(vsockOpRW, 5000, 1024))
	w.expectNothing()

	p := w.guest(vsockOpRW, 5000, 1024)
	p.data = []byte("last words")
	w.send(p)
	s := w.guest(vsockOpShutdown, 5000, 1024)
	s.flags = vsockShutSend
	w.send(s)
	s.flags = 0 // "successive packets with bits clear do not reset them"
	w.send(s)
	s.flags = 1 << 31 // not a flag we know
	w.send(s)
	b := make([]byte, 20)
	n, err := c.Read(b)
	require.NoError(t, err)
	require.Equal(t, "last words", string(b[:n]))
	_, err = c.Read(b)
	require.Equal(t, io.EOF, err)

	w.send(p)
	w.expect(vsockOpRst)
	_, err = c.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

func TestVsockPacket_T63_ResetFlood(t *testing.T) {
	w := newVsockWire(t)
	for i := range uint32(100_000) {
		w.send(w.guest(vsockOpRW, i, i*7))
	}
	n := 0
	for _, ok := w.recv(0); ok; _, ok = w.recv(0) {
		n++
	}
	require.Equal(t, vsockMaxResets, n)
	w.send(w.guest(vsockOpRW, 1, 2))
	w.expect(vsockOpRst)
}

func TestVsockPacket_T63_ConnectionCap(t *testing.T) {
	w := newVsockWire(t)
	l, err := w.v.Listen(1024)
	require.NoError(t, err)
	var conns []net.Conn
	for i := range uint32(vsockMaxConns) {
		c := w.accepted(l, i)
		want := uint32(vsockWindow)
		if i >= vsockWideConns {
			want = vsockNarrowWindow
		}
		require.Equal(t, want, c.state.Recv.Window)
		conns = append(conns, c)
	}
	w.send(w.guest(vsockOpRequest, 9999, 1024))
	w.expect(vsockOpRst)
	_, err = w.v.Dial(t.Context(), 1)
	require.ErrorIs(t, err, syscall.EAGAIN)

	// A reset alone does not make room: somebody still holds the connection.
	w.send(w.guest(vsockOpRst, 0, 1024))
	w.send(w.guest(vsockOpRequest, 9999, 1024))
	w.expect(vsockOpRst)
	require.NoError(t, conns[0].Close())
	w.accepted(l, 9999)
}

func TestVsockPacket_T63_Backlog(t *testing.T) {
	w := newVsockWire(t)
	l, err := w.v.Listen(1024)
	require.NoError(t, err)
	for i := range uint32(vsockBacklog) {
		w.send(w.guest(vsockOpRequest, i, 1024))
		w.expect(vsockOpResponse)
	}
	w.send(w.guest(vsockOpRequest, 9999, 1024))
	w.expect(vsockOpRst)

	// Those that the guest gave up are passed over.
	for i := range uint32(vsockBacklog - 1) {
		w.send(w.guest(vsockOpRst, i, 1024))
	}
	c, err := l.Accept()
	require.NoError(t, err)
	require.Equal(t, VsockAddr{3, vsockBacklog - 1}, c.RemoteAddr())
	require.NoError(t, c.Close())
	w.expect(vsockOpShutdown)

	// Closing the listener resets what nobody accepted.
	w.send(w.guest(vsockOpRequest, 7, 1024))
	w.expect(vsockOpResponse)
	require.NoError(t, l.Close())
	w.expect(vsockOpRst)
	_, err = l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	w.send(w.guest(vsockOpRst, vsockBacklog-1, 1024))
	table, live := w.conns()
	require.Zero(t, table+live)
}

// TestAdvisory_CVE_2022_26354_NothingLeaks throws random packets at a device with open
// connections: no goroutine, no memory, no connection stays.
func TestAdvisory_CVE_2022_26354_NothingLeaks(t *testing.T) {
	w := newVsockWire(t)
	l, err := w.v.Listen(1024)
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, 2))
	round := func(packets int) {
		for range packets {
			p := w.guest(uint16(rng.IntN(10)), uint32(rng.IntN(20)), 1020+uint32(rng.IntN(8)))
			p.data = make([]byte, rng.IntN(300))
			p.flags, p.bufAlloc, p.fwdCnt = rng.Uint32(), rng.Uint32(), rng.Uint32()
			if rng.IntN(10) == 0 {
				p.length = rng.Uint32()
			}
			if rng.IntN(20) == 0 {
				p.srcCID = rng.Uint64()
			}
			w.send(p)
			w.recv(100)
			select {
			case c := <-l.(*vsockListener).backlog:
				c.Close()
			default:
			}
		}
		for port := range uint32(20) {
			for dst := range uint32(8) {
				w.send(w.guest(vsockOpRst, port, 1020+dst))
			}
		}
		for _, ok := w.recv(100); ok; _, ok = w.recv(100) {
		}
	}
	measure := func() (heap uint64) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	round(1000)
	heap, goroutines := measure(), runtime.NumGoroutine()
	round(100_000)
	require.Less(t, measure(), heap+1<<20)
	require.LessOrEqual(t, runtime.NumGoroutine(), goroutines)
	table, live := w.conns()
	require.Zero(t, table)
	require.LessOrEqual(t, live, vsockBacklog)
}
