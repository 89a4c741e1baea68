package hostile

import (
	"bytes"
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
}
