package virtio

import (
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzVsockPackets runs a program of packets from the guest and calls from the
// host. Whatever it does, what the device holds stays bounded, what it sends is
// well formed and within the credit it was given, and nothing waits for ever.
//
// Each step is an opcode byte, a byte that says which connection, and operands.
func FuzzVsockPackets(f *testing.F) {
	rw := func(n uint16, fwd uint32) []byte {
		b := []byte{0, 0, vsockOpRW, 0}
		b = binary.LittleEndian.AppendUint16(b, n)
		b = binary.LittleEndian.AppendUint32(b, 1<<18)
		return binary.LittleEndian.AppendUint32(b, fwd)
	}
	open := append([]byte{0, 0, vsockOpRequest, 0}, make([]byte, 10)...)
	f.Add(open)
	f.Add(append(append([]byte{}, open...), rw(100, 0)...))
	f.Add(append(append(append([]byte{}, open...), 1, 0, 50), rw(100, 50)...))
	f.Add(append(append([]byte{}, open...), 2, 0, 3, 0, 4, 0, 5, 0))
	f.Add([]byte{6, 0, 7, 0, 1, 0, 9, 8, 0})
	f.Fuzz(func(t *testing.T, program []byte) {
		defer time.AfterFunc(10*time.Second, func() {
			stack := make([]byte, 1<<20)
			panic("hangs:\n" + string(stack[:runtime.Stack(stack, true)]))
		}).Stop()
		w := newVsockWire(t)
		l, err := w.v.Listen(1024)
		require.NoError(t, err)
		p := fuzzProgram{t: t, w: w, l: l.(*vsockListener), rest: program, sent: map[vsockKey]uint32{}, alloc: map[vsockKey]uint32{}}
		for steps := 0; len(p.rest) > 0 && steps < 200; steps++ {
			p.step()
			p.check()
		}
		p.finish()
	})
}

type fuzzProgram struct {
	t     *testing.T
	w     *vsockWire
	l     *vsockListener
	rest  []byte
	conns []*vsockConn // the host's
	dials []uint32     // the host's ports
	sent  map[vsockKey]uint32
	alloc map[vsockKey]uint32 // the largest buffer that the guest ever claimed
}

func (p *fuzzProgram) byte() byte {
	if len(p.rest) == 0 {
		return 0
	}
	b := p.rest[0]
	p.rest = p.rest[1:]
	return b
}

func (p *fuzzProgram) uint16() uint16 { return uint16(p.byte()) | uint16(p.byte())<<8 }
func (p *fuzzProgram) uint32() uint32 { return uint32(p.uint16()) | uint32(p.uint16())<<16 }

func (p *fuzzProgram) step() {
	op, which := p.byte()%9, p.byte()
	var c *vsockConn
	if len(p.conns) > 0 {
		c = p.conns[int(which)%len(p.conns)]
	}
	switch {
	case op == 0:
		p.packet(which)
	case op == 6:
		if d, err := p.w.v.newDial(uint32(which % 4)); err == nil {
			p.conns, p.dials = append(p.conns, d), append(p.dials, d.state.Key.local)
		}
	case op == 7:
		p.drain(1 + int(p.byte()))
	case c == nil:
	case op == 1: // a Write that has got no further than this
		c.mu.Lock()
		if n := int(p.byte()) * 100; c.writeError() == nil && n > 0 {
			c.out, c.outTaken = make([]byte, n), true
			c.schedule()
		}
		c.mu.Unlock()
	case op == 2: // a Read that does not wait
		c.SetReadDeadline(time.Now().Add(time.Hour))
		c.mu.Lock()
		ready := c.in.n > 0 || c.readError() != nil
		c.mu.Unlock()
		if ready {
			n, err := c.Read(make([]byte, int(p.byte())*300))
			require.True(p.t, n >= 0 && (n == 0 || err == nil))
		}
	case op == 3:
		c.CloseWrite()
	case op == 4:
		c.CloseRead()
	case op == 5:
		c.Close()
	case op == 8: // a timer fires
		c.mu.Lock()
		if c.timer != nil {
			c.reset(io.ErrNoProgress)
		}
		c.mu.Unlock()
	}
	select {
	case c := <-p.l.backlog:
		p.conns = append(p.conns, c)
	default:
	}
}

// packet sends a packet: op, dst, len, buf_alloc, fwd_cnt.
func (p *fuzzProgram) packet(which byte) {
	q := p.w.guest(uint16(p.byte()), uint32(which%4), 1024)
	sel := p.byte()
	if n := len(p.dials); n > 0 && sel&1 != 0 {
		q.dstPort = p.dials[int(sel>>1)%n]
	}
	n := p.uint16()
	q.data = make([]byte, n)
	if sel&2 != 0 {
		q.length = uint32(n) + uint32(sel)*400
	}
	q.flags = uint32(sel >> 2)
	q.bufAlloc, q.fwdCnt = p.uint32(), p.uint32()
	key := vsockKey{q.dstPort, q.srcPort}
	p.alloc[key] = max(p.alloc[key], q.bufAlloc)
	p.w.send(q)
}

// drain takes up to n packets and checks them.
func (p *fuzzProgram) drain(n int) {
	for ; n > 0; n-- {
		q, ok := p.w.recv(1000)
		if !ok {
			return
		}
		require.EqualValues(p.t, 2, q.srcCID)
		require.EqualValues(p.t, 3, q.dstCID)
		require.EqualValues(p.t, len(q.data), q.length)
		key := vsockKey{q.srcPort, q.dstPort}
		switch q.op {
		case vsockOpRW:
			require.NotEmpty(p.t, q.data)
			p.sent[key] += q.length
		case vsockOpRst, vsockOpRequest, vsockOpResponse:
			p.sent[key] = 0
		case vsockOpShutdown, vsockOpCreditRequest, vsockOpCreditUpdate:
		default:
			require.Fail(p.t, "sent", "op %d", q.op)
		}
		if q.op != vsockOpRst {
			require.LessOrEqual(p.t, q.bufAlloc, uint32(vsockWindow))
		}
	}
}

// check is what always holds.
func (p *fuzzProgram) check() {
	p.w.v.mu.Lock()
	require.LessOrEqual(p.t, p.w.v.live, vsockMaxConns)
	require.LessOrEqual(p.t, len(p.w.v.resets), vsockMaxResets)
	require.LessOrEqual(p.t, len(p.w.v.conns), p.w.v.live)
	p.w.v.mu.Unlock()
	for _, c := range p.conns {
		c.mu.Lock()
		require.LessOrEqual(p.t, c.in.n, int(c.state.Recv.Window))
		require.False(p.t, c.in.filling || c.in.draining)
		inFlight := c.state.Send.TxCnt - c.state.Send.PeerFwdCnt
		require.LessOrEqual(p.t, inFlight, min(p.alloc[c.state.Key], vsockMaxInFlight))
		c.mu.Unlock()
	}
}

// finish closes everything; once the guest has reset what is left, nothing is.
func (p *fuzzProgram) finish() {
	p.l.Close()
	for _, c := range p.conns {
		c.Close()
		require.Nil(p.t, c.in.head)
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(p.t, err, net.ErrClosed)
	}
	p.drain(1 << 20)
	p.w.v.failAll(net.ErrClosed, true)
	for _, c := range p.conns {
		if c.state.Phase == vsockConnecting {
			c.mu.Lock()
			c.die(net.ErrClosed)
			c.mu.Unlock()
		}
		require.Nil(p.t, c.timer)
	}
	table, live := p.w.conns()
	require.Zero(p.t, table+live)
}
