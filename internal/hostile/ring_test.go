package hostile

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// Attacks on the rings themselves.
var ringAttacks = []listed{
	{name: "T14_AvailJump", run: func(a *attack) {
		for _, jump := range []uint16{17, 0x8000, 0xffff, 0x1234} {
			a.eachVictim(vt.Config{}, func(d *vt.Driver, r *vt.Ring, fire func()) {
				r.SetAvailIdx(jump)
				fire()
				a.breaks(d)
				require.Zero(a, r.DeviceUsedIdx())
			})
		}
	}},
	{name: "T14_AvailGoesBack", run: func(a *attack) {
		d := a.start(vt.Config{})
		for range 3 {
			a.serve(d)
		}
		r := d.Ring(a.s.queue)
		r.SetAvailIdx(r.AvailIdx - 1)
		r.Kick()
		a.breaks(d)
		require.EqualValues(a, 3, r.DeviceUsedIdx())
	}},
	{name: "T14_AvailOneRound", run: func(a *attack) {
		// Exactly as far as the queue is long: each entry is looked at once.
		d := a.start(vt.Config{})
		r := d.Ring(a.s.queue)
		r.SetAvailIdx(r.Size) // sixteen times head 0, which is empty
		r.Kick()
		settle()
		require.LessOrEqual(a, r.DeviceUsedIdx(), r.Size)
	}},
	{name: "T15_Head", run: func(a *attack) {
		for _, head := range []uint16{16, 0x7fff, 0xffff} {
			a.eachVictim(vt.Config{}, func(d *vt.Driver, r *vt.Ring, fire func()) {
				if head < r.Size {
					return
				}
				r.Offer(head)
				fire()
				a.breaks(d)
				require.Zero(a, r.DeviceUsedIdx())
			})
		}
	}},
	{name: "T22_ReadableStaysUntouched", run: func(a *attack) {
		// A request with more to read than the device wants, and the table it
		// lies in: nobody writes there.
		d := a.start(vt.Config{})
		r := d.Ring(a.s.queue)
		request := append(bytes.Clone(a.s.request), make([]byte, 16-len(a.s.request)%16)...)
		in := d.Put(request)
		bufs := []vt.Buf{{Addr: in, Len: uint32(len(request))}}
		if a.s.room > 0 {
			bufs = append(bufs, vt.Buf{Addr: d.Alloc(uint64(a.s.room), 16), Len: uint32(a.s.room), Write: true})
		}
		before := d.Get(r.Desc, 16*int(r.Size))
		r.Add(bufs...)
		table := d.Get(r.Desc, 16*int(r.Size))
		require.NotEqual(a, before, table)
		r.Kick()
		r.Wait()
		require.Equal(a, request, d.Get(in, len(request)))
		require.Equal(a, table, d.Get(r.Desc, 16*int(r.Size)))
	}},
	{name: "T24_UsedLength", run: func(a *attack) {
		// However much room there is, the device tells what it wrote, and wrote
		// no more.
		d := a.start(vt.Config{})
		r := d.Ring(a.s.queue)
		const room = 4096
		canary := bytes.Repeat([]byte{0xa5}, room)
		out := d.Put(canary)
		var bufs []vt.Buf
		if len(a.s.request) > 0 {
			bufs = append(bufs, vt.Buf{Addr: d.Put(a.s.request), Len: uint32(len(a.s.request))})
		}
		r.Add(append(bufs, vt.Buf{Addr: out, Len: room, Write: true})...)
		r.Kick()
		_, used := r.Wait()
		require.LessOrEqual(a, used, uint32(room))
		got := d.Get(out, room)
		last := room
		if a.s.disk != nil {
			last-- // the status, which comes last
		}
		require.Equal(a, canary[used:last], got[min(int(used), last):last])
	}},
	{name: "T25_EveryHeadOnce", run: func(a *attack) {
		d := a.start(vt.Config{})
		r := d.Ring(a.s.queue)
		rnd := rand.New(rand.NewPCG(1, 2))
		in, out := d.Put(a.s.request), d.Alloc(uint64(a.s.room), 16)
		out2 := map[uint16]int{}
		for range a.scale(20) {
			n := rnd.IntN(int(r.Size)/2) + 1
			for range n {
				out2[r.Add(a.goodChain(in, out)...)]++
			}
			r.Kick()
			for range n {
				head, _ := r.Wait()
				out2[head]--
				require.Zero(a, out2[head], "head %d", head)
			}
		}
		settle()
		require.Equal(a, r.UsedIdx, r.DeviceUsedIdx())
	}},
	{name: "T26_UsedRingBounds", run: func(a *attack) {
		// Three rounds through the smallest of rings, with canaries around.
		d := a.driver(vt.Config{QueueSize: 2})
		require.True(a, d.Negotiate(d.Offered()))
		canary := bytes.Repeat([]byte{0x5a}, 64)
		before := d.Put(canary)
		for q := range maxQueues {
			d.Store32(vt.QueueSel, uint32(q))
			if d.Load32(vt.QueueSizeMax) > 0 {
				d.SetupQueue(q, 2)
			}
		}
		after := d.Put(canary)
		d.DriverOK()
		for range 6 {
			a.serve(d)
		}
		require.Equal(a, canary, d.Get(before, 64))
		require.Equal(a, canary, d.Get(after, 64))
	}},
	{name: "T27_UsedEvent", run: func(a *attack) {
		d := a.start(vt.Config{})
		r := d.Ring(a.s.queue)
		rnd := rand.New(rand.NewPCG(3, 4))
		for range a.scale(100) {
			r.SetUsedEvent(uint16(rnd.Uint32()))
			r.SetAvailFlags(uint16(rnd.Uint32()))
			a.serve(d)
		}
	}},
	{name: "T27_IndexWraps", run: func(a *attack) {
		// Beyond 2¹⁶, where every comparison has to wrap.
		if a.w.guest != nil && !full() {
			return // 65,536 round trips; the arithmetic is the same in process
		}
		d := a.start(vt.Config{})
		r := d.Ring(a.s.queue)
		in, out := d.Put(a.s.request), d.Alloc(uint64(a.s.room), 16)
		if a.s.name == "rng" || a.s.name == "console" {
			out = 0x100 // no room: their rates would make this last
		}
		for done := 0; done < 1<<16+64; done += 4 {
			for range 4 {
				if out == 0x100 {
					r.Add(vt.Buf{Addr: out})
					continue
				}
				r.Add(a.goodChain(in, out)...)
			}
			r.Kick()
			for range 4 {
				r.Wait()
			}
		}
	}},
	{name: "T28_EndlessQueue", run: func(a *attack) {
		// A queue that is never empty takes nothing away from another device,
		// nor from a reset.
		d := a.start(vt.Config{})
		r := d.Ring(a.s.queue)
		in, out := d.Put(a.s.request), d.Alloc(uint64(a.s.room), 16)
		n := 0
		for range int(r.Size) / 2 {
			r.Add(a.goodChain(in, out)...)
			n++
		}
		for range a.scale(50) {
			r.Kick()
			a.otherServes()
			for range n {
				r.Wait()
			}
			for range n {
				r.Add(a.goodChain(in, out)...)
			}
		}
		r.Kick()
		start := time.Now()
		d.Reset()
		require.Zero(a, d.Status())
		require.Less(a, time.Since(start), 5*time.Second)
	}},
	{name: "T29_SameHeadTwice", run: func(a *attack) {
		d := a.start(vt.Config{})
		r := d.Ring(a.s.queue)
		in, out := d.Put(a.s.request), d.Alloc(uint64(a.s.room), 16)
		head := r.Add(a.goodChain(in, out)...)
		for range 7 {
			r.Offer(head)
		}
		r.Kick()
		// One after the other is fine; in flight twice it must not be.
		settle()
		require.LessOrEqual(a, r.DeviceUsedIdx(), uint16(8))
	}},
	{name: "T23_DescriptorChangesUnderTheDevice", scribble: true, run: func(a *attack) {
		d := a.driver(vt.Config{})
		for range a.scale(30) {
			d.Start()
			r := d.Ring(a.s.queue)
			in, out := d.Put(a.s.request), d.Alloc(max(uint64(a.s.room), 16), 16)
			good := raw(vt.Desc{Addr: in, Len: uint32(len(a.s.request)), Flags: vt.Next, Next: 1})
			a.scribble(r.Desc, [4][]byte{
				good,
				raw(vt.Desc{Addr: lastByte, Len: 0xffffffff}),
				raw(vt.Desc{Addr: a.w.end - 1, Len: 2, Flags: vt.Next, Next: 0xffff}),
				raw(vt.Desc{Addr: r.Desc, Len: 32, Flags: vt.Indirect}),
			}, a.scale(2000))
			r.SetDesc(1, vt.Desc{Addr: out, Len: uint32(a.s.room), Flags: vt.Write})
			for range 8 {
				r.Offer(0)
				r.Kick()
			}
			a.join()
			d.Reset()
		}
	}},
	{name: "T36_TableChangesUnderTheDevice", scribble: true, run: func(a *attack) {
		d := a.driver(vt.Config{})
		for range a.scale(30) {
			d.Start()
			r := d.Ring(a.s.queue)
			in := d.Put(append(bytes.Clone(a.s.request), 0))
			table := r.Table(vt.Desc{}, vt.Desc{})
			a.scribble(table.Addr, [4][]byte{
				append(raw(vt.Desc{Addr: in, Len: 8, Flags: vt.Next, Next: 1}), raw(vt.Desc{Addr: in, Len: 8, Flags: vt.Write})...),
				append(raw(vt.Desc{Addr: in, Len: 8, Flags: vt.Next, Next: 0}), raw(vt.Desc{Addr: hole, Len: 8, Flags: vt.Write})...),
				append(raw(vt.Desc{Addr: table.Addr, Len: 32, Flags: vt.Indirect}), raw(vt.Desc{Flags: vt.Indirect})...),
				append(raw(vt.Desc{Addr: a.w.end, Len: 8, Flags: vt.Next, Next: 7}), raw(vt.Desc{Addr: lastByte, Len: 0xffffffff})...),
			}, a.scale(2000))
			r.SetDesc(0, table)
			for range 8 {
				r.Offer(0)
				r.Kick()
			}
			a.join()
			d.Reset()
		}
	}},
	{name: "T23_PayloadChangesUnderTheDevice", scribble: true, run: func(a *attack) {
		if len(a.s.request) == 0 {
			return
		}
		d := a.start(vt.Config{})
		r := d.Ring(a.s.queue)
		n := (len(a.s.request) + 7) &^ 7
		request := append(bytes.Clone(a.s.request), make([]byte, n-len(a.s.request))...)
		in, out := d.Put(request), d.Alloc(max(uint64(a.s.room), 16), 16)
		huge := bytes.Repeat([]byte{0xff}, n)
		a.scribble(in, [4][]byte{request, huge, bytes.Repeat([]byte{0x80}, n), make([]byte, n)}, a.scale(5000))
		for range a.scale(100) {
			r.Add(a.goodChain(in, out)...)
			r.Kick()
			r.Wait()
		}
		a.join()
		require.False(a, d.NeedsReset(), "a request is answered, whatever it says")
	}},
}

