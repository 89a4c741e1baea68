package virtio_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

const (
	ack        = virtio.StatusAcknowledge
	driver     = virtio.StatusDriver
	featuresOK = virtio.StatusFeaturesOK
	driverOK   = virtio.StatusDriverOK
	needsReset = virtio.StatusNeedsReset
	failed     = virtio.StatusFailed
)

// virtio 1.2 §4.2.2.1: the registers' values.
func TestMMIO_Spec4_2_2_1(t *testing.T) {
	p := &probe{sizes: []uint16{256, 8}, features: 1<<3 | 1<<30 | 1<<37 | 1<<50}
	d := vt.New(t, p, vt.Config{})
	require.EqualValues(t, 0x74726976, d.Load32(vt.MagicValue))
	require.EqualValues(t, 2, d.Load32(vt.Version))
	require.EqualValues(t, 0x1234, d.Load32(vt.DeviceID))
	require.Equal(t, "SPIT", string(d.Load(vt.VendorID, 4)))
	// Bits that belong to the transport are not the device's to offer.
	require.EqualValues(t, 1<<3|1<<50|virtio.FeatureVersion1|virtio.FeatureEventIdx|virtio.FeatureIndirectDesc, d.Offered())
	d.Store32(vt.DeviceFeaturesSel, 2)
	require.Zero(t, d.Load32(vt.DeviceFeatures))
	d.Store32(vt.DeviceFeaturesSel, 0xffffffff)
	require.Zero(t, d.Load32(vt.DeviceFeatures))
	for _, off := range []uint64{vt.SHMLenLow, vt.SHMLenHigh, vt.SHMBaseLow, vt.SHMBaseHigh} {
		require.EqualValues(t, 0xffffffff, d.Load32(off)) // no shared memory: length -1
	}
	require.Zero(t, d.Load32(vt.InterruptStatus))
	require.Zero(t, d.Status())
	d.Store32(vt.QueueSel, 1)
	require.EqualValues(t, 8, d.Load32(vt.QueueSizeMax))
	// Write-only and reserved registers read zero.
	for off := uint64(0); off < 0x100; off += 4 {
		switch off {
		case vt.DeviceFeaturesSel, vt.DriverFeatures, vt.DriverFeaturesSel, vt.QueueSel, vt.QueueSize, vt.QueueNotify,
			vt.InterruptACK, vt.QueueDescLow, vt.QueueDriverLow, vt.QueueDeviceLow, vt.SHMSel, vt.QueueReset, 0xe0:
			require.Zero(t, d.Load32(off), "%#x", off)
		}
	}
}

func TestMMIO_T01_WidthAndAlignment(t *testing.T) {
	d := vt.New(t, &probe{sizes: []uint16{8}}, vt.Config{})
	for off := uint64(0); off < 0x100; off++ {
		for _, n := range []int{0, 1, 2, 3, 4, 5, 8, 16} {
			if n == 4 && off%4 == 0 {
				continue
			}
			require.Equal(t, make([]byte, n), d.Load(off, n), "%#x/%d", off, n)
			d.Store(off, []byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}[:n])
		}
	}
	require.Zero(t, d.Status(), "a write of another width had an effect")
}

