package virtio_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
	"github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// guestKernel is a guest that uses the vsock device as Linux 6.12's driver does:
// small rx buffers, provided anew when half are used, credit updates when a reader has emptied its queue or the
// peer sees less than 64 KiB, SHUTDOWN answered with RST once there is nothing
// left to read. It checks the device as it goes. One goroutine owns the rings.
type guestKernel struct {
	d       *virtiotest.Driver
	rx, tx  *virtiotest.Ring
	rxAddr  map[uint16]guestmem.GPA // by head
	txAddr  map[uint16]guestmem.GPA
	rxSpare []guestmem.GPA // not yet provided again
	txFree  []guestmem.GPA
	stopped chan struct{}
	done    sync.WaitGroup

	mu        sync.Mutex
	changed   *sync.Cond
	socks     map[guestAddr]*guestSock
	listeners map[uint32]bool
	backlog   map[uint32][]*guestSock
	nextPort  uint32
	sendq     []guestPacket
	paused    bool // rx buffers are not given back
	err       error
}

type guestAddr struct{ local, peer uint32 }

type guestPacket struct {
	guestAddr
	op       uint16
	flags    uint32
	bufAlloc uint32
	fwdCnt   uint32
	data     []byte
}

const (
	guestOpRequest, guestOpResponse, guestOpRst, guestOpShutdown        = 1, 2, 3, 4
	guestOpRW, guestOpCreditUpdate, guestOpCreditRequest                = 5, 6, 7
	guestShutRecv, guestShutSend, guestShutBoth                         = 1, 2, 3
	guestRxBuf, guestTxBuf, guestTxBufs, guestMaxPkt, guestHdr          = 3776, 64<<10 + 64, 64, 64 << 10, 44
	guestBufAlloc                                                uint32 = 256 << 10
)

// guestSock is a socket of the guest.
type guestSock struct {
	k    *guestKernel
	addr guestAddr

	connecting, established, done bool
	shut, peerShut                uint32
	reset                         bool

	rxq                   [][]byte // packets
	rxOff                 int      // consumed of the first
	rxBytes, bufUsed      uint32
	fwdCnt, lastFwd       uint32
	txCnt, peerFwd, peerA uint32
}

func newGuestKernel(tb testing.TB, v *virtio.Vsock, cfg virtiotest.Config) *guestKernel {
	cfg.MemSize = 16 << 20
	k := &guestKernel{
		d:         virtiotest.New(tb, v, cfg),
		rxAddr:    map[uint16]guestmem.GPA{},
		txAddr:    map[uint16]guestmem.GPA{},
		stopped:   make(chan struct{}),
		socks:     map[guestAddr]*guestSock{},
		listeners: map[uint32]bool{},
		backlog:   map[uint32][]*guestSock{},
		nextPort:  1 << 20,
	}
	k.changed = sync.NewCond(&k.mu)
	k.d.Start()
	k.rx, k.tx = k.d.Ring(0), k.d.Ring(1)
	for range k.rx.Size {
		k.postRx(k.d.Alloc(guestRxBuf, 64))
	}
	k.rx.Kick()
	for range min(guestTxBufs, int(k.tx.Size)/2) { // a packet takes two descriptors
		k.txFree = append(k.txFree, k.d.Alloc(guestTxBuf, 64))
	}
	k.done.Go(k.run)
	tb.Cleanup(func() {
		k.stop()
		if k.err != errGuestStopped {
			tb.Errorf("guest: %v", k.err)
		}
	})
	return k
}

func (k *guestKernel) stop() {
	select {
	case <-k.stopped:
	default:
		close(k.stopped)
	}
	k.d.IRQ.Trigger()
	k.done.Wait()
	k.mu.Lock()
	k.fail(errGuestStopped)
	k.mu.Unlock()
}

var errGuestStopped = errors.New("stopped")

// fail is called with k.mu held.
func (k *guestKernel) fail(err error) {
	if k.err == nil {
		k.err = err
	}
	k.changed.Broadcast()
}

