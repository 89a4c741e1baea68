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

// Queues and features of a balloon, virtio 1.2 §5.5.2 and §5.5.3.
const (
	inflateQueue = 0
	deflateQueue = 1
	statsQueue   = 2
	reportQueue  = 4

	balloonMustTellHost, balloonStats, balloonHinting = 1 << 0, 1 << 1, 1 << 3
	balloonPoison, balloonReporting                   = 1 << 4, 1 << 5

	page = guestmem.PageSize

	// balloonAt is memory that drivers do not use, to be given away.
	balloonAt = subjectBase + 4<<20
)

var (
	onlyBalloon      = []string{"balloon"}
	onlyBalloonStats = []string{"balloon-stats"}
	balloons         = []string{"balloon", "balloon-stats"}
)

// pfns are page numbers as they lie in memory.
func pfns(addrs ...guestmem.GPA) (b []byte) {
	for _, at := range addrs {
		b = binary.LittleEndian.AppendUint32(b, uint32(at/page))
	}
	return b
}

// fill fills n pages from balloonAt with a pattern.
func (a *attack) fill(n int) {
	a.must(a.w.ram.WriteAt(bytes.Repeat([]byte{0xb8}, n*page), balloonAt))
}

// gone expects that of n pages from balloonAt those listed were given away, and
// no byte of the others.
func (a *attack) gone(n int, which ...int) {
	a.Helper()
	got := make([]byte, n*page)
	a.must(a.w.ram.ReadAt(got, balloonAt))
	for i := range n {
		want := byte(0xb8)
		if slices.Contains(which, i) {
			want = 0
		}
		require.True(a, bytes.Equal(bytes.Repeat([]byte{want}, page), got[i*page:(i+1)*page]), "page %d should be full of %#x", i, want)
	}
}

// report has a chain of ranges reported, and returns what the device says that
// it wrote.
func report(r *vt.Ring, bufs ...vt.Buf) uint32 {
	for i := range bufs {
		bufs[i].Write = true
	}
	r.Add(bufs...)
	r.Kick()
	_, used := r.Wait()
	return used
}

// counted runs f and returns what the balloon counted meanwhile.
func (a *attack) counted(f func()) virtio.BalloonCounters {
	b := a.s.balloon.Counters()
	f()
	c := a.s.balloon.Counters()
	return virtio.BalloonCounters{
		Inflated: c.Inflated - b.Inflated, Deflated: c.Deflated - b.Deflated,
		Reported: c.Reported - b.Reported, Ignored: c.Ignored - b.Ignored,
	}
}