func TestMMIO_T02_ConfigSpace(t *testing.T) {
	p := &probe{sizes: []uint16{8}, config: []byte{1, 2, 3, 4, 5, 6, 7, 8}}
	d := vt.New(t, p, vt.Config{})
	require.Equal(t, []byte{3}, d.Load(vt.ConfigSpace+2, 1))
	require.Equal(t, []byte{2, 3}, d.Load(vt.ConfigSpace+1, 2))
	require.Equal(t, p.config, d.Load(vt.ConfigSpace, 8))
	require.Equal(t, []byte{7, 8, 0, 0}, d.Load(vt.ConfigSpace+6, 4))
	require.Equal(t, make([]byte, 4), d.Load(vt.ConfigSpace+8, 4))
	require.Equal(t, make([]byte, 8), d.Load(0xffc, 8))
	for _, off := range []uint64{0x1000, 0x1001, 1 << 32, 1<<32 + 0x100, ^uint64(0)} {
		require.Equal(t, make([]byte, 4), d.Load(off, 4))
		d.Store(off, []byte{9, 9, 9, 9})
	}

	// Writable between DRIVER and FAILED or NEEDS_RESET only.
	write := func(v byte) byte { d.Store(vt.ConfigSpace, []byte{v}); return p.config[0] }
	require.EqualValues(t, 1, write(10))
	d.Store32(vt.Status, ack)
	require.EqualValues(t, 1, write(11))
	d.Store32(vt.Status, ack|driver)
	require.EqualValues(t, 12, write(12))
	d.Store32(vt.Status, ack|driver|failed)
	require.EqualValues(t, 12, write(13))
	d.Start()
	require.EqualValues(t, 14, write(14))
	p.act.NeedsReset(fmt.Errorf("broken"))
	require.EqualValues(t, 14, write(15))
}

func TestMMIO_T03_StatusSteps(t *testing.T) {
	legal := map[[2]uint32]bool{
		{0, ack}:            true,
		{ack, ack | driver}: true,
		{ack | driver, ack | driver | featuresOK}:                         true,
		{ack | driver | featuresOK, ack | driver | featuresOK | driverOK}: true,
	}
	for _, from := range []uint32{0, ack, ack | driver, ack | driver | featuresOK, ack | driver | featuresOK | driverOK} {
		for to := uint32(1); to < 0x400; to++ {
			d := vt.New(t, &probe{sizes: []uint16{8}}, vt.Config{MemSize: 4096})
			reach(d, from)
			d.Store32(vt.Status, to)
			want := from
			switch {
			case legal[[2]uint32{from, to &^ needsReset}]:
				want = to &^ needsReset
			case to&^needsReset == from|failed:
				want = from | failed
			}
			require.Equal(t, want, d.Status(), "%#x to %#x", from, to)
			if want&failed != 0 { // nothing but a reset leads on
				d.Store32(vt.Status, want|driverOK|featuresOK|driver|ack)
				require.Equal(t, want, d.Status())
			}
			d.Store32(vt.Status, 0)
			require.Zero(t, d.Status())
		}
		d := vt.New(t, &probe{sizes: []uint16{8}}, vt.Config{MemSize: 4096})
		reach(d, from)
		d.Store32(vt.Status, from|1<<31)
		require.Equal(t, from, d.Status())
	}
}

// reach brings a device to a status, step by step.
func reach(d *vt.Driver, status uint32) {
	if status&ack != 0 {
		d.Store32(vt.Status, ack)
	}
	if status&driver != 0 {
		d.Store32(vt.Status, ack|driver)
		d.Store32(vt.DriverFeaturesSel, 1)
		d.Store32(vt.DriverFeatures, virtio.FeatureVersion1>>32)
	}
	if status&featuresOK != 0 {
		d.Store32(vt.Status, ack|driver|featuresOK)
	}
	if status&driverOK != 0 {
		d.Store32(vt.Status, ack|driver|featuresOK|driverOK)
	}
}

