package virtio_test

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// requirement is something that virtio 1.2 demands of a device, under the number
// of its section ("Device Requirements: …"). docs/devices.md lists them all; see
// conformance_list_test.go.
type requirement struct {
	section string
	what    string
	test    func(t *testing.T)
}

func TestConformance(t *testing.T) {
	for _, list := range [][]requirement{conformanceRing, conformanceMMIO, conformanceDevices} {
		for _, r := range list {
			t.Run(r.section+"/"+r.what, r.test)
		}
	}
}

var conformanceRing = []requirement{
	{"2.1.2", "no buffer is used and nothing is sent before DRIVER_OK", func(t *testing.T) {
		d := vt.New(t, &probe{sizes: []uint16{8}, serve: echo}, vt.Config{})
		require.True(t, d.Negotiate(d.Offered()))
		r := d.SetupQueue(0, 8)
		r.Add(vt.Buf{Addr: d.Put([]byte("early")), Len: 5})
		r.Kick()
		signal(t, d.MMIO.KickFD(0))
		time.Sleep(10 * time.Millisecond)
		require.Zero(t, r.DeviceUsedIdx())
		require.Zero(t, d.IRQ.Count())
		d.DriverOK()
		r.Wait()
	}},
	{"2.1.2", "DEVICE_NEEDS_RESET is set and announced when the device cannot go on", func(t *testing.T) {
		d, p := serving(t, echo, vt.Config{})
		p.act.NeedsReset(virtio.ErrPanic)
		require.True(t, d.NeedsReset())
		require.Equal(t, 1, d.IRQ.Count())
		require.EqualValues(t, virtio.InterruptConfig, d.Load32(vt.InterruptStatus))
	}},
	{"2.2.2", "FEATURES_OK fails for features that were not offered", func(t *testing.T) {
		d := vt.New(t, &probe{sizes: []uint16{8}, features: 5}, vt.Config{})
		require.False(t, d.Negotiate(virtio.FeatureVersion1|2))
		require.False(t, d.Negotiate(virtio.FeatureVersion1|1<<40))
	}},
	{"2.2.2", "any subset of the features is accepted, again and again", func(t *testing.T) {
		d := vt.New(t, &probe{sizes: []uint16{8}, features: 7}, vt.Config{})
		for f := range uint64(8) {
			for range 2 {
				require.True(t, d.Negotiate(virtio.FeatureVersion1|f))
			}
		}
	}},
	{"2.4.1", "the status is 0 after a reset", func(t *testing.T) {
		d, _ := serving(t, echo, vt.Config{})
		d.Store32(vt.Status, 0)
		require.Zero(t, d.Status())
	}},
	{"2.4.1", "after a reset nothing is sent and no queue is touched", func(t *testing.T) {
		d, p := serving(t, echo, vt.Config{})
		r, act := d.Ring(0), p.act
		d.Store32(vt.Status, 0)
		r.Add(vt.Buf{Addr: d.Put([]byte("late")), Len: 4})
		signal(t, d.MMIO.KickFD(0))
		act.Queues[0].Notify()
		act.ConfigChanged()
		time.Sleep(10 * time.Millisecond)
		require.Zero(t, r.DeviceUsedIdx())
		require.Zero(t, d.IRQ.Count())
	}},
	{"2.5.2", "every field of the configuration can be read before FEATURES_OK", func(t *testing.T) {
		d := vt.New(t, &probe{sizes: []uint16{8}, config: []byte("config")}, vt.Config{})
		require.Equal(t, "config", string(d.Load(vt.ConfigSpace, 4))+string(d.Load(vt.ConfigSpace+4, 2)))
	}},
	{"2.7.4.1", "nothing is assumed about how a request is cut into descriptors", func(t *testing.T) {
		d, _ := serving(t, echo, vt.Config{})
		r := d.Ring(0).DoSplit([][]byte{[]byte("a"), []byte("bcd"), []byte("e")}, 2, 1, 2)
		require.Equal(t, "abcde", string(r.Data))
	}},
	{"2.7.5.1", "no device-readable buffer and no descriptor is written", func(t *testing.T) {
		d, _ := serving(t, echo, vt.Config{QueueSize: 16})
		r := d.Ring(0)
		in := d.Put([]byte("read me"))
		r.Add(vt.Buf{Addr: in, Len: 7}, vt.Buf{Addr: d.Alloc(7, 8), Len: 7, Write: true})
		before := d.Get(r.Desc, 16*16)
		r.Kick()
		r.Wait()
		require.Equal(t, before, d.Get(r.Desc, 16*16))
		require.Equal(t, "read me", string(d.Get(in, 7)))
	}},
	{"2.7.5.3.2", "the WRITE flag of the descriptor of a table is ignored", func(t *testing.T) {
		d, _ := serving(t, echo, vt.Config{QueueSize: 16})
		r := d.Ring(0)
		e := r.Table(vt.Desc{Addr: d.Put([]byte("x")), Len: 1, Flags: vt.Next, Next: 1}, vt.Desc{Addr: d.Alloc(1, 8), Len: 1, Flags: vt.Write})
		e.Flags |= vt.Write
		r.SetDesc(0, e)
		r.Offer(0)
		r.Kick()
		_, used := r.Wait()
		require.EqualValues(t, 1, used)
	}},
	{"2.7.5.3.2", "a table may follow descriptors", func(t *testing.T) {
		d, _ := serving(t, echo, vt.Config{QueueSize: 16})
		r := d.Ring(0)
		out := d.Alloc(2, 8)
		e := r.Table(vt.Desc{Addr: d.Put([]byte("b")), Len: 1, Flags: vt.Next, Next: 1}, vt.Desc{Addr: out, Len: 2, Flags: vt.Write})
		r.SetDesc(3, vt.Desc{Addr: d.Put([]byte("a")), Len: 1, Flags: vt.Next, Next: 7})
		r.SetDesc(7, e)
		r.Offer(3)
		r.Kick()
		r.Wait()
		require.Equal(t, "ab", string(d.Get(out, 2)))
	}},
	{"2.7.7.2", "without EVENT_IDX the flag of the available ring decides on notifications", func(t *testing.T) {
		d, _ := serving(t, echo, vt.Config{Without: virtio.FeatureEventIdx})
		d.Ring(0).Do([]byte("x"), 1)
		require.Eventually(t, func() bool { return d.IRQ.Count() == 1 }, vt.Timeout, time.Millisecond)
		d.Ring(0).SetAvailFlags(1)
		d.Ring(0).Do([]byte("x"), 1)
		time.Sleep(10 * time.Millisecond)
		require.Equal(t, 1, d.IRQ.Count())
	}},
	{"2.7.7.2", "with EVENT_IDX used_event decides on notifications", func(t *testing.T) {
		d, _ := serving(t, echo, vt.Config{})
		d.Ring(0).SetUsedEvent(2)
		for range 2 {
			d.Ring(0).Do([]byte("x"), 1)
		}
		time.Sleep(10 * time.Millisecond)
		require.Zero(t, d.IRQ.Count())
		d.Ring(0).Do([]byte("x"), 1)
		require.Eventually(t, func() bool { return d.IRQ.Count() == 1 }, vt.Timeout, time.Millisecond)
	}},
	{"2.7.8.2", "the length is set before the index, and as much was written", func(t *testing.T) {
		d, _ := serving(t, echo, vt.Config{})
		for n := range 20 {
			require.EqualValues(t, min(n, 10), d.Ring(0).Do(make([]byte, n+1)[:n], 10).Used)
		}
	}},
	{"2.7.10.2", "without EVENT_IDX the flag of the used ring asks for notifications", func(t *testing.T) {
		d, _, q := manual(t, vt.Config{Without: virtio.FeatureEventIdx})
		q.DisableNotifications()
		require.EqualValues(t, 1, d.Ring(0).UsedFlags())
		q.EnableNotifications()
		require.Zero(t, d.Ring(0).UsedFlags())
	}},
	{"2.7.10.2", "with EVENT_IDX avail_event asks for notifications", func(t *testing.T) {
		d, r, q := manual(t, vt.Config{})
		r.Offer(0)
		pop(t, q)
		q.EnableNotifications()
		require.EqualValues(t, 1, d.Ring(0).AvailEvent())
		require.Zero(t, d.Ring(0).UsedFlags())
	}},
	{"2.7.10.2", "notifications for nothing are harmless", func(t *testing.T) {
		d, _ := serving(t, echo, vt.Config{})
		for range 100 {
			d.Ring(0).Kick()
		}
		require.EqualValues(t, 2, d.Ring(0).Do([]byte("hi"), 2).Used)
		require.EqualValues(t, 1, d.Ring(0).DeviceUsedIdx())
	}},
	{"6.2", "VERSION_1 is offered, and demanded", func(t *testing.T) {
		d := vt.New(t, &probe{sizes: []uint16{8}}, vt.Config{})
		require.NotZero(t, d.Offered()&virtio.FeatureVersion1)
		require.False(t, d.Negotiate(0))
	}},
	{"6.2", "neither SR_IOV nor ACCESS_PLATFORM is offered: it is no PCI device, and addresses are physical", func(t *testing.T) {
		d := vt.New(t, &probe{sizes: []uint16{8}, features: 1<<64 - 1}, vt.Config{})
		require.Zero(t, d.Offered()&(1<<37|1<<33))
	}},
}