// stutter makes the guest stop taking packets now and then, until stop is
// closed.
func (k *guestKernel) stutter(stop <-chan struct{}) {
	set := func(paused bool) {
		k.mu.Lock()
		k.paused = paused
		k.mu.Unlock()
		k.d.IRQ.Trigger()
	}
	defer set(false)
	for paused := false; ; paused = !paused {
		set(paused)
		select {
		case <-stop:
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (k *guestKernel) postRx(a guestmem.GPA) {
	k.rxAddr[k.rx.Add(virtiotest.Buf{Addr: a, Len: guestRxBuf, Write: true})] = a
}

// run is the guest's CPU.
func (k *guestKernel) run() {
	for {
		select {
		case <-k.stopped:
			return
		default:
		}
		k.mu.Lock()
		n := k.receive()
		n += k.transmit()
		bad := k.err != nil
		k.mu.Unlock()
		if bad {
			return
		}
		if n > 0 {
			continue
		}
		k.rx.SetUsedEvent(k.rx.UsedIdx)
		k.tx.SetUsedEvent(k.tx.UsedIdx)
		if k.rx.DeviceUsedIdx() != k.rx.UsedIdx || k.tx.DeviceUsedIdx() != k.tx.UsedIdx {
			continue
		}
		k.interrupt()
	}
}

// interrupt waits for one and acknowledges it. The model's own wake-ups count
// too, but used buffers without a word of the device for so long are an
// interrupt lost.
func (k *guestKernel) interrupt() {
	for patience := 5; !k.d.IRQ.Wait(time.Second); patience-- {
		switch {
		case k.rx.DeviceUsedIdx() == k.rx.UsedIdx && k.tx.DeviceUsedIdx() == k.tx.UsedIdx:
			return
		case patience == 0:
			k.mu.Lock()
			k.fail(fmt.Errorf("interrupt lost: rx %d of %d, tx %d of %d", k.rx.UsedIdx, k.rx.DeviceUsedIdx(), k.tx.UsedIdx, k.tx.DeviceUsedIdx()))
			k.mu.Unlock()
			return
		}
	}
	k.d.Store32(virtiotest.InterruptACK, k.d.Load32(virtiotest.InterruptStatus))
}

// receive handles used rx buffers. Called with k.mu held.
func (k *guestKernel) receive() (n int) {
	if k.paused {
		return 0
	}
	for ; n < 64; n++ {
		head, written, ok := k.rx.Poll()
		if !ok {
			break
		}
		a := k.rxAddr[head]
		delete(k.rxAddr, head)
		b, _ := k.d.Mem.Bytes(a, guestRxBuf)
		if written < guestHdr || written > guestRxBuf {
			k.fail(fmt.Errorf("packet of %d bytes", written))
			return
		}
		le := binary.LittleEndian
		if le.Uint64(b) != 2 || le.Uint64(b[8:]) != 3 || le.Uint16(b[28:]) != 1 || le.Uint32(b[24:]) != written-guestHdr {
			k.fail(fmt.Errorf("bad header % x", b[:guestHdr]))
			return
		}
		k.handle(guestPacket{
			guestAddr: guestAddr{local: le.Uint32(b[20:]), peer: le.Uint32(b[16:])},
			op:        le.Uint16(b[30:]), flags: le.Uint32(b[32:]),
			bufAlloc: le.Uint32(b[36:]), fwdCnt: le.Uint32(b[40:]),
			data: append([]byte(nil), b[guestHdr:written]...),
		})
		k.rxSpare = append(k.rxSpare, a)
	}
	if len(k.rxSpare) > int(k.rx.Size)/2 {
		for _, a := range k.rxSpare {
			k.postRx(a)
		}
		k.kick(k.rx, len(k.rxSpare))
		k.rxSpare = k.rxSpare[:0]
	}
	if n > 0 {
		k.changed.Broadcast()
	}
	return n
}

// kick notifies the device of n new chains, if it asked for that.
func (k *guestKernel) kick(r *virtiotest.Ring, n int) {
	wanted := r.UsedFlags()&1 == 0
	if k.d.Features&virtio.FeatureEventIdx != 0 {
		wanted = r.AvailIdx-r.AvailEvent()-1 < uint16(n)
	}
	if wanted {
		r.Kick()
	}
}

// transmit moves packets to the tx ring. Called with k.mu held.
func (k *guestKernel) transmit() (n int) {
	for {
		head, _, ok := k.tx.Poll()
		if !ok {
			break
		}
		k.txFree = append(k.txFree, k.txAddr[head])
		delete(k.txAddr, head)
		n++
	}
	sent := 0
	for len(k.sendq) > 0 && len(k.txFree) > 0 {
		p := k.sendq[0]
		k.sendq = k.sendq[1:]
		a := k.txFree[len(k.txFree)-1]
		k.txFree = k.txFree[:len(k.txFree)-1]
		b, _ := k.d.Mem.Bytes(a, guestTxBuf)
		le := binary.LittleEndian
		le.PutUint64(b, 3)
		le.PutUint64(b[8:], 2)
		le.PutUint32(b[16:], p.local)
		le.PutUint32(b[20:], p.peer)
		le.PutUint32(b[24:], uint32(len(p.data)))
		le.PutUint16(b[28:], 1)
		le.PutUint16(b[30:], p.op)
		le.PutUint32(b[32:], p.flags)
		le.PutUint32(b[36:], p.bufAlloc)
		le.PutUint32(b[40:], p.fwdCnt)
		bufs := []virtiotest.Buf{{Addr: a, Len: guestHdr}}
		if copy(b[guestHdr:], p.data) > 0 {
			bufs = append(bufs, virtiotest.Buf{Addr: a + guestHdr, Len: uint32(len(p.data))})
		}
		k.txAddr[k.tx.Add(bufs...)] = a
		sent++
	}
	if sent > 0 {
		k.kick(k.tx, sent)
		k.changed.Broadcast() // to writers who wait for sendq
	}
	return n + sent
}

// queue sends a packet. Called with k.mu held.
func (k *guestKernel) queue(p guestPacket) {
	k.sendq = append(k.sendq, p)
	k.d.IRQ.Trigger()
}

// handle is what virtio_transport_recv_pkt does. Called with k.mu held.
func (k *guestKernel) handle(p guestPacket) {
	s := k.socks[p.guestAddr]
	if s == nil {
		switch {
		case p.op == guestOpRequest && k.listeners[p.local]:
			s = &guestSock{k: k, addr: p.guestAddr, established: true, peerA: p.bufAlloc, peerFwd: p.fwdCnt}
			k.socks[p.guestAddr] = s
			k.backlog[p.local] = append(k.backlog[p.local], s)
			s.send(guestOpResponse, 0, nil)
		case p.op != guestOpRst:
			k.queue(guestPacket{guestAddr: p.guestAddr, op: guestOpRst})
		}
		return
	}
	s.peerA, s.peerFwd = p.bufAlloc, p.fwdCnt
	if s.txCnt-s.peerFwd > s.peerA {
		k.fail(fmt.Errorf("credit: %d sent, %d taken, buffer %d", s.txCnt, s.peerFwd, s.peerA))
	}
	if s.connecting {
		s.connecting = false
		if p.op == guestOpResponse {
			s.established = true
			return
		}
		s.end(true)
		if p.op != guestOpRst {
			k.fail(fmt.Errorf("op %d while connecting", p.op))
		}
		return
	}
	switch p.op {
	case guestOpRW:
		n := uint32(len(p.data))
		if n == 0 || s.bufUsed+n > guestBufAlloc || s.peerShut&guestShutSend != 0 {
			k.fail(fmt.Errorf("%d bytes, %d used, peer shut %d", n, s.bufUsed, s.peerShut))
		}
		s.rxq = append(s.rxq, p.data)
		s.rxBytes += n
		s.bufUsed += n
	case guestOpCreditRequest:
		s.send(guestOpCreditUpdate, 0, nil)
	case guestOpCreditUpdate:
	case guestOpShutdown:
		s.peerShut |= p.flags
		if s.peerShut == guestShutBoth {
			if s.rxBytes == 0 && !s.done {
				s.send(guestOpRst, 0, nil)
				s.done = true
			}
			delete(k.socks, s.addr)
		}
	case guestOpRst:
		s.end(s.peerShut&guestShutSend == 0)
	default:
		k.fail(fmt.Errorf("op %d while connected", p.op))
	}
}

// end is called with k.mu held.
func (s *guestSock) end(reset bool) {
	s.reset = s.reset || reset
	s.done = true
	s.peerShut = guestShutBoth
	delete(s.k.socks, s.addr)
}

// send is called with k.mu held.
func (s *guestSock) send(op uint16, flags uint32, data []byte) {
	s.lastFwd = s.fwdCnt
	s.k.queue(guestPacket{s.addr, op, flags, guestBufAlloc, s.fwdCnt, data})
}
