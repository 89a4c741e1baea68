package virtio

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// vsockPacket is a packet in the clear.
type vsockPacket struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	length           uint32
	typ, op          uint16
	flags            uint32
	bufAlloc, fwdCnt uint32
	data             []byte
}

func (p *vsockPacket) header() (h vsockHeader) {
	h.setAddresses(p.srcCID, p.dstCID, p.srcPort, p.dstPort)
	h.setKind(p.typ, p.op, p.flags, p.length)
	h.setCredit(p.bufAlloc, p.fwdCnt)
	return h
}

func parseVsock(h *vsockHeader, data []byte) vsockPacket {
	return vsockPacket{
		srcCID: h.srcCID(), dstCID: h.dstCID(), srcPort: h.srcPort(), dstPort: h.dstPort(),
		length: h.length(), typ: h.typ(), op: h.op(), flags: h.flags(),
		bufAlloc: h.bufAlloc(), fwdCnt: h.fwdCnt(), data: data,
	}
}

// testPayload is a payload without a ring.
type testPayload struct{ *bytes.Reader }

func (p testPayload) ReadableLen() int { return p.Len() }

// vsockWire is a device whose packets a test handles by hand: no queues and no
// workers.
type vsockWire struct {
	t testing.TB
	v *Vsock
}

func newVsockWire(t testing.TB) *vsockWire {
	w := &vsockWire{t: t, v: NewVsock(VsockConfig{})}
	t.Cleanup(func() { w.v.Close() })
	return w
}

// guest returns a sound packet from the guest.
func (w *vsockWire) guest(op uint16, src, dst uint32) vsockPacket {
	return vsockPacket{
		srcCID: 3, dstCID: 2, srcPort: src, dstPort: dst,
		typ: vsockTypeStream, op: op, bufAlloc: 256 << 10,
	}
}

// send hands a packet to the device. A length of zero is that of the data.
func (w *vsockWire) send(p vsockPacket) {
	if p.length == 0 {
		p.length = uint32(len(p.data))
	}
	h := p.header()
	w.v.receivePacket(&h, testPayload{bytes.NewReader(p.data)})
}

// recv takes the device's next packet, as the rx worker would.
func (w *vsockWire) recv(room int) (vsockPacket, bool) {
	var h vsockHeader
	if r, ok := w.v.dequeueReset(); ok {
		h.setAddresses(2, 3, r.key.local, r.key.peer)
		h.setKind(r.typ, vsockOpRst, 0, 0)
		return parseVsock(&h, nil), true
	}
	for c := w.v.dequeue(); c != nil; c = w.v.dequeue() {
		payload, ok := c.next(&h, room)
		if !ok {
			continue
		}
		p := parseVsock(&h, bytes.Clone(payload))
		if len(payload) > 0 {
			c.sent(len(payload))
		}
		c.mu.Lock()
		c.schedule()
		c.mu.Unlock()
		return p, true
	}
	return vsockPacket{}, false
}

// expect waits for a packet with op.
func (w *vsockWire) expect(op uint16) vsockPacket {
	w.t.Helper()
	return w.expectIn(op, vsockMaxPayload)
}

func (w *vsockWire) expectIn(op uint16, room int) vsockPacket {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if p, ok := w.recv(room); ok {
			require.Equal(w.t, op, p.op, "flags %#x, %d bytes", p.flags, len(p.data))
			return p
		}
	}
	require.Fail(w.t, "no packet", "op %d", op)
	return vsockPacket{}
}

func (w *vsockWire) expectNothing() {
	w.t.Helper()
	if p, ok := w.recv(vsockMaxPayload); ok {
		require.Fail(w.t, "unexpected packet", "%+v", p)
	}
}

// accepted connects guest port src to a listener on port dst.
func (w *vsockWire) accepted(l net.Listener, src uint32) *vsockConn {
	w.t.Helper()
	dst := l.Addr().(VsockAddr).Port
	w.send(w.guest(vsockOpRequest, src, dst))
	p := w.expect(vsockOpResponse)
	require.Equal(w.t, src, p.dstPort)
	c, err := l.Accept()
	require.NoError(w.t, err)
	return c.(*vsockConn)
}

// connected returns the host's end of a connection from guest port 5000 to
// host port 1024.
func (w *vsockWire) connected() *vsockConn {
	w.t.Helper()
	l, err := w.v.Listen(1024)
	require.NoError(w.t, err)
	return w.accepted(l, 5000)
}

// dial starts a Dial; the result comes on the channel.
func (w *vsockWire) dial(ctx context.Context, port uint32) <-chan dialResult {
	ch := make(chan dialResult, 1)
	go func() {
		c, err := w.v.Dial(ctx, port)
		ch <- dialResult{c, err}
	}()
	return ch
}

type dialResult struct {
	c   net.Conn
	err error
}

// inTable reports how many connections the device knows, and how many count.
func (w *vsockWire) conns() (table, live int) {
	w.v.mu.Lock()
	defer w.v.mu.Unlock()
	return len(w.v.conns), w.v.live
}

// startWrite starts a Write; its error comes on the channel.
func startWrite(c net.Conn, p []byte) <-chan ioResult {
	ch := make(chan ioResult, 1)
	go func() {
		n, err := c.Write(p)
		ch <- ioResult{n, err}
	}()
	return ch
}

func startRead(c net.Conn, p []byte) <-chan ioResult {
	ch := make(chan ioResult, 1)
	go func() {
		n, err := c.Read(p)
		ch <- ioResult{n, err}
	}()
	return ch
}

type ioResult struct {
	n   int
	err error
}

// within receives, or fails the test after 10 s.
func within[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(10 * time.Second):
		require.Fail(t, "timed out")
		panic("not reached")
	}
}