var conformanceMMIO = []requirement{
	{"4.2.2.1", "MagicValue is 0x74726976 and Version is 2", func(t *testing.T) {
		d := vt.New(t, &probe{sizes: []uint16{8}}, vt.Config{})
		require.EqualValues(t, 0x74726976, d.Load32(vt.MagicValue))
		require.EqualValues(t, 2, d.Load32(vt.Version))
	}},
	{"4.2.2.1", "InterruptStatus has what happened until it is acknowledged, and nothing else", func(t *testing.T) {
		d, p := serving(t, echo, vt.Config{})
		require.Zero(t, d.Load32(vt.InterruptStatus))
		d.Ring(0).Do([]byte("x"), 1)
		require.Eventually(t, func() bool { return d.Load32(vt.InterruptStatus) == virtio.InterruptUsed }, vt.Timeout, time.Millisecond)
		p.act.ConfigChanged()
		require.EqualValues(t, virtio.InterruptUsed|virtio.InterruptConfig, d.Load32(vt.InterruptStatus))
		d.Store32(vt.InterruptACK, virtio.InterruptUsed)
		require.EqualValues(t, virtio.InterruptConfig, d.Load32(vt.InterruptStatus))
		d.Store32(vt.InterruptACK, 0xffffffff)
		require.Zero(t, d.Load32(vt.InterruptStatus))
	}},
	{"4.2.2.1", "a reset clears InterruptStatus and every QueueReady", func(t *testing.T) {
		d := vt.New(t, &probe{sizes: []uint16{8, 8, 8}, serve: echo}, vt.Config{})
		d.Start()
		d.Ring(0).Do([]byte("x"), 1)
		d.Store32(vt.Status, 0)
		require.Zero(t, d.Load32(vt.InterruptStatus))
		for q := range uint32(3) {
			d.Store32(vt.QueueSel, q)
			require.Zero(t, d.Load32(vt.QueueReady))
		}
	}},
	{"4.2.2.1", "ConfigGeneration changes with the configuration", func(t *testing.T) {
		b := virtio.NewBalloon(virtio.BalloonConfig{})
		d := vt.New(t, b, vt.Config{})
		before := d.Load32(vt.ConfigGeneration)
		require.Equal(t, before, d.Load32(vt.ConfigGeneration))
		b.SetTarget(1 << 20)
		require.NotEqual(t, before, d.Load32(vt.ConfigGeneration))
	}},
	{"4.2.2.1", "a queue is not accessed while QueueReady is 0", func(t *testing.T) {
		p := &probe{sizes: []uint16{8}}
		d := vt.New(t, p, vt.Config{})
		require.True(t, d.Negotiate(d.Offered()))
		d.DriverOK()
		require.Nil(t, p.act.Queues[0])
		d.Store32(vt.QueueNotify, 0)
		require.False(t, d.NeedsReset())
	}},
}

