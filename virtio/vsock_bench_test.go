package virtio_test

import (
	"encoding/binary"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
	"github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// leanGuest is a guest with one connection, and as little work of its own as
// can be: what is measured is the device.
type leanGuest struct {
	b        *testing.B
	d        *virtiotest.Driver
	rx, tx   *virtiotest.Ring
	rxAddr   []guestmem.GPA // by head
	txAddr   []guestmem.GPA
	txFree   []guestmem.GPA
	conn     net.Conn
	peer     uint32 // the host's port
	received uint32 // bytes of payload
	told     uint32 // of these, as the host knows
	sent     uint32
	hostFwd  uint32
	hostBuf  uint32
}

const leanPort = 1024

func newLeanGuest(b *testing.B) *leanGuest {
	v := virtio.NewVsock(virtio.VsockConfig{})
	g := &leanGuest{b: b, d: virtiotest.New(b, v, virtiotest.Config{MemSize: 16 << 20})}
	g.d.Start()
	g.rx, g.tx = g.d.Ring(0), g.d.Ring(1)
	g.rxAddr = make([]guestmem.GPA, g.rx.Size)
	g.txAddr = make([]guestmem.GPA, g.tx.Size)
	for range g.rx.Size {
		g.post(g.d.Alloc(guestRxBuf, 64))
	}
	g.rx.Kick()
	for range 64 {
		g.txFree = append(g.txFree, g.d.Alloc(guestTxBuf, 64))
	}
	dialed := make(chan net.Conn, 1)
	go func() {
		c, err := v.Dial(b.Context(), leanPort)
		if err != nil {
			b.Error(err)
		}
		dialed <- c
	}()
	for g.peer == 0 {
		g.poll(func(op uint16, h, _ []byte) {
			require.EqualValues(b, guestOpRequest, op)
			g.peer = binary.LittleEndian.Uint32(h[16:])
		})
		g.rest()
	}
	g.send(guestOpResponse, 0)
	g.conn = <-dialed
	return g
}

func (g *leanGuest) post(a guestmem.GPA) {
	g.rxAddr[g.rx.Add(virtiotest.Buf{Addr: a, Len: guestRxBuf, Write: true})] = a
}

// poll handles the packets that have come, and reports whether there were any.
func (g *leanGuest) poll(f func(op uint16, header, data []byte)) bool {
	n := 0
	for ; n < 128; n++ {
		head, written, ok := g.rx.Poll()
		if !ok {
			break
		}
		a := g.rxAddr[head]
		b, _ := g.d.Mem.Bytes(a, uint64(written))
		g.hostBuf = binary.LittleEndian.Uint32(b[36:])
		g.hostFwd = binary.LittleEndian.Uint32(b[40:])
		g.received += written - guestHdr
		f(binary.LittleEndian.Uint16(b[30:]), b[:guestHdr], b[guestHdr:])
		g.post(a)
	}
	if n > 0 {
		g.kick(g.rx)
	}
	for {
		head, _, ok := g.tx.Poll()
		if !ok {
			return n > 0
		}
		g.txFree = append(g.txFree, g.txAddr[head])
	}
}

// kick notifies the device if it wants to know.
func (g *leanGuest) kick(r *virtiotest.Ring) {
	if int16(r.AvailIdx-1-r.AvailEvent()) < 256 {
		r.Kick()
	}
}

// send sends a packet with n bytes of whatever lies there.
func (g *leanGuest) send(op uint16, n int) bool {
	if len(g.txFree) == 0 {
		return false
	}
	a := g.txFree[len(g.txFree)-1]
	g.txFree = g.txFree[:len(g.txFree)-1]
	b, _ := g.d.Mem.Bytes(a, guestHdr)
	le := binary.LittleEndian
	le.PutUint64(b, 3)
	le.PutUint64(b[8:], 2)
	le.PutUint32(b[16:], leanPort)
	le.PutUint32(b[20:], g.peer)
	le.PutUint32(b[24:], uint32(n))
	le.PutUint16(b[28:], 1)
	le.PutUint16(b[30:], op)
	le.PutUint32(b[36:], guestBufAlloc)
	le.PutUint32(b[40:], g.received)
	g.told = g.received
	g.sent += uint32(n)
	if n > 0 {
		g.txAddr[g.tx.Add(virtiotest.Buf{Addr: a, Len: guestHdr}, virtiotest.Buf{Addr: a + guestHdr, Len: uint32(n)})] = a
	} else {
		g.txAddr[g.tx.Add(virtiotest.Buf{Addr: a, Len: guestHdr})] = a
	}
	g.kick(g.tx)
	return true
}

// rest waits for an interrupt if nothing is there.
func (g *leanGuest) rest() {
	g.rx.SetUsedEvent(g.rx.UsedIdx)
	g.tx.SetUsedEvent(g.tx.UsedIdx)
	if g.rx.DeviceUsedIdx() == g.rx.UsedIdx && g.tx.DeviceUsedIdx() == g.tx.UsedIdx {
		g.d.IRQ.Wait(time.Second)
	}
}

func BenchmarkVsockEcho1(b *testing.B) {
	g := newLeanGuest(b)
	done := make(chan struct{})
	b.ResetTimer()
	go func() {
		defer close(done)
		p := []byte{1}
		for range b.N {
			if _, err := g.conn.Write(p); err != nil {
				b.Error(err)
				return
			}
			if _, err := g.conn.Read(p); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	for n := 0; n < b.N; {
		if !g.poll(func(op uint16, _, data []byte) {
			if op == guestOpRW {
				n += len(data)
				g.send(guestOpRW, len(data))
			}
		}) {
			g.rest()
		}
	}
	<-done
	b.ReportMetric(float64(g.d.IRQ.Count())/float64(b.N), "irqs/op")
}

func benchmarkVsockToGuest(b *testing.B, size int) {
	g := newLeanGuest(b)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		p := make([]byte, size)
		for range b.N {
			if _, err := g.conn.Write(p); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	total := uint64(0)
	for total < uint64(b.N)*uint64(size) {
		if g.poll(func(_ uint16, _, data []byte) { total += uint64(len(data)) }) {
			if g.received-g.told >= 192<<10 {
				g.send(guestOpCreditUpdate, 0)
			}
			continue
		}
		if g.received != g.told && g.send(guestOpCreditUpdate, 0) {
			continue
		}
		g.rest()
	}
	b.ReportMetric(float64(g.d.IRQ.Count())/(float64(total)/(1<<20)), "irqs/MiB")
}

func BenchmarkVsockToGuest(b *testing.B) {
	b.Run("4K", func(b *testing.B) { benchmarkVsockToGuest(b, 4<<10) })
	b.Run("64K", func(b *testing.B) { benchmarkVsockToGuest(b, 64<<10) })
	b.Run("1M", func(b *testing.B) { benchmarkVsockToGuest(b, 1<<20) })
}

func benchmarkVsockFromGuest(b *testing.B, size int) {
	g := newLeanGuest(b)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	all := uint64(b.N) * uint64(size)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p := make([]byte, 64<<10)
		for n := uint64(0); n < all; {
			k, err := g.conn.Read(p)
			if err != nil {
				b.Error(err)
				return
			}
			n += uint64(k)
		}
	}()
	updates := 0
	for sent := uint64(0); sent < all; {
		free := int(g.hostBuf - (g.sent - g.hostFwd))
		if n := min(free, size, int(all-sent)); n == size || n == int(all-sent) {
			if g.send(guestOpRW, n) {
				sent += uint64(n)
				continue
			}
		}
		if !g.poll(func(uint16, []byte, []byte) { updates++ }) && len(g.txFree) == 0 || int(g.hostBuf-(g.sent-g.hostFwd)) < size {
			g.rest()
		}
	}
	<-done
	b.ReportMetric(float64(updates)/(float64(all)/(1<<20)), "updates/MiB")
	b.ReportMetric(float64(g.d.IRQ.Count())/(float64(all)/(1<<20)), "irqs/MiB")
}

func BenchmarkVsockFromGuest(b *testing.B) {
	b.Run("4K", func(b *testing.B) { benchmarkVsockFromGuest(b, 4<<10) })
	b.Run("64K", func(b *testing.B) { benchmarkVsockFromGuest(b, 64<<10) })
}
