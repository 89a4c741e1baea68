package hostile

import (
	"bytes"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// Attacks on the register window.
var transportAttacks = []listed{
	{name: "T1_WidthAndAlignment", run: func(a *attack) {
		d := a.start(vt.Config{})
		for _, n := range []int{1, 2, 8} {
			require.Equal(a, make([]byte, n), d.Load(vt.MagicValue, n))
			d.Store(vt.Status, make([]byte, n)) // a reset, were it four bytes
		}
		for off := uint64(1); off < 4; off++ {
			require.Zero(a, d.Load32(vt.MagicValue+off))
			d.Store32(vt.Status+off, 0)
		}
		require.EqualValues(a, driverOK, d.Status())
		a.serve(d)
	}},
	{name: "T1_EveryOffsetAndWidth", run: func(a *attack) {
		for off := uint64(0); off < 0x110; off++ {
			for i, n := range []int{1, 2, 4, 8} {
				if off == vt.Status && n == 4 {
					continue
				}
				p := bytes.Repeat([]byte{byte(off) ^ byte(0xff<<i)}, n)
				a.w.regs.Write(off, p)
				if off%16 == 0 || a.w.guest == nil {
					a.w.regs.Read(off, p)
				}
			}
		}
	}},
	{name: "T2_ConfigSpace", run: func(a *attack) {
		d := a.start(vt.Config{})
		fixed := uint64(vt.ConfigSpace)
		if a.s.balloon != nil {
			fixed += 8 // actual is the driver's
		}
		before := d.Load(fixed, 8)
		for _, off := range []uint64{0x100, 0x101, 0x107, 0x10c, 0x13c, 0x1ff, 0x7fc, 0xff8, 0xffc, 0xfff} {
			for _, n := range []int{1, 2, 4, 8} {
				if off+uint64(n) > 0x1000 {
					continue
				}
				got := d.Load(off, n)
				if off >= 0x140 {
					require.Equal(a, make([]byte, n), got, "%d bytes at %#x", n, off)
				}
				d.Store(off, bytes.Repeat([]byte{0xff}, n))
			}
		}
		require.Equal(a, before, d.Load(fixed, 8), "nothing is the driver's to write")
		a.serve(d)
	}},
	{name: "T3_StatusSteps", run: func(a *attack) {
		d := a.driver(vt.Config{})
		for _, path := range [][]uint32{
			{driverOK}, {driverBit}, {featuresOK}, {virtio.StatusDriver}, {0x20}, {0x10},
			{acknowledge, driverOK}, {acknowledge, featuresOK}, {acknowledge, virtio.StatusDriver},
			{acknowledge, driverBit, driverOK}, {acknowledge, driverBit, driverBit | 0x30},
			{acknowledge | 1<<31}, {virtio.StatusNeedsReset},
		} {
			d.Reset()
			for _, v := range path[:len(path)-1] {
				d.Store32(vt.Status, v)
			}
			before := d.Status()
			d.Store32(vt.Status, path[len(path)-1])
			require.Equal(a, before, d.Status(), "%#x", path)
		}
	}},
	{name: "T4_Features", run: func(a *attack) {
		d := a.driver(vt.Config{})
		offered := d.Offered()
		require.False(a, d.Negotiate(offered&^virtio.FeatureVersion1), "without VERSION_1")
		for _, bit := range []uint{4, 7, 18, 23, 34, 38, 40, 63} {
			if offered>>bit&1 == 0 {
				require.False(a, d.Negotiate(offered|1<<bit), "bit %d", bit)
			}
		}
		require.True(a, d.Negotiate(offered&^virtio.FeatureIndirectDesc))
		d.Store32(vt.DriverFeaturesSel, 0)
		d.Store32(vt.DriverFeatures, uint32(offered)) // too late
		for q := range maxQueues {
			d.Store32(vt.QueueSel, uint32(q))
			if d.Load32(vt.QueueSizeMax) > 0 {
				d.SetupQueue(q, 8)
			}
		}
		d.DriverOK()
		r := d.Ring(a.s.queue)
		r.SetDesc(0, r.Table(vt.Desc{Addr: subjectBase, Len: 4}))
		r.Offer(0)
		r.Kick()
		a.breaks(d) // an indirect table was not negotiated
	}},
	{name: "T5_QueueSel", run: func(a *attack) {
		d := a.start(vt.Config{})
		for _, sel := range []uint32{5, 6, 255, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff} {
			d.Place(int(sel), 8, 0x1000, 0x2000, 0x3000)
			require.Zero(a, d.Load32(vt.QueueSizeMax))
			require.Zero(a, d.Load32(vt.QueueReady))
		}
		a.serve(d)
	}},
	{name: "T6_FrozenRegisters", run: frozenRegisters},
	{name: "T7_QueueSizes", run: func(a *attack) {
		d := a.driver(vt.Config{})
		require.True(a, d.Negotiate(d.Offered()))
		for _, size := range []uint32{0, 3, 5, 1023, 512, 1024, 32768, 65536, 65536 + 8, 0x80000000, 0xffffffff} {
			d.Place(0, size, uint64(subjectBase), uint64(subjectBase)+0x100000, uint64(subjectBase)+0x200000)
			require.Zero(a, d.Load32(vt.QueueReady), "size %d", size)
		}
	}},
	{name: "T8_RingAddresses", run: func(a *attack) {
		d := a.driver(vt.Config{})
		require.True(a, d.Negotiate(d.Offered()))
		const good = uint64(subjectBase)
		end := uint64(a.w.end)
		for _, bad := range []uint64{end, end - 16, end - 64, uint64(hole), 0xd0000000, 0xfec00000, 1 << 40, 1 << 52, 1 << 63, ^uint64(0) - 127, ^uint64(0) &^ 15} {
			d.Place(0, 8, bad, good, good+0x1000)
			require.Zero(a, d.Load32(vt.QueueReady), "table at %#x", bad)
			if bad == end-16 || bad == end-64 {
				continue // room enough for the others
			}
			d.Place(0, 8, good, bad, good+0x1000)
			require.Zero(a, d.Load32(vt.QueueReady), "available ring at %#x", bad)
			d.Place(0, 8, good, good+0x1000, bad)
			require.Zero(a, d.Load32(vt.QueueReady), "used ring at %#x", bad)
		}
		for _, off := range []uint64{1, 2, 4, 8, 15} {
			d.Place(0, 8, good+off, good+0x1000, good+0x2000)
			require.Zero(a, d.Load32(vt.QueueReady), "table %d off", off)
		}
		d.Place(0, 8, good, good+0x1001, good+0x2000)
		require.Zero(a, d.Load32(vt.QueueReady))
		for off := uint64(1); off < 4; off++ {
			d.Place(0, 8, good, good+0x1000, good+0x2000+off)
			require.Zero(a, d.Load32(vt.QueueReady))
		}
	}},
	{name: "T9_OverlappingRings", run: func(a *attack) {
		for _, gap := range []guestmem.GPA{0, 16, 64} { // all rings in one place, and nearly so
			d := a.driver(vt.Config{})
			require.True(a, d.Negotiate(d.Offered()))
			at := d.Alloc(4096, 4096)
			for q := range maxQueues {
				d.Place(q, 8, uint64(at), uint64(at+gap), uint64(at+2*gap))
			}
			d.DriverOK()
			for i := range 8 {
				a.must(a.w.ram.StoreUint64(at+guestmem.GPA(16*i), uint64(at)))
				a.must(a.w.ram.StoreUint64(at+guestmem.GPA(16*i)+8, 64|2<<32))
				for q := range maxQueues {
					d.Store32(vt.QueueNotify, uint32(q))
				}
			}
		}
	}},
	{name: "T10_Notify", run: func(a *attack) {
		d := a.driver(vt.Config{})
		require.True(a, d.Negotiate(d.Offered()))
		for _, q := range []uint32{0, 1, 2, 3, 99, 0xffffffff} {
			d.Store32(vt.QueueNotify, q) // not ready yet
		}
		d = a.start(vt.Config{})
		for _, q := range []uint32{5, 99, 0x10000, 0xffffffff} {
			d.Store32(vt.QueueNotify, q)
		}
		for q := range maxQueues {
			a.storm(vt.QueueNotify, uint32(q), a.scale(5000))
			a.serve(d)
			a.otherServes()
			a.join()
		}
		a.serve(d)
	}},
	{name: "T11_InterruptACK", run: func(a *attack) {
		d := a.start(vt.Config{})
		before := a.w.irqs()
		a.serve(d)
		require.EqualValues(a, virtio.InterruptUsed, d.Load32(vt.InterruptStatus))
		require.Equal(a, before+1, a.w.irqs())
		d.Store32(vt.InterruptACK, ^uint32(virtio.InterruptUsed))
		require.EqualValues(a, virtio.InterruptUsed, d.Load32(vt.InterruptStatus))
		d.Store32(vt.InterruptACK, 0xffffffff)
		require.Zero(a, d.Load32(vt.InterruptStatus))
	}},
	{name: "T12_ConfigGeneration", run: func(a *attack) {
		d := a.start(vt.Config{})
		gen := d.Load32(vt.ConfigGeneration)
		d.Store32(vt.ConfigGeneration, gen+7)
		d.Store(vt.ConfigSpace, []byte{1, 2, 3, 4})
		require.Equal(a, gen, d.Load32(vt.ConfigGeneration))
	}},
	{name: "T13_QueueReset", run: func(a *attack) {
		d := a.start(vt.Config{})
		d.Store32(vt.QueueSel, uint32(a.s.queue))
		d.Store32(vt.QueueReset, 1)
		require.Zero(a, d.Load32(vt.QueueReset))
		require.EqualValues(a, 1, d.Load32(vt.QueueReady))
		a.serve(d)
	}},
}

// frozenRegisters writes every queue register after the queue is ready, and
// after DRIVER_OK: the device goes on with what it checked (CVE-2026-5747).
func frozenRegisters(a *attack) {
	d := a.start(vt.Config{})
	registers := []uint64{
		vt.QueueSize, vt.QueueReady, vt.QueueDescLow, vt.QueueDescHigh, vt.QueueDriverLow,
		vt.QueueDriverHigh, vt.QueueDeviceLow, vt.QueueDeviceHigh, vt.DriverFeatures,
	}
	for _, failed := range []bool{false, true} {
		if failed {
			d.Store32(vt.Status, driverOK|virtio.StatusFailed)
		}
		for q := range uint32(maxQueues) {
			d.Store32(vt.QueueSel, q)
			for _, reg := range registers {
				for _, v := range []uint32{0, 1, 0xffff, 0x10000, 0xffffffff} {
					d.Store32(reg, v)
				}
				d.Store(reg, make([]byte, 8))
			}
		}
		a.serve(d)
	}
	d.Store32(vt.QueueSel, uint32(a.s.queue))
	require.EqualValues(a, 1, d.Load32(vt.QueueReady))
}
