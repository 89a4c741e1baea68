package hostile

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// ringSize has a table and an available ring whose lengths are multiples of what
// the part after each is aligned to, so that a page can end after either.
const (
	ringSize  = 4
	ringTable = 16 * ringSize
	ringAvail = (6 + 2*ringSize + 3) &^ 3
)

// startAcross starts a balloon with the rings of one queue across the end of a
// page: n bytes of them lie in it, and nothing else that anyone uses.
func (a *attack) startAcross(queue int, n uint64) (d *vt.Driver, pageAt guestmem.GPA) {
	a.Helper()
	d = a.driver(vt.Config{})
	require.True(a, d.Negotiate(d.Offered()))
	for q := range maxQueues {
		if q == queue {
			pageAt = d.Alloc(page-n, page)
		}
		d.SetupQueue(q, ringSize)
		if q == queue {
			require.Equal(a, pageAt+guestmem.GPA(page-n), d.Ring(q).Desc)
			d.Alloc(page, page)
		}
	}
	d.DriverOK()
	return d, pageAt
}

// giveAway offers pages to the balloon, as the queue has it, without a wait.
func (a *attack) giveAway(d *vt.Driver, queue int, at guestmem.GPA, pages int) {
	a.Helper()
	r := d.Ring(queue)
	if queue == reportQueue {
		r.Add(vt.Buf{Addr: at, Len: uint32(pages * page), Write: true})
	} else {
		var list []byte
		for i := range pages {
			list = append(list, pfns(at+guestmem.GPA(i*page))...)
		}
		r.Add(vt.Buf{Addr: d.Put(list), Len: uint32(len(list))})
	}
	r.Kick()
}