// Attacks by what is given to a balloon.
var balloonAttacks = []listed{
	{name: "T4_BalloonFeatures", devices: balloons, run: func(a *attack) {
		// What is not offered cannot be had, and has no fields.
		d := a.driver(vt.Config{})
		for _, f := range []uint64{balloonMustTellHost, balloonHinting, balloonPoison} {
			require.Zero(a, d.Offered()&f)
			require.False(a, d.Negotiate(d.Offered()|f), "feature %#x", f)
		}
		if a.s.name == "balloon" {
			require.False(a, d.Negotiate(d.Offered()|balloonStats))
		}
	}},
	{name: "T78_PageNumbers", devices: onlyBalloon, run: func(a *attack) {
		// Pages that are no RAM are not given away, and nothing else happens:
		// behind memory, in the gap, at devices' registers, at the last number.
		d := a.start(vt.Config{})
		a.fill(2)
		list := pfns(a.w.end, hole, 0xd0000000, 0xfee00000, 0xfffff000, 1<<32, 1<<43, (1<<32-1)*page)
		c := a.counted(func() {
			for q := range 2 {
				for n := range len(list) + 1 {
					if n > 0 {
						require.Zero(a, d.Ring(q).Do(list[:n], 0).Used)
					}
				}
			}
		})
		require.Zero(a, c.Inflated)
		require.NotZero(a, c.Ignored)
		a.gone(2)
		require.False(a, d.NeedsReset())
	}},
	{name: "T78_NextToTheEdges", devices: onlyBalloon, run: func(a *attack) {
		// Neighbours are given away together, but not across the end of memory,
		// upwards, downwards or in the midst of nonsense.
		d := a.start(vt.Config{})
		a.fill(6)
		last := a.w.end - page
		a.must(a.w.ram.WriteAt(bytes.Repeat([]byte{0xb8}, page), last))
		c := a.counted(func() {
			d.Ring(inflateQueue).Do(pfns(last, a.w.end, a.w.end+page, balloonAt, 1<<43, balloonAt+page), 0)
			d.Ring(inflateQueue).Do(pfns(a.w.end+page, a.w.end, last, hole, balloonAt+4*page, balloonAt+3*page, hole-page), 0)
		})
		require.Equal(a, virtio.BalloonCounters{Inflated: 6 * page, Ignored: 7 * page}, c)
		require.Equal(a, make([]byte, page), d.Get(last, page))
		a.gone(6, 0, 1, 3, 4)
	}},
	{name: "T78_ThousandsOfNumbers", devices: onlyBalloon, run: func(a *attack) {
		// As many as a chain can have, none of them RAM, over and over: the
		// others are served meanwhile. One byte more is too many.
		d := a.start(vt.Config{})
		const piece = 256 << 10
		at := d.Put(bytes.Repeat(pfns(hole, 1<<43), piece/8))
		var bufs []vt.Buf
		for range 16 {
			bufs = append(bufs, vt.Buf{Addr: at, Len: piece})
		}
		r := d.Ring(inflateQueue)
		c := a.counted(func() {
			for range a.scale(10) {
				r.Add(bufs...)
				r.Kick()
				a.otherServes()
				r.Wait()
			}
		})
		require.Equal(a, virtio.BalloonCounters{Ignored: uint64(a.scale(10)) * 16 * piece / 4 * page}, c)
		bufs[15].Len += virtio.MaxChainBytes - 16*piece + 1
		r.Add(bufs...)
		r.Kick()
		a.breaks(d)
	}},
	{name: "T78_NumbersInPieces", devices: onlyBalloon, run: func(a *attack) {
		// 750 numbers in a thousand buffers of three bytes.
		d := a.start(vt.Config{})
		const n = 750
		a.fill(6)
		var list []guestmem.GPA
		for i := range guestmem.GPA(n) {
			list = append(list, balloonAt+i%3*2*page)
		}
		var pieces [][]byte
		for b := pfns(list...); len(b) > 0; b = b[3:] {
			pieces = append(pieces, b[:3])
		}
		c := a.counted(func() {
			at := d.Put(slices.Concat(pieces...))
			var bufs []vt.Buf
			for i := range pieces {
				bufs = append(bufs, vt.Buf{Addr: at + guestmem.GPA(3*i), Len: 3})
			}
			d.Ring(inflateQueue).AddIndirect(bufs...)
			d.Ring(inflateQueue).Kick()
			d.Ring(inflateQueue).Wait()
		})
		require.Equal(a, virtio.BalloonCounters{Inflated: n * page}, c)
		a.gone(6, 0, 2, 4)
	}},
	{name: "T78_Config", devices: onlyBalloon, run: func(a *attack) {
		// num_pages is the host's, actual is the guest's and counts for nothing,
		// the rest is nobody's: words, halves and bytes, at and across the edges.
		d := a.start(vt.Config{})
		a.s.balloon.SetTarget(5 * page)
		defer a.s.balloon.SetTarget(0)
		for _, actual := range []uint32{1, 1 << 20, 1 << 31, 0xffffffff, 0} {
			d.Store32(vt.ConfigSpace+4, actual)
			a.flush()
			require.Equal(a, min(uint64(actual)*page, a.w.mem.Size()), a.s.balloon.Size())
		}
		for off := range uint64(24) {
			for _, n := range []int{1, 2, 4, 8} {
				d.Store(vt.ConfigSpace+off, bytes.Repeat([]byte{0xff}, n))
			}
		}
		require.EqualValues(a, 5, d.Load32(vt.ConfigSpace))
		require.Equal(a, make([]byte, 16), d.Load(vt.ConfigSpace+8, 16))
		require.LessOrEqual(a, a.s.balloon.Size(), a.w.mem.Size())
		require.False(a, d.NeedsReset())
		d.Start()
		require.Zero(a, a.s.balloon.Size(), "another driver has said nothing yet")
	}},
	{name: "T79_Ranges", devices: balloons, run: func(a *attack) {
		// Reports of parts of pages give nothing away but whole pages inside.
		d := a.start(vt.Config{})
		r := d.Ring(reportQueue)
		for _, c := range []struct {
			off   guestmem.GPA
			n     uint32
			which []int
		}{
			{1, page - 1, nil}, {0, page - 1, nil}, {page - 1, page, nil}, {8, 8, nil}, {0, 1, nil}, {page - 1, 2, nil},
			{1, 2*page - 1, []int{1}}, {page - 1, page + 2, []int{1}}, {1, 3*page - 2, []int{1}}, {0, 2*page - 1, []int{0}},
			{0, page + 1, []int{0}}, {3, 3*page + 2, []int{1, 2}}, {0, 4 * page, []int{0, 1, 2, 3}},
		} {
			a.fill(4)
			counted := a.counted(func() { require.Zero(a, report(r, vt.Buf{Addr: balloonAt + c.off, Len: c.n})) })
			whole := uint64(len(c.which)) * page
			require.Equal(a, virtio.BalloonCounters{Reported: whole, Ignored: uint64(c.n) - whole}, counted)
			a.gone(4, c.which...)
		}
		require.False(a, d.NeedsReset())
	}},
	{name: "T79_OverlappingRanges", devices: onlyBalloon, run: func(a *attack) {
		d := a.start(vt.Config{})
		r := d.Ring(reportQueue)
		a.fill(8)
		c := a.counted(func() {
			report(r, // each in another, misaligned, twice, and empty ones in between
				vt.Buf{Addr: balloonAt + page, Len: 3 * page}, vt.Buf{Addr: balloonAt + 2*page, Len: 3 * page},
				vt.Buf{Addr: hole}, vt.Buf{Addr: balloonAt + 2*page, Len: page}, vt.Buf{Addr: balloonAt + page, Len: 3 * page},
				vt.Buf{Addr: balloonAt + 5*page + 1, Len: 2*page - 1}, vt.Buf{Addr: lastByte})
		})
		require.Equal(a, virtio.BalloonCounters{Reported: 11 * page, Ignored: page - 1}, c)
		a.gone(8, 1, 2, 3, 4, 6)
		for range 3 {
			require.Zero(a, report(r, vt.Buf{Addr: hole}, vt.Buf{Addr: lastByte}, vt.Buf{}), "nothing but empty ranges")
		}
		require.False(a, d.NeedsReset())
	}},
	{name: "T79_RangesOutsideMemory", devices: onlyBalloon, run: func(a *attack) {
		// A range that is not all RAM breaks the queue, and nothing of its chain
		// is given away, the good ranges before it neither.
		for _, bad := range []vt.Buf{
			{Addr: a.w.end, Len: page}, {Addr: a.w.end - page, Len: 2 * page}, {Addr: hole, Len: page}, {Addr: 0xd0000000, Len: page},
			{Addr: 0xfee00000, Len: page}, {Addr: balloonAt, Len: 0xffffffff}, {Addr: balloonAt, Len: 0xfffff000},
			{Addr: 1 << 32, Len: page}, {Addr: 1 << 52, Len: page}, {Addr: lastByte - page + 1, Len: page}, {Addr: lastByte, Len: 0xffffffff},
		} {
			d := a.start(vt.Config{})
			a.fill(2)
			bad.Write = true
			c := a.counted(func() {
				d.Ring(reportQueue).Add(vt.Buf{Addr: balloonAt, Len: page, Write: true}, bad)
				d.Ring(reportQueue).Kick()
				a.breaks(d)
			})
			require.Zero(a, c)
			a.gone(2)
		}
	}},
	{name: "T79_MoreThanMemory", devices: onlyBalloon, run: func(a *attack) {
		// T20 for reports: a chain describes all of memory once, at most.
		d := a.start(vt.Config{})
		const piece = 2 << 20
		n := int(a.w.mem.Size()/piece) + 1
		bufs := slices.Repeat([]vt.Buf{{Addr: balloonAt, Len: piece, Write: true}}, n)
		a.fill(1)
		c := a.counted(func() {
			d.Ring(reportQueue).AddIndirect(bufs...)
			d.Ring(reportQueue).Kick()
			a.breaks(d)
		})
		require.Zero(a, c)
		a.gone(1)
		d = a.start(vt.Config{})
		c = a.counted(func() {
			d.Ring(reportQueue).AddIndirect(bufs[:n-1]...)
			d.Ring(reportQueue).Kick()
			d.Ring(reportQueue).Wait()
		})
		require.Equal(a, virtio.BalloonCounters{Reported: uint64(n-1) * piece}, c)
		a.gone(1, 0)
	}},
	{name: "T79_WrongDirection", devices: onlyBalloon, run: func(a *attack) {
		// Ranges to be read, numbers to be written over, and both in a chain.
		d := a.start(vt.Config{})
		a.fill(4)
		list := pfns(balloonAt, balloonAt+page)
		at := d.Put(list)
		c := a.counted(func() {
			r := d.Ring(reportQueue)
			r.Add(vt.Buf{Addr: balloonAt, Len: 2 * page})
			r.Kick()
			_, used := r.Wait()
			require.Zero(a, used)
			for _, q := range []int{inflateQueue, deflateQueue} {
				require.Zero(a, report(d.Ring(q), vt.Buf{Addr: at, Len: 8}, vt.Buf{Addr: balloonAt, Len: 2 * page}))
			}
		})
		require.Equal(a, virtio.BalloonCounters{Ignored: 2 * page}, c)
		a.gone(4)
		c = a.counted(func() {
			for _, q := range []int{reportQueue, inflateQueue, deflateQueue} {
				r := d.Ring(q)
				r.Add(vt.Buf{Addr: at, Len: 4}, vt.Buf{Addr: balloonAt + 2*page, Len: page, Write: true})
				r.Kick()
				_, used := r.Wait()
				require.Zero(a, used)
			}
		})
		require.Equal(a, virtio.BalloonCounters{Inflated: page, Deflated: page, Reported: page, Ignored: 4}, c)
		a.gone(4, 0, 2)
		require.Equal(a, list, d.Get(at, len(list)))
		require.False(a, d.NeedsReset())
	}},
	{name: "T79_ReportingNotNegotiated", devices: balloons, run: func(a *attack) {
		// Queues of features that the driver did not accept answer and do nothing,
		// but keep to what other queues' chains may have.
		d := a.start(vt.Config{Without: balloonReporting | balloonStats})
		a.fill(2)
		c := a.counted(func() {
			for q := 2; q < maxQueues; q++ {
				require.Zero(a, report(d.Ring(q), vt.Buf{Addr: balloonAt, Len: 2 * page}))
				require.Zero(a, d.Ring(q).Do(pfns(balloonAt), 0).Used)
			}
		})
		require.Zero(a, c)
		a.gone(2)
		require.False(a, d.NeedsReset())
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := a.s.balloon.Stats(ctx)
		require.ErrorIs(a, err, virtio.ErrNoStats)
		d.Ring(reportQueue).Add(vt.Buf{Addr: subjectBase, Len: 5 << 20, Write: true})
		d.Ring(reportQueue).Kick()
		a.breaks(d)
	}},
	{name: "T80_PagePoison", devices: onlyBalloon, run: func(a *attack) {
		// A driver that claims to poison its free pages: they are zeros, and
		// poison_val is no field.
		d := a.start(vt.Config{})
		d.Store32(vt.ConfigSpace+12, 0xaaaaaaaa)
		require.Zero(a, d.Load32(vt.ConfigSpace+12))
		a.fill(2)
		report(d.Ring(reportQueue), vt.Buf{Addr: balloonAt, Len: page})
		a.gone(2, 0)
	}},
	{name: "T80_DeflateWithoutInflate", devices: onlyBalloon, run: func(a *attack) {
		d := a.start(vt.Config{})
		a.fill(4)
		list := bytes.Repeat(pfns(balloonAt, balloonAt+2*page, hole, 1<<43), 256)
		n := a.scale(50)
		c := a.counted(func() {
			for range n {
				require.Zero(a, d.Ring(deflateQueue).Do(list, 0).Used)
			}
		})
		require.Equal(a, virtio.BalloonCounters{Deflated: uint64(n) * 1024 * page}, c)
		a.gone(4)
		require.Zero(a, a.s.balloon.Size())
		require.False(a, d.NeedsReset())
	}},
	{name: "T80_InflateTouchDeflate", devices: onlyBalloon, run: func(a *attack) {
		d := a.start(vt.Config{})
		var list []byte
		for i := range guestmem.GPA(256) {
			list = append(list, pfns(balloonAt+i*page)...)
		}
		for range a.scale(50) {
			a.fill(1)
			d.Ring(inflateQueue).Do(list, 0)
			a.gone(1, 0)
			d.Ring(deflateQueue).Do(list, 0)
			d.Ring(deflateQueue).Do(list, 0) // what was never inflated
		}
	}},
	{name: "T80_TouchedWhileGivenAway", devices: onlyBalloon, scribble: true, run: func(a *attack) {
		// The other processor writes to pages that all three queues are given at
		// once. Whatever is left of it: only there.
		d := a.start(vt.Config{})
		a.fill(4)
		word := func(v byte) []byte { return bytes.Repeat([]byte{v}, 64) }
		a.scribble(balloonAt+page, [4][]byte{word(1), word(2), word(3), word(4)}, a.scale(5000))
		at := d.Put(bytes.Repeat(pfns(balloonAt+page, hole, balloonAt+2*page), 85))
		for range a.scale(100) {
			for _, q := range []int{inflateQueue, deflateQueue} {
				d.Ring(q).Add(vt.Buf{Addr: at, Len: 1020})
				d.Ring(q).Kick()
			}
			report(d.Ring(reportQueue), vt.Buf{Addr: balloonAt + page, Len: 2 * page})
			d.Ring(inflateQueue).Wait()
			d.Ring(deflateQueue).Wait()
		}
		a.join()
		require.Equal(a, bytes.Repeat([]byte{0xb8}, page), d.Get(balloonAt, page))
		require.Equal(a, bytes.Repeat([]byte{0xb8}, page), d.Get(balloonAt+3*page, page))
		require.False(a, d.NeedsReset())
	}},
	{name: "T80_ConfigStorm", devices: onlyBalloon, run: func(a *attack) {
		d := a.start(vt.Config{})
		a.storm(vt.ConfigSpace+4, 0xffffffff, a.scale(5000))
		for i := range a.scale(50) {
			a.s.balloon.SetTarget(uint64(i) << 12)
			a.serve(d)
		}
		a.join()
	}},
}
