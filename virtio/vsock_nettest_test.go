package virtio_test

import (
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
	"github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// bridge joins two devices back to back: what one sends to its guest, the other
// gets from its guest. One goroutine is the driver of both.
type bridge struct {
	a, b bridgeEnd
}

type bridgeEnd struct {
	v      *virtio.Vsock
	d      *virtiotest.Driver
	rx, tx *virtiotest.Ring
	rxAddr map[uint16]guestmem.GPA
	txAddr map[uint16]guestmem.GPA
	txFree []guestmem.GPA
}

func newBridge(t *testing.T) (br *bridge, stop func()) {
	br = &bridge{}
	for _, e := range []*bridgeEnd{&br.a, &br.b} {
		e.v = virtio.NewVsock(virtio.VsockConfig{})
		e.d = virtiotest.New(t, e.v, virtiotest.Config{})
		e.d.Start()
		e.rx, e.tx = e.d.Ring(0), e.d.Ring(1)
		e.rxAddr, e.txAddr = map[uint16]guestmem.GPA{}, map[uint16]guestmem.GPA{}
		for range e.rx.Size {
			e.post(e.d.Alloc(guestRxBuf, 64))
			e.txFree = append(e.txFree, e.d.Alloc(guestRxBuf, 64))
		}
		e.rx.Kick()
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for idle := 0; ; idle++ {
			select {
			case <-done:
				return
			default:
			}
			if br.a.forward(&br.b)+br.b.forward(&br.a) > 0 {
				idle = 0
			} else if idle > 10 {
				time.Sleep(50 * time.Microsecond)
			}
		}
	})
	return br, func() { close(done); wg.Wait() }
}

func (e *bridgeEnd) post(a guestmem.GPA) {
	e.rxAddr[e.rx.Add(virtiotest.Buf{Addr: a, Len: guestRxBuf, Write: true})] = a
}

// forward carries packets from e to o.
func (e *bridgeEnd) forward(o *bridgeEnd) (n int) {
	for {
		head, _, ok := o.tx.Poll()
		if !ok {
			break
		}
		o.txFree = append(o.txFree, o.txAddr[head])
	}
	for len(o.txFree) > 0 {
		head, written, ok := e.rx.Poll()
		if !ok {
			break
		}
		from := e.rxAddr[head]
		to := o.txFree[len(o.txFree)-1]
		o.txFree = o.txFree[:len(o.txFree)-1]
		src, _ := e.d.Mem.Bytes(from, uint64(written))
		dst, _ := o.d.Mem.Bytes(to, uint64(written))
		copy(dst, src)
		binary.LittleEndian.PutUint64(dst, 3) // the host of one is the guest of the other
		binary.LittleEndian.PutUint64(dst[8:], 2)
		o.txAddr[o.tx.Add(virtiotest.Buf{Addr: to, Len: written})] = to
		e.post(from)
		n++
	}
	if n > 0 {
		e.rx.Kick()
		o.tx.Kick()
	}
	return n
}

// TestVsockConn_Nettest is golang.org/x/net's suite for net.Conn.
func TestVsockConn_Nettest(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		br, stopBridge := newBridge(t)
		l, err := br.a.v.Listen(1024)
		if err != nil {
			return nil, nil, nil, err
		}
		if c1, err = br.b.v.Dial(t.Context(), 1024); err != nil {
			return nil, nil, nil, err
		}
		if c2, err = l.Accept(); err != nil {
			return nil, nil, nil, err
		}
		return c1, c2, func() {
			c1.Close()
			c2.Close()
			stopBridge()
			br.a.d.MMIO.Close()
			br.b.d.MMIO.Close()
		}, nil
	})
}