// waitGone waits until a page is zeros: its ring says nothing about it.
func (a *attack) waitGone(before virtio.BalloonCounters) {
	a.Helper()
	deadline := time.Now().Add(vt.Timeout)
	for c := before; c.Inflated+c.Reported == before.Inflated+before.Reported; c = a.s.balloon.Counters() {
		if time.Now().After(deadline) {
			a.Fatalf("nothing was given away in %v", vt.Timeout)
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// waitUsed waits until the device's index is idx. It may be zero on the way,
// which a driver's own count would be led astray by.
func (a *attack) waitUsed(r *vt.Ring, idx uint16) {
	a.Helper()
	deadline := time.Now().Add(vt.Timeout)
	for r.DeviceUsedIdx() != idx {
		if time.Now().After(deadline) {
			a.Fatalf("the used index is %d instead of %d after %v", r.DeviceUsedIdx(), idx, vt.Timeout)
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// givers are the queues that give away.
var givers = []int{inflateQueue, reportQueue}

// Attacks by a balloon's rings, its life, and its statistics.
var balloonRingAttacks = []listed{
	{name: "T79_TableGivenAway", devices: onlyBalloon, scribble: true, run: func(a *attack) {
		// The descriptor under way was read: it is served, and so is the next.
		for _, q := range givers {
			d, at := a.startAcross(q, ringTable)
			for range 2 * ringSize {
				a.giveAway(d, q, at, 1)
				_, used := d.Ring(q).Wait()
				require.Zero(a, used)
				require.Equal(a, make([]byte, ringTable), d.Get(d.Ring(q).Desc, ringTable))
			}
			// What was offered already is zeros now: empty chains.
			for range 2 {
				a.giveAway(d, q, at, 1)
			}
			d.Ring(q).Wait()
			d.Ring(q).Wait()
			require.False(a, d.NeedsReset())
		}
	}},
	{name: "T79_UsedRingGivenAway", devices: onlyBalloon, scribble: true, run: func(a *attack) {
		// The device knows its own index. Entries before it are zeros.
		for _, q := range givers {
			d, at := a.startAcross(q, ringTable+ringAvail)
			used := at + page
			require.Equal(a, used, d.Ring(q).Used)
			r := d.Ring(q)
			e := vt.Desc{Addr: used, Len: page, Flags: vt.Write}
			if q == inflateQueue {
				e = vt.Desc{Addr: d.Put(pfns(used)), Len: 4}
			}
			for i := range uint16(2 * ringSize) {
				a.must(a.w.ram.WriteAt([]byte{0xff}, used+page-1))
				r.SetDesc(0, e)
				r.Offer(0)
				r.Kick()
				a.waitUsed(r, i+1)
				require.Zero(a, d.Get(used+page-1, 1)[0])
			}
			require.False(a, d.NeedsReset())
		}
	}},
	{name: "T79_AvailableRingGivenAway", devices: onlyBalloon, scribble: true, run: func(a *attack) {
		// Its index is zero again, which is far from where the device is (T14).
		for _, q := range givers {
			d, at := a.startAcross(q, ringTable+ringAvail)
			a.giveAway(d, q, at, 1)
			a.breaks(d)
			a.otherServes()
		}
	}},
	{name: "T79_AllRingsGivenAway", devices: balloons, scribble: true, run: func(a *attack) {
		// Those of all queues, the page of the numbers, and the table in which
		// the range lies: the chain is finished, or the device wants a reset.
		for _, q := range givers {
			d := a.start(vt.Config{})
			before := a.s.balloon.Counters()
			a.giveAway(d, q, subjectBase, 8)
			a.waitGone(before)
			a.breaks(d)
			a.otherServes()

			d = a.start(vt.Config{})
			before = a.s.balloon.Counters()
			whole := vt.Buf{Addr: subjectBase, Len: 16 * page, Write: true}
			d.Ring(reportQueue).AddIndirect(whole, whole, whole)
			d.Ring(reportQueue).Kick()
			a.waitGone(before)
			a.breaks(d)
		}
	}},
	{name: "T79_IndirectTableGivenAway", devices: onlyBalloon, scribble: true, run: func(a *attack) {
		// The table under way, which was read once (T36).
		d := a.start(vt.Config{})
		a.fill(4)
		r := d.Ring(reportQueue)
		d.Alloc(1, page)
		var table guestmem.GPA
		c := a.counted(func() {
			e := r.Table(vt.Desc{Len: page, Flags: vt.Write | vt.Next, Next: 1}, vt.Desc{Addr: balloonAt + page, Len: page, Flags: vt.Write})
			table = e.Addr &^ (page - 1)
			a.must(a.w.ram.StoreUint64(e.Addr, uint64(table)))
			r.SetDesc(0, e)
			r.Offer(0)
			r.Kick()
			r.Wait()
		})
		require.Equal(a, virtio.BalloonCounters{Reported: 2 * page}, c)
		require.Equal(a, make([]byte, page), d.Get(table, page))
		a.gone(4, 1)
		require.False(a, d.NeedsReset())
	}},
	{name: "T79_NumbersGiveThemselvesAway", devices: onlyBalloon, scribble: true, run: func(a *attack) {
		// An array in pages that it names. What is read of it once it is gone is
		// page zero, which is the guest's too.
		d := a.start(vt.Config{})
		a.fill(4)
		list := make([]byte, 2*page)
		for i := 0; i < len(list); i += 8 {
			copy(list[i:], pfns(balloonAt+page, hole))
		}
		a.must(a.w.ram.WriteAt(list, balloonAt+page))
		r := d.Ring(inflateQueue)
		r.Add(vt.Buf{Addr: balloonAt + page, Len: uint32(len(list))})
		r.Kick()
		_, used := r.Wait()
		require.Zero(a, used)
		require.Equal(a, make([]byte, page), d.Get(balloonAt+page, page))
		require.Equal(a, bytes.Repeat([]byte{0xb8}, page), d.Get(balloonAt, page))
		require.Equal(a, list[page:], d.Get(balloonAt+2*page, page))
		require.Equal(a, bytes.Repeat([]byte{0xb8}, page), d.Get(balloonAt+3*page, page))
		require.False(a, d.NeedsReset())
	}},
	{name: "T79_AnotherDevicesRings", devices: onlyBalloon, scribble: true, run: func(a *attack) {
		// Rings and buffers of another device, idle and at work: a reset is all
		// that it needs afterwards.
		d := a.start(vt.Config{})
		for range 3 {
			a.otherServes()
			report(d.Ring(reportQueue), vt.Buf{Addr: otherBase, Len: otherSize})
			require.Equal(a, make([]byte, page), d.Get(otherBase, page))
			o := a.w.other.Ring(0)
			at := a.w.other.Alloc(64<<10, page)
			for range 8 {
				o.Add(vt.Buf{Addr: at, Len: 8 << 10, Write: true})
			}
			o.Kick()
			report(d.Ring(reportQueue), vt.Buf{Addr: otherBase, Len: otherSize})
			a.w.other = nil // whose rings are gone
			a.otherServes()
		}
		require.False(a, d.NeedsReset())
	}},
	{name: "T28_EndlessReports", devices: onlyBalloon, run: func(a *attack) {
		// Mebibytes reported without an end take nothing from another device, nor
		// from a reset.
		d := a.start(vt.Config{})
		r := d.Ring(reportQueue)
		all := vt.Buf{Addr: balloonAt, Len: 2 << 20, Write: true}
		for range a.scale(50) {
			for range r.Size {
				r.Add(all)
			}
			r.Kick()
			a.otherServes()
			for range r.Size {
				r.Wait()
			}
		}
		for range r.Size {
			r.Add(all)
		}
		r.Kick()
		start := time.Now()
		d.Reset()
		require.Zero(a, d.Status())
		require.Less(a, time.Since(start), 5*time.Second)
	}},
	{name: "T37_ResetWhileGivingAway", devices: onlyBalloon, run: func(a *attack) {
		// Nothing is given away any more once the status reads zero, and the
		// rest of a long list does not keep a reset waiting.
		d := a.driver(vt.Config{})
		list := bytes.Repeat(pfns(balloonAt, balloonAt+2*page), 32<<10) // no two neighbours
		for i := range a.scale(20) {
			d.Start()
			at := d.Put(list)
			d.Ring(inflateQueue).Add(slices.Repeat([]vt.Buf{{Addr: at, Len: uint32(len(list))}}, 16)...)
			for range 4 {
				d.Ring(reportQueue).Add(slices.Repeat([]vt.Buf{{Addr: balloonAt, Len: 1 << 20, Write: true}}, 4)...)
			}
			begun := a.s.balloon.Counters()
			d.Ring(inflateQueue).Kick()
			d.Ring(reportQueue).Kick()
			if i%2 == 0 {
				a.waitGone(begun) // in the midst of it
			}
			d.Store32(vt.Status, 0)
			require.Zero(a, d.Status())
			require.Less(a, a.s.balloon.Counters().Inflated-begun.Inflated, uint64(1<<20*page), "the whole list")
			a.fill(4)
			a.flush()
			before := a.s.balloon.Counters()
			settle()
			a.gone(4)
			require.Equal(a, before, a.s.balloon.Counters())
		}
	}},
	{name: "T80_StatsFlood", devices: onlyBalloonStats, run: func(a *attack) {
		// More buffers than a driver may leave, full of tags that mean nothing, a
		// long list, the same tag over and over, halves of entries, nothing to
		// read, and kicks without end. The host gets what there was.
		d := a.start(vt.Config{})
		r := d.Ring(statsQueue)
		long := slices.Concat(bytes.Repeat(stat(5, 9), 64), bytes.Repeat(stat(5, 10), 6336)) // read to a bound
		junk := slices.Concat(stat(10, 1), stat(0xffff, 1<<63), stat(4, 77), stat(0x8000, 1), stat(4, ^uint64(0)), []byte{5, 0, 1, 2, 3})
		offers := [][]vt.Buf{
			{{Addr: d.Put([]byte{0}), Len: 1}}, // what it had before anyone asked
			{{Addr: d.Put(junk), Len: uint32(len(junk))}},
			{{Addr: d.Put(long), Len: uint32(len(long))}},
			{{Addr: d.Put(stat(4, 1)), Len: 9}},
			{{Addr: d.Put(stat(6, 5)), Len: 3}, {Addr: hole}, {Addr: d.Put(stat(6, 5)[3:]), Len: 7}},
			{{Addr: d.Put(stat(4, 1)), Len: 10, Write: true}},
			{{Addr: hole}},
		}
		want := []virtio.BalloonStats{{Free: ^uint64(0)}, {Total: 9}, {}, {Available: 5}, {}, {}}
		for _, bufs := range offers {
			r.Add(bufs...)
		}
		r.Kick()
		a.storm(vt.QueueNotify, statsQueue, a.scale(2000))
		ctx, cancel := context.WithTimeout(context.Background(), vt.Timeout)
		defer cancel()
		for i, w := range want {
			got, err := a.s.balloon.Stats(ctx)
			for i == 0 && err == virtio.ErrNoStats && ctx.Err() == nil { // the worker is not there yet
				time.Sleep(time.Millisecond)
				got, err = a.s.balloon.Stats(ctx)
			}
			require.NoError(a, err)
			require.Equal(a, w, got, "buffer %d", i+1)
			_, used := r.Wait()
			require.Zero(a, used)
		}
		// It has the last buffer, and gives it back for the next question only.
		silent, cancelSilent := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancelSilent()
		for range 100 {
			_, err := a.s.balloon.Stats(silent)
			require.ErrorIs(a, err, context.DeadlineExceeded)
		}
		a.join()
		require.False(a, d.NeedsReset())
		a.serve(d) // the other queues work meanwhile
		d.Reset()
		require.Zero(a, d.Status())
		_, err := a.s.balloon.Stats(ctx)
		require.ErrorIs(a, err, virtio.ErrNoStats)
	}},
	{name: "T80_StatsChains", devices: onlyBalloonStats, run: func(a *attack) {
		// Chains that make no sense, and those who wait for them.
		for _, bad := range []vt.Desc{
			{Addr: hole, Len: 10}, {Addr: a.w.end - 5, Len: 10}, {Addr: lastByte, Len: 0xffffffff},
			{Addr: balloonAt, Len: 10, Flags: vt.Next, Next: 0}, {Addr: balloonAt, Len: 10, Flags: vt.Next, Next: 0xffff},
			{Addr: subjectBase, Len: 5 << 20}, {Addr: balloonAt, Len: 15, Flags: vt.Indirect},
		} {
			d := a.start(vt.Config{})
			r := d.Ring(statsQueue)
			r.SetDesc(1, vt.Desc{Addr: d.Put(stat(4, 1)), Len: 10})
			r.Offer(1)
			r.Kick()
			r.SetDesc(0, bad)
			r.Offer(0)
			r.Kick()
			ctx, cancel := context.WithTimeout(context.Background(), vt.Timeout)
			_, err := a.s.balloon.Stats(ctx)
			for err == virtio.ErrNoStats && ctx.Err() == nil && !d.NeedsReset() {
				time.Sleep(time.Millisecond)
				_, err = a.s.balloon.Stats(ctx)
			}
			cancel()
			require.ErrorIs(a, err, virtio.ErrNoStats)
			a.breaks(d)
			a.otherServes()
		}
	}},
}

func stat(tag uint16, v uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint16(nil, tag), v)
}