// goodChain is a good request with its parts at in and out.
func (a *attack) goodChain(in, out guestmem.GPA) []vt.Buf {
	var bufs []vt.Buf
	if len(a.s.request) > 0 {
		bufs = append(bufs, vt.Buf{Addr: in, Len: uint32(len(a.s.request))})
	}
	if a.s.room > 0 {
		bufs = append(bufs, vt.Buf{Addr: out, Len: uint32(a.s.room), Write: true})
	}
	return bufs
}

// raw is a descriptor as it lies in memory.
func raw(e vt.Desc) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(e.Addr))
	b = binary.LittleEndian.AppendUint32(b, e.Len)
	b = binary.LittleEndian.AppendUint16(b, e.Flags)
	return binary.LittleEndian.AppendUint16(b, e.Next)
}

// chainAttacks offer one malformed chain to every queue that takes chains.
func chainAttacks() []listed {
	const next, write, indirect = vt.Next, vt.Write, vt.Indirect
	at := subjectBase + 4<<20 // beyond what the drivers allocate here
	type chain struct {
		name    string
		without uint64
		descs   func(a *attack, r *vt.Ring) []vt.Desc
	}
	direct := func(descs ...vt.Desc) func(*attack, *vt.Ring) []vt.Desc {
		return func(*attack, *vt.Ring) []vt.Desc { return descs }
	}
	table := func(change func(*vt.Desc), entries ...vt.Desc) func(*attack, *vt.Ring) []vt.Desc {
		return func(_ *attack, r *vt.Ring) []vt.Desc {
			d := r.Table(entries...)
			change(&d)
			return []vt.Desc{d}
		}
	}
	same := func(*vt.Desc) {}
	good := vt.Desc{Addr: at, Len: 16}
	long := make([]vt.Desc, 1025)
	for i := range long {
		long[i] = vt.Desc{Addr: at, Len: 1, Flags: next, Next: uint16(i + 1)}
	}
	long[1024].Flags = 0
	beyond := func(off int64, n uint32, flags uint16) func(a *attack, r *vt.Ring) []vt.Desc {
		return func(a *attack, _ *vt.Ring) []vt.Desc {
			return []vt.Desc{{Addr: a.w.end + guestmem.GPA(off), Len: n, Flags: flags}}
		}
	}
	list := []chain{
		{"T16_NextBeyondTheTable", 0, func(_ *attack, r *vt.Ring) []vt.Desc {
			return []vt.Desc{{Addr: at, Len: 16, Flags: next, Next: r.Size}}
		}},
		{"T16_NextFarBeyondTheTable", 0, direct(vt.Desc{Addr: at, Len: 16, Flags: next, Next: 0xffff})},
		{"T16_NextBeyondTheIndirectTable", 0, table(same, vt.Desc{Addr: at, Len: 16, Flags: next, Next: 2}, good)},
		{"T17_LoopToItself", 0, direct(vt.Desc{Addr: at, Len: 1, Flags: next, Next: 0})},
		{"T17_EmptyLoop", 0, direct(vt.Desc{Flags: next, Next: 1}, vt.Desc{Flags: next, Next: 0})},
		{"T17_WritableLoop", 0, direct(vt.Desc{Addr: at, Len: 1, Flags: next | write, Next: 1}, vt.Desc{Addr: at, Len: 1, Flags: next | write, Next: 0})},
		{"T17_LoopInATable", 0, table(same, vt.Desc{Addr: at, Len: 1, Flags: next, Next: 1}, vt.Desc{Addr: at, Len: 1, Flags: next, Next: 0})},
		{"T19_CrossesTheEndOfMemory", 0, beyond(-0x800, 0x1000, 0)},
		{"T19_WritableAcrossTheEnd", 0, beyond(-1, 2, write)},
		{"T19_AtTheEndOfMemory", 0, beyond(0, 1, write)},
		{"T19_AddressWraps", 0, direct(vt.Desc{Addr: lastByte - 0x7ff, Len: 0x1000})},
		{"T19_LengthWraps", 0, direct(vt.Desc{Addr: lastByte, Len: 0xffffffff, Flags: write})},
		{"T19_HugeLength", 0, direct(vt.Desc{Addr: at, Len: 0xffffffff, Flags: write})},
		{"T19_InTheHole", 0, direct(vt.Desc{Addr: hole, Len: 16, Flags: write})},
		{"T19_DeviceRegisters", 0, direct(vt.Desc{Addr: 0xd0000000, Len: 256, Flags: write})},
		{"T19_InterruptController", 0, direct(vt.Desc{Addr: 0xfee00000, Len: 16, Flags: write})},
		{"T19_Above52Bits", 0, direct(vt.Desc{Addr: 1 << 52, Len: 16})},
		{"T20_TooManyBytes", 0, direct(
			vt.Desc{Addr: subjectBase, Len: 3 << 20, Flags: next | write, Next: 1},
			vt.Desc{Addr: subjectBase, Len: 3 << 20, Flags: write})},
		{"T20_TooManyBytesInATable", 0, table(same,
			vt.Desc{Addr: subjectBase, Len: 4 << 20, Flags: next, Next: 1},
			vt.Desc{Addr: subjectBase, Len: 4 << 20, Flags: next, Next: 2},
			vt.Desc{Addr: subjectBase, Len: 4 << 20})},
		{"T21_ReadableAfterWritable", 0, direct(vt.Desc{Addr: at, Len: 16, Flags: next | write, Next: 1}, good)},
		{"T21_ReadableAfterWritableInATable", 0, table(same, vt.Desc{Addr: at, Len: 16, Flags: next | write, Next: 1}, good)},
		{"T30_IndirectNotNegotiated", virtio.FeatureIndirectDesc, table(same, good)},
		{"T31_EmptyTable", 0, table(func(d *vt.Desc) { d.Len = 0 }, good)},
		{"T31_HalfAnEntry", 0, table(func(d *vt.Desc) { d.Len = 15 }, good)},
		{"T31_OneByteMore", 0, table(func(d *vt.Desc) { d.Len++ }, good)},
		{"T31_HugeTable", 0, table(func(d *vt.Desc) { d.Len = 0xfffffff0 }, good)},
		{"T31_TooManyEntries", 0, table(same, long...)},
		{"T31_TableOutsideMemory", 0, table(func(d *vt.Desc) { d.Addr = hole }, good)},
		{"T31_TableAtTheLastByte", 0, table(func(d *vt.Desc) { d.Addr = lastByte - 7 }, good)},
		{"T32_TableInATable", 0, table(same, vt.Desc{Addr: at, Len: 16, Flags: indirect})},
		{"T32_TableIsItself", 0, func(_ *attack, r *vt.Ring) []vt.Desc {
			return []vt.Desc{{Addr: r.Desc, Len: 16, Flags: indirect}}
		}},
		{"T33_IndirectAndNext", 0, table(func(d *vt.Desc) { d.Flags |= next; d.Next = 1 }, good)},
	}
	var out []listed
	for _, c := range list {
		out = append(out, listed{name: c.name, run: func(a *attack) {
			a.long = strings.HasPrefix(c.name, "T20_")
			a.eachVictim(vt.Config{Without: c.without}, func(d *vt.Driver, r *vt.Ring, fire func()) {
				// Memory that the driver does not use stays as it is.
				a.must(a.w.ram.WriteAt(bytes.Repeat([]byte{0xc3}, 64), at))
				for i, e := range c.descs(a, r) {
					r.SetDesc(uint16(i), e)
				}
				r.Offer(0)
				fire()
				a.breaks(d)
				require.Zero(a, r.DeviceUsedIdx(), "T25: the reset gives everything back")
				require.Equal(a, bytes.Repeat([]byte{0xc3}, 64), d.Get(at, 64))
			})
		}})
	}
	return append(out,
		listed{name: "T18_EmptyBuffers", run: func(a *attack) {
			// Empty buffers are no buffers, wherever they point.
			d := a.start(vt.Config{})
			r := d.Ring(a.s.queue)
			in, out := d.Put(a.s.request), d.Alloc(max(uint64(a.s.room), 16), 16)
			bufs := []vt.Buf{{Addr: hole}, {Addr: lastByte}}
			if len(a.s.request) > 0 {
				bufs = append(bufs, vt.Buf{Addr: in, Len: uint32(len(a.s.request))}, vt.Buf{Addr: lastByte})
			}
			if a.s.room > 0 {
				bufs = append(bufs, vt.Buf{Addr: hole, Write: true}, vt.Buf{Addr: out, Len: uint32(a.s.room), Write: true}, vt.Buf{Write: true})
			}
			if int(r.Size) < len(bufs) {
				bufs = bufs[len(bufs)-int(r.Size):]
			}
			r.Add(bufs...)
			r.Kick()
			_, used := r.Wait()
			a.answered(vt.Reply{Used: used, Data: d.Get(out, a.s.room)})
			require.False(a, d.NeedsReset())
		}},
		listed{name: "T34_WriteFlagOnATable", run: func(a *attack) {
			a.indirect(func(r *vt.Ring, bufs []vt.Buf) {
				e := r.Table(descs(bufs)...)
				e.Flags |= write
				r.SetDesc(0, e)
			})
		}},
		listed{name: "T35_DirectThenIndirect", run: func(a *attack) {
			a.indirect(func(r *vt.Ring, bufs []vt.Buf) {
				r.SetDesc(0, vt.Desc{Addr: bufs[0].Addr, Flags: next, Next: 1}) // empty, but there
				r.SetDesc(1, r.Table(descs(bufs)...))
			})
		}})
}

// descs makes a chain of buffers, as it lies in an indirect table.
func descs(bufs []vt.Buf) (out []vt.Desc) {
	for i, b := range bufs {
		e := vt.Desc{Addr: b.Addr, Len: b.Len}
		if b.Write {
			e.Flags |= vt.Write
		}
		if i+1 < len(bufs) {
			e.Flags |= vt.Next
			e.Next = uint16(i + 1)
		}
		out = append(out, e)
	}
	return out
}

// indirect makes a good request with head 0 and descriptors that set writes.
func (a *attack) indirect(set func(r *vt.Ring, bufs []vt.Buf)) {
	a.Helper()
	d := a.start(vt.Config{})
	r := d.Ring(a.s.queue)
	in, out := d.Put(a.s.request), d.Alloc(max(uint64(a.s.room), 16), 16)
	set(r, a.goodChain(in, out))
	r.Offer(0)
	r.Kick()
	head, used := r.Wait()
	require.Zero(a, head)
	a.answered(vt.Reply{Used: used, Data: d.Get(out, a.s.room)})
}
