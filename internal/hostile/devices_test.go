package hostile

import (
	"bytes"
	"encoding/binary"
	"time"

	"github.com/stretchr/testify/require"

	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// Attacks that are about one of the small devices.
var deviceAttacks = []listed{
	{name: "T77_Greed", devices: []string{"rng"}, run: func(a *attack) {
		d := a.start(vt.Config{})
		start := time.Now()
		total := 0
		for range a.scale(50) {
			r := d.Ring(0)
			r.Add(vt.Buf{Addr: subjectBase + 4<<20, Len: 1 << 20, Write: true})
			r.Kick()
			_, used := r.Wait()
			require.NotZero(a, used)
			require.LessOrEqual(a, used, uint32(64<<10))
			total += int(used)
		}
		require.LessOrEqual(a, total, 1<<20+int(time.Since(start).Seconds()*(4<<20))+64<<10)
		a.otherServes()
	}},
	{name: "T81_OnlyPortZero", devices: []string{"console"}, run: func(a *attack) {
		// Neither ports nor control queues can be had by asking.
		d := a.driver(vt.Config{})
		require.False(a, d.Negotiate(d.Offered()|1<<1), "MULTIPORT")
		require.False(a, d.Negotiate(d.Offered()|1<<2), "EMERG_WRITE")
		d.Start()
		for q := 2; q < 8; q++ {
			d.Place(q, 8, uint64(subjectBase), uint64(subjectBase)+0x1000, uint64(subjectBase)+0x2000)
			require.Zero(a, d.Load32(vt.QueueReady))
			d.Store32(vt.QueueNotify, uint32(q))
		}
		d.Store(vt.ConfigSpace+8, []byte("!\000\000\000")) // emerg_wr
		a.serve(d)
	}},
	{name: "T82_OutputFlood", devices: []string{"console"}, run: func(a *attack) {
		d := a.start(vt.Config{})
		r := d.Ring(1)
		const piece = 16 << 10
		at := d.Put(bytes.Repeat([]byte("\x1b]0;x\x07"), piece/6))
		before := a.s.console.out.n.Load()
		for range a.scale(200) {
			r.Add(vt.Buf{Addr: at, Len: piece / 6 * 6})
			r.Kick()
			r.Wait()
		}
		require.LessOrEqual(a, a.s.console.out.n.Load()-before, int64(a.scale(200))*piece)
	}},
	{name: "T82_InputWithoutReader", devices: []string{"console"}, run: func(a *attack) {
		// The host's input waits for a guest that takes none, and is not lost.
		d := a.start(vt.Config{})
		go a.s.console.in.Write(bytes.Repeat([]byte{'i'}, 100))
		settle()
		a.serve(d)
		r := d.Ring(0)
		r.Add(vt.Buf{Addr: d.Alloc(1024, 16), Len: 1024, Write: true})
		r.Kick()
		_, used := r.Wait()
		require.NotZero(a, used)
	}},
	{name: "T81_WrongDirection", devices: []string{"console"}, run: func(a *attack) {
		d := a.start(vt.Config{})
		require.Zero(a, d.Ring(1).Do([]byte("x"), 64).Used, "room for output to be written to")
		r := d.Ring(0)
		r.Add(vt.Buf{Addr: d.Put([]byte("x")), Len: 1}) // input to be read
		go a.s.console.in.Write([]byte("k"))
		r.Kick()
		_, used := r.Wait()
		require.Zero(a, used)
	}},
	{name: "T78_PageNumbers", devices: onlyBalloon, run: func(a *attack) {
		// Pages that are no RAM are not given away, and nothing else happens.
		d := a.start(vt.Config{})
		canary := bytes.Repeat([]byte{0xb7}, 8192)
		at := subjectBase + 6<<20
		a.must(a.w.ram.WriteAt(canary, at))
		var list []byte
		for _, page := range []uint64{uint64(a.w.end) >> 12, uint64(hole) >> 12, 0xd0000, 0xfee00, 0xfffff, 1 << 20, 1 << 31, 1<<32 - 1} {
			list = binary.LittleEndian.AppendUint32(list, uint32(page))
		}
		for q := range 2 {
			for n := range len(list) + 1 {
				if n > 0 {
					d.Ring(q).Do(list[:n], 0)
				}
			}
		}
		require.Equal(a, canary, d.Get(at, len(canary)))
		for _, actual := range []uint32{1, 1 << 20, 0xffffffff, 0} {
			d.Store32(vt.ConfigSpace+4, actual)
			a.flush()
			require.LessOrEqual(a, a.s.balloon.Size(), a.w.mem.Size())
		}
		require.False(a, d.NeedsReset())
	}},
	{name: "T79_Ranges", devices: onlyBalloon, run: func(a *attack) {
		// Reports of parts of pages give nothing away.
		d := a.start(vt.Config{})
		const size = 4 * 4096
		canary := bytes.Repeat([]byte{0xb8}, size)
		at := subjectBase + 6<<20
		a.must(a.w.ram.WriteAt(canary, at))
		r := d.Ring(2)
		for _, b := range []vt.Buf{
			{Addr: at + 1, Len: 4095}, {Addr: at, Len: 4095}, {Addr: at + 4095, Len: 4096}, {Addr: at + 8, Len: 8},
		} {
			b.Write = true
			r.Add(b)
			r.Kick()
			r.Wait()
		}
		require.Equal(a, canary, d.Get(at, size))
	}},
	{name: "T80_InflateTouchDeflate", devices: onlyBalloon, run: func(a *attack) {
		d := a.start(vt.Config{})
		at := subjectBase + 5<<20
		var list []byte
		for i := range uint32(256) {
			list = binary.LittleEndian.AppendUint32(list, uint32(at>>12)+i)
		}
		for range a.scale(50) {
			a.must(a.w.ram.WriteAt(bytes.Repeat([]byte{1}, 4096), at))
			d.Ring(0).Do(list, 0)
			require.Equal(a, make([]byte, 4096), d.Get(at, 4096))
			d.Ring(1).Do(list, 0)
			d.Ring(1).Do(list, 0) // what was never inflated
		}
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

var onlyBalloon = []string{"balloon"}
