package virtio_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// queueStep offers the same chain, takes it and gives it back.
func queueStep(tb testing.TB, setup func(r *vt.Ring)) func() {
	_, r, q := manual(tb, vt.Config{QueueSize: 256})
	setup(r)
	var c virtio.Chain
	return func() {
		r.Offer(0)
		if ok, err := q.Pop(&c); !ok || err != nil {
			tb.Fatal(ok, err)
		}
		q.Push(c.Head(), 1)
		q.Notify()
		q.EnableNotifications()
	}
}

func benchQueue(b *testing.B, setup func(r *vt.Ring)) {
	step := queueStep(b, setup)
	b.ReportAllocs()
	for b.Loop() {
		step()
	}
}

func direct3(r *vt.Ring) {
	r.SetDesc(0, desc{Addr: 0x100, Len: 16, Flags: next, Next: 1})
	r.SetDesc(1, desc{Addr: 0x200, Len: 4096, Flags: next | write, Next: 2})
	r.SetDesc(2, desc{Addr: 0x1200, Len: 1, Flags: write})
}

func indirect66(r *vt.Ring) {
	entries := []desc{{Addr: 0x100, Len: 16, Flags: next, Next: 1}}
	for i := range uint16(64) {
		entries = append(entries, desc{Addr: vt.HighBase + guestmem.GPA(i)*4096, Len: 4096, Flags: next | write, Next: i + 2})
	}
	r.SetDesc(0, r.Table(append(entries, desc{Addr: 0x1200, Len: 1, Flags: write})...))
}

func BenchmarkQueueDirect3(b *testing.B)    { benchQueue(b, direct3) }
func BenchmarkQueueIndirect66(b *testing.B) { benchQueue(b, indirect66) }

// No allocation for a chain, whatever it is made of.
func TestQueue_NoAllocation(t *testing.T) {
	for _, setup := range []func(*vt.Ring){direct3, indirect66} {
		require.Zero(t, testing.AllocsPerRun(1000, queueStep(t, setup)))
	}
}

// benchRoundTrip is a kick, a worker that wakes up, and its answer.
func benchRoundTrip(b *testing.B, d *vt.Driver, bufs ...vt.Buf) {
	r := d.Ring(0)
	r.SetUsedEvent(0x8000)
	b.ReportAllocs()
	for b.Loop() {
		r.Add(bufs...)
		r.Kick()
		for {
			if _, _, ok := r.Poll(); ok {
				break
			}
		}
	}
}

func benchDisk(b *testing.B, size int64) (*vt.Driver, *virtio.Blk) {
	f, err := os.Create(filepath.Join(b.TempDir(), "disk"))
	require.NoError(b, err)
	b.Cleanup(func() { f.Close() })
	_, err = f.Write(make([]byte, size))
	require.NoError(b, err)
	back, err := virtio.NewFileBackend(f, false)
	require.NoError(b, err)
	blk := virtio.NewBlk(virtio.BlkConfig{Backend: back})
	d := vt.New(b, blk, vt.Config{Memfd: true, MemSize: 16 << 20})
	d.Start()
	return d, blk
}

func benchBlkRead(b *testing.B, n uint32) {
	d, _ := benchDisk(b, 4<<20)
	req := d.Put(header(blkIn, 0))
	data := d.Alloc(uint64(n), 4096)
	st := d.Alloc(1, 1)
	b.SetBytes(int64(n))
	benchRoundTrip(b, d, vt.Buf{Addr: req, Len: 16}, vt.Buf{Addr: data, Len: n, Write: true}, vt.Buf{Addr: st, Len: 1, Write: true})
}

func BenchmarkBlkRead4K(b *testing.B)   { benchBlkRead(b, 4<<10) }
func BenchmarkBlkRead128K(b *testing.B) { benchBlkRead(b, 128<<10) }
func BenchmarkBlkRead1M(b *testing.B)   { benchBlkRead(b, 1<<20) }

// BenchmarkBlkQueued reads 4 KiB 64 at a time: what a worker does once awake.
func BenchmarkBlkQueued(b *testing.B) {
	d, _ := benchDisk(b, 4<<20)
	r := d.Ring(0)
	r.SetUsedEvent(0x8000)
	req := d.Put(header(blkIn, 0))
	data, st := d.Alloc(4096, 4096), d.Alloc(1, 1)
	b.SetBytes(64 * 4096)
	b.ReportAllocs()
	for b.Loop() {
		for range 64 {
			r.Add(vt.Buf{Addr: req, Len: 16}, vt.Buf{Addr: data, Len: 4096, Write: true}, vt.Buf{Addr: st, Len: 1, Write: true})
		}
		r.Kick()
		for n := 0; n < 64; {
			if _, _, ok := r.Poll(); ok {
				n++
			}
		}
	}
}

// A hot queue's worker is woken in a blocked thread, a cold one's through the
// network poller.
func BenchmarkKickHot(b *testing.B)  { benchKick(b, &probe{sizes: []uint16{256}, serve: nop}) }
func BenchmarkKickCold(b *testing.B) { benchKick(b, &cold{probe{sizes: []uint16{256}, serve: nop}}) }

type cold struct{ probe }

func (*cold) LowTraffic() {}

func nop(*virtio.Chain) error { return nil }

func benchKick(b *testing.B, dev virtio.Device) {
	d := vt.New(b, dev, vt.Config{})
	d.Start()
	benchRoundTrip(b, d, vt.Buf{Addr: 0x100, Len: 1})
}

func BenchmarkMMIORead(b *testing.B) {
	d := vt.New(b, &probe{sizes: []uint16{8}}, vt.Config{})
	var p [4]byte
	b.ReportAllocs()
	for b.Loop() {
		d.MMIO.Read(vt.InterruptStatus, p[:])
	}
}