func TestMMIO_T04_Features(t *testing.T) {
	d := vt.New(t, &probe{sizes: []uint16{8}, features: 1 << 5}, vt.Config{})
	require.True(t, d.Negotiate(virtio.FeatureVersion1))
	require.True(t, d.Negotiate(virtio.FeatureVersion1|1<<5))
	require.False(t, d.Negotiate(0), "VERSION_1 missing")
	require.False(t, d.Negotiate(1<<5))
	for bit := range 64 {
		if f := uint64(1) << bit; d.Offered()&f == 0 {
			require.False(t, d.Negotiate(virtio.FeatureVersion1|f), "bit %d was not offered", bit)
		}
	}
	require.False(t, d.Negotiate(virtio.FeatureVersion1|1<<6))
	require.EqualValues(t, ack|driver, d.Status())
	d.DriverOK() // not without FEATURES_OK
	require.EqualValues(t, ack|driver, d.Status())

	// Bits beyond 63.
	d.Reset()
	reach(d, ack|driver)
	d.Store32(vt.DriverFeaturesSel, 2)
	d.Store32(vt.DriverFeatures, 1)
	d.Store32(vt.Status, ack|driver|featuresOK)
	require.EqualValues(t, ack|driver, d.Status())

	// Frozen once agreed.
	p := &probe{sizes: []uint16{8}, features: 1 << 5}
	d = vt.New(t, p, vt.Config{})
	require.True(t, d.Negotiate(virtio.FeatureVersion1))
	d.Store32(vt.DriverFeaturesSel, 0)
	d.Store32(vt.DriverFeatures, 0xffffffff)
	d.SetupQueue(0, 8)
	d.DriverOK()
	require.EqualValues(t, virtio.FeatureVersion1, p.act.Features)
}

func TestMMIO_T05_QueueSel(t *testing.T) {
	d := vt.New(t, &probe{sizes: []uint16{8}}, vt.Config{})
	reach(d, ack|driver|featuresOK)
	for _, sel := range []uint32{1, 2, 0x7fffffff, 0x80000000, 0xffffffff} {
		d.Place(int(sel), 8, 0x1000, 0x2000, 0x3000)
		require.Zero(t, d.Load32(vt.QueueSizeMax))
		require.Zero(t, d.Load32(vt.QueueReady))
	}
}

// Each queue register, in each status, before and after the queue is ready.
func TestMMIO_T06_FrozenRegisters(t *testing.T) {
	registers := []uint64{vt.QueueSize, vt.QueueDescLow, vt.QueueDescHigh, vt.QueueDriverLow, vt.QueueDriverHigh, vt.QueueDeviceLow, vt.QueueDeviceHigh, vt.QueueReady}
	for status := range uint32(16) {
		p := &probe{sizes: []uint16{8}}
		d := vt.New(t, p, vt.Config{})
		reach(d, status)
		if d.Status() != status || status == ack|driver|featuresOK {
			continue
		}
		d.Place(0, 8, 0x1000, 0x2000, 0x3000)
		require.Zero(t, d.Load32(vt.QueueReady), "status %#x", status)
		if status&featuresOK == 0 { // nor does what was written too early count later
			reach(d, ack|driver|featuresOK)
			d.Store32(vt.QueueReady, 1)
			require.Zero(t, d.Load32(vt.QueueReady), "status %#x", status)
		}
	}
	for _, at := range []string{"ready", "DRIVER_OK", "FAILED"} {
		for _, off := range registers {
			p := &probe{sizes: []uint16{8}}
			d := vt.New(t, p, vt.Config{})
			require.True(t, d.Negotiate(d.Offered()))
			r := d.SetupQueue(0, 8)
			switch at {
			case "DRIVER_OK":
				d.DriverOK()
			case "FAILED":
				d.DriverOK()
				d.Store32(vt.Status, d.Status()|failed)
			}
			for _, n := range []int{1, 2, 4, 8} {
				for _, v := range []byte{0, 0x80, 0xff} {
					if at == "ready" && off == vt.QueueReady && n == 4 && v&1 == 0 {
						continue // taking it back is allowed before DRIVER_OK
					}
					d.Store(off, []byte{v, v, v, v, v, v, v, v}[:n])
					require.EqualValues(t, 1, d.Load32(vt.QueueReady))
				}
			}
			d.DriverOK()
			require.EqualValues(t, 1, d.Load32(vt.QueueReady))
			require.EqualValues(t, virtio.QueueState{
				Size: 8, Desc: r.Desc, Avail: r.Avail, Used: r.Used, Indirect: true, EventIdx: true,
			}, p.act.Queues[0].State(), "%s, register %#x", at, off)
		}
	}
}

