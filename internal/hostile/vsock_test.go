package hostile

import (
	"encoding/binary"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// guestSocket is the guest's end of a socket device: a driver with buffers for
// what comes.
type guestSocket struct {
	a *attack
	d *vt.Driver
}

const rxBuffer = 4096

func (a *attack) socket() *guestSocket {
	a.Helper()
	s := &guestSocket{a, a.start(vt.Config{})}
	for range 12 {
		s.d.Ring(0).Add(vt.Buf{Addr: s.d.Alloc(rxBuffer, 16), Len: rxBuffer, Write: true})
	}
	s.d.Ring(0).Kick()
	return s
}

// send sends a packet.
func (s *guestSocket) send(p []byte) {
	s.a.Helper()
	s.d.Ring(1).Do(p, 0)
}

// sendAs sends a packet after a change to its header.
func (s *guestSocket) sendAs(p []byte, change func(h []byte)) {
	s.a.Helper()
	change(p)
	s.send(p)
}

// receive waits for a packet, and gives its buffer back.
func (s *guestSocket) receive() []byte {
	s.a.Helper()
	r := s.d.Ring(0)
	head, n := r.Wait()
	e := make([]byte, 8)
	s.a.must(s.a.w.ram.ReadAt(e, r.Desc+guestmem.GPA(16*uint64(head))))
	at := guestmem.GPA(binary.LittleEndian.Uint64(e))
	p := s.d.Get(at, int(n))
	r.Add(vt.Buf{Addr: at, Len: rxBuffer, Write: true})
	r.Kick()
	require.GreaterOrEqual(s.a, len(p), 44)
	return p
}

// expect waits for a packet of the given kind, to the given port of the guest.
func (s *guestSocket) expect(op uint16, port uint32) []byte {
	s.a.Helper()
	for range 64 { // there may be credit updates in between
		p := s.receive()
		if kind := binary.LittleEndian.Uint16(p[30:]); kind == op && binary.LittleEndian.Uint32(p[20:]) == port {
			return p
		} else if kind != opCreditUpdate && kind != opCreditRequest {
			s.a.Fatalf("packet %d for port %d instead of %d for %d", kind, binary.LittleEndian.Uint32(p[20:]), op, port)
		}
	}
	s.a.Fatalf("no packet %d for port %d", op, port)
	return nil
}

// connect connects to the echo.
func (s *guestSocket) connect(port uint32) {
	s.a.Helper()
	s.send(packet(opRequest, port, echoPort, nil))
	s.expect(opResponse, port)
}

// echoes expects that data comes back.
func (s *guestSocket) echoes(port uint32) {
	s.a.Helper()
	s.send(packet(opRW, port, echoPort, []byte("hello")))
	require.Equal(s.a, "hello", string(s.expect(opRW, port)[44:]))
}

var onlyVsock = []string{"vsock"}

func put16(at int, v uint16) func([]byte) {
	return func(h []byte) { binary.LittleEndian.PutUint16(h[at:], v) }
}

func put32(at int, v uint32) func([]byte) {
	return func(h []byte) { binary.LittleEndian.PutUint32(h[at:], v) }
}

func put64(at int, v uint64) func([]byte) {
	return func(h []byte) { binary.LittleEndian.PutUint64(h[at:], v) }
}

// Attacks by packets.
var vsockAttacks = []listed{
	{name: "T60_ShortHeaders", devices: onlyVsock, run: func(a *attack) {
		s := a.socket()
		s.connect(5)
		for n := range 44 {
			s.send(packet(opRW, 5, echoPort, nil)[:max(n, 1)])
		}
		s.echoes(5)
	}},
	{name: "T60_LengthLies", devices: onlyVsock, run: func(a *attack) {
		for _, n := range []uint32{6, 4096, 64<<10 + 1, 0x7fffffff, 0xffffffff} {
			s := a.socket()
			s.connect(5)
			s.sendAs(packet(opRW, 5, echoPort, []byte("hello")), put32(24, n))
			s.expect(opRst, 5)
			s.connect(6)
			s.echoes(6)
		}
	}},
	{name: "T61_Addresses", devices: onlyVsock, run: func(a *attack) {
		s := a.socket()
		for _, cid := range []uint64{0, 1, 2, 4, 1<<32 - 1, 1<<32 + 3, 1 << 63, 1<<64 - 1} {
			s.sendAs(packet(opRequest, 5, echoPort, nil), put64(0, cid))
		}
		for _, cid := range []uint64{0, 1, 3, 1<<32 - 1, 1<<32 + 2, 1<<64 - 1} {
			s.sendAs(packet(opRequest, 5, echoPort, nil), put64(8, cid))
		}
		s.connect(6) // and no answer to the others came first
		s.echoes(6)
	}},
	{name: "T61_TypesAndOperations", devices: onlyVsock, run: func(a *attack) {
		s := a.socket()
		for _, typ := range []uint16{0, 2, 3, 0xffff} {
			s.sendAs(packet(opRequest, 5, echoPort, nil), put16(28, typ))
			s.expect(opRst, 5)
		}
		for _, op := range []uint16{0, 8, 9, 0x7fff, 0xffff} {
			s.sendAs(packet(opRequest, 5, echoPort, nil), put16(30, op))
			s.expect(opRst, 5)
		}
		for _, op := range []uint16{opRequest, opResponse, 0, 8, 0xffff} {
			s.connect(7)
			s.send(packet(op, 7, echoPort, nil))
			s.expect(opRst, 7)
		}
	}},
	{name: "T62_CreditLies", devices: onlyVsock, run: func(a *attack) {
		for _, c := range [][2]uint32{{0, 0}, {0xffffffff, 0}, {1, 0xffffffff}, {0xffffffff, 0xffffffff}, {0, 1 << 31}, {1 << 31, 1 << 31}} {
			s := a.socket()
			s.connect(5)
			s.sendAs(packet(opCreditUpdate, 5, echoPort, nil), func(h []byte) { put32(36, c[0])(h); put32(40, c[1])(h) })
			s.sendAs(packet(opRW, 5, echoPort, []byte("hello")), func(h []byte) { put32(36, c[0])(h); put32(40, c[1])(h) })
			s.send(packet(opCreditUpdate, 5, echoPort, nil)) // the truth
			var got []byte
			for len(got) < 5 { // in as many pieces as there was room for
				got = append(got, s.expect(opRW, 5)[44:]...)
			}
			require.Equal(a, "hello", string(got))
		}
	}},
	{name: "T62_MoreThanTheCredit", devices: onlyVsock, run: func(a *attack) {
		// The guest reads nothing, so the echo stops, and so the host's buffer
		// fills: whoever sends more than it holds is reset.
		s := a.socket()
		s.connect(5)
		data := make([]byte, 32<<10)
		at := s.d.Put(packet(opRW, 5, echoPort, data))
		header := packet(opRW, 5, echoPort, data)[:44]
		put32(36, 0)(header)
		a.must(a.w.ram.WriteAt(header, at))
		for range 24 {
			s.d.Ring(1).Add(vt.Buf{Addr: at, Len: uint32(44 + len(data))})
			s.d.Ring(1).Kick()
			s.d.Ring(1).Wait()
		}
		s.expect(opRst, 5)
	}},
	{name: "T63_ResetFlood", devices: onlyVsock, run: func(a *attack) {
		// Packets that are answered with resets, which nobody reads.
		d := a.start(vt.Config{})
		r := d.Ring(1)
		at := d.Put(packet(opRW, 99, 99, nil))
		for range a.scale(500) {
			for range 8 {
				r.Add(vt.Buf{Addr: at, Len: 44})
			}
			r.Kick()
			for range 8 {
				r.Wait()
			}
		}
		s := a.socket()
		s.connect(6)
		s.echoes(6)
	}},
	{name: "T63_ConnectionFlood", devices: onlyVsock, run: func(a *attack) {
		s := a.socket()
		for port := range uint32(a.scale(1200)) {
			s.send(packet(opRequest, 1000+port, echoPort, nil))
			s.receive() // accepted or refused, but answered
		}
		for port := range uint32(a.scale(1200)) {
			s.send(packet(opRst, 1000+port, echoPort, nil))
		}
		s = a.socket()
		s.connect(6)
		s.echoes(6)
	}},
	{name: "T64_OtherPorts", devices: onlyVsock, run: func(a *attack) {
		s := a.socket()
		for _, port := range []uint32{0, 1, 22, 1023, 1025, 1 << 31, 1<<32 - 1} {
			s.send(packet(opRequest, 5, port, nil))
			s.expect(opRst, 5)
		}
	}},
	{name: "T65_AfterShutdown", devices: onlyVsock, run: func(a *attack) {
		s := a.socket()
		s.connect(5)
		s.send(packet(opRW, 5, echoPort, nil)) // no data is no harm
		s.echoes(5)
		s.sendAs(packet(opShutdown, 5, echoPort, nil), put32(32, 2)) // will send no more
		s.send(packet(opRW, 5, echoPort, []byte("more")))
		for {
			if kind := binary.LittleEndian.Uint16(s.receive()[30:]); kind == opRst {
				break
			}
		}
		s.connect(6)
		s.echoes(6)
	}},
	{name: "T66_NoBuffer", devices: onlyVsock, run: func(a *attack) {
		// A guest that never has room stops its own connection only.
		s := a.socket()
		s.connect(5)
		s.sendAs(packet(opRW, 5, echoPort, []byte("hello")), put32(36, 0))
		s.connect(6)
		s.echoes(6)
	}},
}
