package hostile

import (
	"bytes"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// Attacks by resets, races and failures.
var lifecycleAttacks = []listed{
	{name: "T37_ResetInFlight", run: resetInFlight},
	{name: "T38_NothingAfterAReset", run: resetInFlight},
	{name: "T39_ResetStorm", run: func(a *attack) {
		d := a.driver(vt.Config{})
		for i := range a.scale(400) {
			d.Start()
			r := d.Ring(a.s.queue)
			in, out := d.Put(a.s.request), d.Alloc(max(uint64(a.s.room), 16), 16)
			for range int(r.Size) / 2 {
				r.Add(a.goodChain(in, out)...)
			}
			r.Kick()
			if i%3 == 0 {
				r.Wait()
			}
		}
		d.Start()
		a.serve(d)
	}},
	{name: "T40_SecondDriver", run: func(a *attack) {
		// As after kexec: other rings elsewhere, other features, without a
		// farewell to the first.
		first := a.start(vt.Config{})
		a.serve(first)
		second := a.driver(vt.Config{QueueSize: 4, Without: virtio.FeatureEventIdx | virtio.FeatureIndirectDesc})
		second.Reset()
		second.Alloc(3<<20, 4096)
		old := first.Ring(a.s.queue)
		usedBefore := old.DeviceUsedIdx()
		require.True(a, second.Negotiate(virtio.FeatureVersion1))
		second.Alloc(3<<20, 4096) // Negotiate has given the first back
		for q := range maxQueues {
			second.Store32(vt.QueueSel, uint32(q))
			if second.Load32(vt.QueueSizeMax) > 0 {
				second.SetupQueue(q, 4)
			}
		}
		second.DriverOK()
		for range 6 {
			a.serve(second)
		}
		require.Equal(a, usedBefore, old.DeviceUsedIdx(), "the first driver's ring")
	}},
	{name: "T43_NeedsResetUntilReset", run: func(a *attack) {
		d := a.start(vt.Config{})
		before := a.w.irqs()
		r := d.Ring(a.s.queue)
		r.Offer(0xffff)
		r.Kick()
		a.breaks(d)
		require.NotZero(a, d.Load32(vt.InterruptStatus)&virtio.InterruptConfig)
		require.Equal(a, before+1, a.w.irqs())
		for q := range maxQueues {
			if r := d.Ring(q); r != nil {
				r.SetAvailIdx(r.AvailIdx + 1)
				r.Kick()
			}
		}
		d.DriverOK()
		d.Store32(vt.Status, acknowledge)
		d.Store32(vt.Status, driverOK|0x30)
		d.Store(vt.ConfigSpace, make([]byte, 4))
		settle()
		require.True(a, d.NeedsReset())
		for q := range maxQueues {
			if r := d.Ring(q); r != nil {
				require.Zero(a, r.DeviceUsedIdx())
			}
		}
		a.otherServes()
	}},
	{name: "T44_TwoProcessors", run: func(a *attack) {
		for _, w := range []struct {
			off uint64
			v   uint32
		}{
			{vt.Status, 0}, {vt.Status, driverOK}, {vt.QueueSel, 1}, {vt.QueueReady, 0},
			{vt.DriverFeatures, 0xffffffff}, {vt.QueueNotify, 0}, {vt.InterruptACK, 3}, {vt.ConfigSpace, 0xffffffff},
		} {
			a.storm(w.off, w.v, a.scale(2000))
			for range a.scale(20) {
				d := a.driver(vt.Config{})
				d.Reset()
				d.Negotiate(d.Offered())
				for q := range maxQueues {
					d.Place(q, 8, uint64(subjectBase), uint64(subjectBase)+0x1000, uint64(subjectBase)+0x2000)
				}
				d.DriverOK()
				d.Store32(vt.QueueNotify, uint32(a.s.queue))
				d.Status()
			}
			a.join()
		}
	}},
	{name: "T45_WorkerPanics", run: func(a *attack) {
		d := a.start(vt.Config{})
		a.s.brittle.worker.Store(true)
		r := d.Ring(a.s.queue)
		in, out := d.Put(a.s.request), d.Alloc(max(uint64(a.s.room), 16), 16)
		r.Add(a.goodChain(in, out)...)
		r.Kick()
		a.breaks(d)
		require.NotZero(a, d.Load32(vt.InterruptStatus)&virtio.InterruptConfig)
		a.otherServes()
		d.Reset() // still broken: the next try panics too
		d.Start()
		r = d.Ring(a.s.queue)
		in, out = d.Put(a.s.request), d.Alloc(max(uint64(a.s.room), 16), 16)
		r.Add(a.goodChain(in, out)...)
		r.Kick()
		a.breaks(d)
	}},
	{name: "T45_ConfigPanics", run: func(a *attack) {
		d := a.start(vt.Config{})
		a.s.brittle.config.Store(true)
		require.Equal(a, make([]byte, 4), d.Load(vt.ConfigSpace, 4))
		require.True(a, d.NeedsReset())
		a.otherServes()
	}},
}

// resetInFlight resets the device while it has all it can take. Once the status
// reads zero, neither the rings nor a buffer change any more.
func resetInFlight(a *attack) {
	if a.s.disk != nil {
		a.s.disk.slow(3 * time.Millisecond)
		defer a.s.disk.slow(0)
	}
	d := a.start(vt.Config{})
	room := max(a.s.room, 16)
	for q := range maxQueues {
		r := d.Ring(q)
		if r == nil {
			continue
		}
		for range int(r.Size) / 2 {
			if q == a.s.queue {
				r.Add(a.goodChain(d.Put(a.s.request), d.Alloc(uint64(room), 16))...)
			} else {
				r.Add(vt.Buf{Addr: d.Alloc(256, 16), Len: 256, Write: true})
			}
		}
		r.Kick()
	}
	d.Store32(vt.Status, 0)
	require.Zero(a, d.Status())
	before := a.w.irqs()
	size := 32 << 10
	canary := bytes.Repeat([]byte{0xee}, size)
	a.must(a.w.ram.WriteAt(canary, subjectBase))
	a.flush()
	settle()
	got := make([]byte, size)
	a.must(a.w.ram.ReadAt(got, subjectBase))
	require.True(a, bytes.Equal(canary, got), "guest memory changed after the reset")
	require.Equal(a, before, a.w.irqs(), "an interrupt after the reset")
	require.Zero(a, d.Load32(vt.InterruptStatus))
}