var conformanceDevices = []requirement{
	{"5.2.5.2", "FLUSH is offered", func(t *testing.T) {
		require.NotZero(t, newDisk(t, 8, virtio.BlkConfig{}, vt.Config{}).Offered()&blkFlushBit)
	}},
	{"5.2.5.2", "unused0 and unused1 are 0", func(t *testing.T) {
		d := newDisk(t, 8, virtio.BlkConfig{}, vt.Config{})
		require.Equal(t, make([]byte, 1), d.Load(vt.ConfigSpace+33, 1))
		require.Equal(t, make([]byte, 3), d.Load(vt.ConfigSpace+57, 3))
	}},
	{"5.2.6.2", "a write to a read-only disk is an I/O error and writes nothing", func(t *testing.T) {
		d := newDisk(t, 8, virtio.BlkConfig{ReadOnly: true}, vt.Config{})
		before := bytes.Clone(d.back.data)
		_, status := d.do(blkOut, 0, make([]byte, 512), 0)
		require.EqualValues(t, blkIOErr, status)
		require.Equal(t, before, d.back.data)
	}},
	{"5.2.6.2", "unknown flags of discard and write zeroes are not supported", func(t *testing.T) {
		d := newDisk(t, 64, virtio.BlkConfig{}, vt.Config{})
		for _, kind := range []uint32{blkDiscard, blkWriteZeroes} {
			_, status := d.do(kind, 0, ranges(0, 8, 2), 0)
			require.EqualValues(t, blkUnsupp, status)
		}
		require.Empty(t, d.back.discards)
		require.Empty(t, d.back.zeroes)
	}},
	{"5.2.6.2", "the unmap flag of discard is not supported", func(t *testing.T) {
		d := newDisk(t, 64, virtio.BlkConfig{}, vt.Config{})
		_, status := d.do(blkDiscard, 0, ranges(0, 8, 1), 0)
		require.EqualValues(t, blkUnsupp, status)
	}},
	{"5.2.6.2", "zeroes are what is read after write zeroes, unmapped or not", func(t *testing.T) {
		d := newDisk(t, 64, virtio.BlkConfig{}, vt.Config{})
		for flag := range uint64(2) {
			_, status := d.do(blkWriteZeroes, 0, ranges(8*flag, 8, flag), 0)
			require.EqualValues(t, blkOK, status)
			r, status := d.do(blkIn, 8*flag, nil, 8*512)
			require.EqualValues(t, blkOK, status)
			require.Equal(t, make([]byte, 8*512), r.Data[:8*512])
		}
	}},
	{"5.2.6.2", "write_zeroes_may_unmap says that sectors may be deallocated", func(t *testing.T) {
		d := newDisk(t, 64, virtio.BlkConfig{}, vt.Config{})
		require.Equal(t, []byte{1}, d.Load(vt.ConfigSpace+56, 1))
	}},
	{"5.2.6.2", "what was written is committed before a flush completes", func(t *testing.T) {
		d := newDisk(t, 8, virtio.BlkConfig{}, vt.Config{})
		_, status := d.do(blkOut, 0, make([]byte, 512), 0)
		require.EqualValues(t, blkOK, status)
		require.Zero(t, d.back.syncs, "a volatile write")
		_, status = d.do(blkFlush, 0, nil, 0)
		require.EqualValues(t, blkOK, status)
		require.Equal(t, 1, d.back.syncs)
	}},
	{"5.2.6.2", "a driver without FLUSH has its writes committed before they complete", func(t *testing.T) {
		d := newDisk(t, 8, virtio.BlkConfig{}, vt.Config{Without: blkFlushBit})
		_, status := d.do(blkOut, 0, make([]byte, 512), 0)
		require.EqualValues(t, blkOK, status)
		require.Equal(t, 1, d.back.syncs)
	}},
	{"5.4.6.2", "a random byte at least is in every buffer", func(t *testing.T) {
		d := vt.New(t, virtio.NewRNG(zeroes{}), vt.Config{})
		d.Start()
		for _, room := range []int{1, 2, 100, 1 << 20} {
			require.NotZero(t, d.Ring(0).Do(nil, room).Used)
		}
	}},
	{"5.5.6.2", "inflate and deflate requests are acknowledged by using them", func(t *testing.T) {
		d, _ := startBalloon(t, virtio.BalloonConfig{}, vt.Config{})
		p := pages(t, d, 1)
		require.Zero(t, d.Ring(inflateQueue).Do(pfns(p[0]), 0).Used)
		require.Zero(t, d.Ring(deflateQueue).Do(pfns(p[0]), 0).Used)
	}},
	{"5.5.6.2", "a page is modified between the inflate request and its acknowledgement only", func(t *testing.T) {
		d, _ := startBalloon(t, virtio.BalloonConfig{}, vt.Config{})
		p := pages(t, d, 2)
		d.Ring(inflateQueue).Do(pfns(p[0]), 0)
		require.NoError(t, d.Mem.WriteAt([]byte("mine again"), p[0]))
		d.Ring(inflateQueue).Do(pfns(p[1]), 0)
		d.Ring(deflateQueue).Do(pfns(p[0]), 0)
		require.Equal(t, "mine again", string(d.Get(p[0], 10)))
	}},
	{"5.5.6.3.2", "statistics are taken in any order, and unknown tags ignored", func(t *testing.T) {
		TestBalloon_T80_Stats(t)
	}},
	{"5.5.6.7.2", "reported pages are modified before the report is acknowledged, or not at all", func(t *testing.T) {
		d, _ := startBalloon(t, virtio.BalloonConfig{}, vt.Config{})
		p := pages(t, d, 2)
		report(d.Ring(reportQueue), vt.Buf{Addr: p[0], Len: pageSize})
		require.NoError(t, d.Mem.WriteAt([]byte("used again"), p[0]))
		report(d.Ring(reportQueue), vt.Buf{Addr: p[1], Len: pageSize})
		require.Equal(t, "used again", string(d.Get(p[0], 10)))
	}},
	{"5.10.6.1.2", "packets of the driver are taken while it has no room for ours", func(t *testing.T) {
		d := vt.New(t, virtio.NewVsock(virtio.VsockConfig{}), vt.Config{})
		d.Start()
		for port := range uint32(100) { // each is answered by a RST, for which there is no buffer
			h := make([]byte, 44)
			binary.LittleEndian.PutUint64(h[0:], 3)
			binary.LittleEndian.PutUint64(h[8:], 2)
			binary.LittleEndian.PutUint32(h[16:], port)
			binary.LittleEndian.PutUint32(h[20:], 1)
			binary.LittleEndian.PutUint16(h[28:], 1) // stream
			binary.LittleEndian.PutUint16(h[30:], 1) // request
			d.Ring(1).Do(h, 0)
		}
	}},
	{"5.10.6.4.2", "guest_cid is no reserved number", func(t *testing.T) {
		d := vt.New(t, virtio.NewVsock(virtio.VsockConfig{}), vt.Config{})
		cid := binary.LittleEndian.Uint64(d.Load(vt.ConfigSpace, 8))
		require.Greater(t, cid, uint64(2))
		require.Less(t, cid, uint64(0xffffffff))
	}},
	{"5.19.5.1", "start and size are the address and the length of the range", func(t *testing.T) {
		d := vt.New(t, virtio.NewPMem(4<<30, 6<<20), vt.Config{})
		config := d.Load(vt.ConfigSpace, 16)
		require.EqualValues(t, 4<<30, binary.LittleEndian.Uint64(config))
		require.EqualValues(t, 6<<20, binary.LittleEndian.Uint64(config[8:]))
	}},
	{"5.19.7.1", "a flush completes when all is persistent: nothing can be written", func(t *testing.T) {
		d := vt.New(t, virtio.NewPMem(4<<30, 2<<20), vt.Config{})
		d.Start()
		require.Equal(t, make([]byte, 4), d.Ring(0).Do(make([]byte, 4), 4).Data)
	}},
	{"5.19.7.3", "0 is success and -1 is failure", func(t *testing.T) {
		d := vt.New(t, virtio.NewPMem(4<<30, 2<<20), vt.Config{})
		d.Start()
		require.Equal(t, []byte{0, 0, 0, 0}, d.Ring(0).Do([]byte{0, 0, 0, 0}, 4).Data)
		require.Equal(t, []byte{255, 255, 255, 255}, d.Ring(0).Do([]byte{9, 0, 0, 0}, 4).Data)
	}},
}