func TestMMIO_T07_T08_RefusedQueues(t *testing.T) {
	d := vt.New(t, &probe{sizes: []uint16{8}}, vt.Config{})
	require.True(t, d.Negotiate(d.Offered()))
	for _, size := range []uint32{0, 3, 7, 9, 16, 32768, 65536, 65544, 0x80000008, 0xffffffff} {
		d.Place(0, size, 0x1000, 0x2000, 0x3000)
		require.Zero(t, d.Load32(vt.QueueReady), "size %d", size)
	}
	for _, a := range [][3]uint64{
		{0x1008, 0x2000, 0x3000}, {0x1000, 0x2001, 0x3000}, {0x1000, 0x2000, 0x3002},
		{vt.LowSize - 16, 0x2000, 0x3000}, {0x1000, vt.LowSize - 4, 0x3000}, {0x1000, 0x2000, vt.LowSize - 8},
		{0xd0000000, 0x2000, 0x3000}, {0x1000, 1 << 63, 0x3000}, {0x1000, 0x2000, ^uint64(3)},
	} {
		d.Place(0, 8, a[0], a[1], a[2])
		require.Zero(t, d.Load32(vt.QueueReady), "%#x", a)
	}
	d.Place(0, 4, 0x1000, 0x2000, 0x3000)
	require.EqualValues(t, 1, d.Load32(vt.QueueReady))
	d.Store32(vt.QueueReady, 0)
	require.Zero(t, d.Load32(vt.QueueReady))
	d.Place(0, 8, 0x1000, 0x2000, 0x3000)
	d.DriverOK()
	require.EqualValues(t, ack|driver|featuresOK|driverOK, d.Status())
}

// A driver may leave queues out.
func TestMMIO_UnusedQueues(t *testing.T) {
	p := &probe{sizes: []uint16{8, 8}}
	d := vt.New(t, p, vt.Config{})
	require.True(t, d.Negotiate(d.Offered()))
	d.SetupQueue(1, 8)
	d.DriverOK()
	require.Nil(t, p.act.Queues[0])
	require.Equal(t, 1, p.act.Queues[1].Index())
}

func TestMMIO_T10_Notify(t *testing.T) {
	d := vt.New(t, &probe{sizes: []uint16{8, 8}, serve: echo}, vt.Config{})
	for _, q := range []uint32{0, 1, 2, 3, 0xffff, 0x10000, 0xffffffff} {
		d.Store32(vt.QueueNotify, q) // before DRIVER_OK
	}
	kicks := []unix.PollFd{{Fd: int32(d.MMIO.KickFD(0)), Events: unix.POLLIN}, {Fd: int32(d.MMIO.KickFD(1)), Events: unix.POLLIN}}
	n, err := unix.Poll(kicks, 0)
	require.NoError(t, err)
	require.Zero(t, n)
	d.Start()
	for range 100000 { // a storm
		d.Store32(vt.QueueNotify, 0)
		d.Store32(vt.QueueNotify, 0xffffffff)
	}
	require.EqualValues(t, 2, d.Ring(0).Do([]byte("hi"), 2).Used)
	require.Equal(t, -1, d.MMIO.KickFD(-1))
	require.Equal(t, -1, d.MMIO.KickFD(2))
	require.GreaterOrEqual(t, d.MMIO.KickFD(1), 0)
}

func TestMMIO_T11_InterruptACK(t *testing.T) {
	d, p := serving(t, echo, vt.Config{})
	d.Ring(0).Do([]byte("hi"), 2)
	p.act.ConfigChanged()
	require.EqualValues(t, 3, d.Load32(vt.InterruptStatus))
	d.Store32(vt.InterruptACK, 0xfffffffc) // unknown bits
	require.EqualValues(t, 3, d.Load32(vt.InterruptStatus))
	d.Store32(vt.InterruptACK, virtio.InterruptUsed)
	require.EqualValues(t, 2, d.Load32(vt.InterruptStatus))
	d.Store32(vt.InterruptACK, 0xffffffff)
	require.Zero(t, d.Load32(vt.InterruptStatus))
	p.act.ConfigChanged()
	d.Store32(vt.Status, 0)
	require.Zero(t, d.Load32(vt.InterruptStatus), "§4.2.2.1: cleared by reset")
}

func TestMMIO_T12_ConfigGeneration(t *testing.T) {
	d, p := serving(t, echo, vt.Config{})
	before := d.Load32(vt.ConfigGeneration)
	require.Equal(t, before, d.Load32(vt.ConfigGeneration))
	p.act.ConfigChanged()
	require.NotEqual(t, before, d.Load32(vt.ConfigGeneration))
	require.Equal(t, 1, d.IRQ.Count())
}

func TestMMIO_T13_QueueResetNotOffered(t *testing.T) {
	d, _ := serving(t, echo, vt.Config{})
	require.Zero(t, d.Offered()&(1<<40))
	d.Store32(vt.QueueReset, 1)
	require.Zero(t, d.Load32(vt.QueueReset))
	d.Store32(vt.QueueSel, 0)
	require.EqualValues(t, 1, d.Load32(vt.QueueReady))
	require.EqualValues(t, 2, d.Ring(0).Do([]byte("hi"), 2).Used)
}

func TestMMIO_Trace(t *testing.T) {
	p := &probe{sizes: []uint16{8}, serve: echo}
	d := vt.New(t, p, vt.Config{})
	var got []virtio.Event
	d.MMIO.SetTrace(func(e virtio.Event) {
		if e.Kind != virtio.EventQueue { // those come from a worker
			got = append(got, e)
		}
	})
	d.Load32(vt.MagicValue)
	d.Store32(vt.Status, ack)
	d.MMIO.SetTrace(nil)
	d.Load32(vt.MagicValue)
	require.Equal(t, []virtio.Event{
		{Kind: virtio.EventRead, Device: "type-4660", Register: "MagicValue", Size: 4, Value: 0x74726976},
		{Kind: virtio.EventWrite, Device: "type-4660", Register: "Status", Offset: 0x70, Size: 4, Value: 1},
		{Kind: virtio.EventStatus, Device: "type-4660", Value: 1},
	}, got)

	d.Start()
	queue := make(chan virtio.Event, 16)
	d.MMIO.SetTrace(func(e virtio.Event) {
		if e.Kind == virtio.EventQueue {
			queue <- e
		}
	})
	d.Ring(0).Do([]byte("x"), 1)
	require.Equal(t, virtio.Event{Kind: virtio.EventQueue, Device: "type-4660", Chains: 1}, <-queue)
}

// What KVM would do with an ioeventfd, and what closing leaves behind.
func TestMMIO_KickByEventfd(t *testing.T) {
	d, _ := serving(t, echo, vt.Config{})
	r := d.Ring(0)
	out := d.Alloc(2, 2)
	r.Add(vt.Buf{Addr: d.Put([]byte("hi")), Len: 2}, vt.Buf{Addr: out, Len: 2, Write: true})
	signal(t, d.MMIO.KickFD(0))
	r.Wait()
	require.Equal(t, "hi", string(d.Get(out, 2)))

	require.NoError(t, d.MMIO.Close())
	require.NoError(t, d.MMIO.Close())
	require.Zero(t, d.Load32(vt.MagicValue))
	d.Store32(vt.Status, 1)
	d.Store32(vt.QueueNotify, 0)
	require.Zero(t, d.Status())
}

func TestMMIO_BadDevice(t *testing.T) {
	for _, size := range []uint16{0, 3, 0xffff, 40000} {
		_, err := virtio.NewMMIO(&probe{sizes: []uint16{8, size}}, nil, nil, nil)
		require.ErrorIs(t, err, virtio.ErrQueueSize)
	}
}

func signal(t *testing.T, fd int) {
	t.Helper()
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, err := unixWrite(fd, one[:])
	require.NoError(t, err)
}
