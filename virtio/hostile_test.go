package virtio_test

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// A driver that rewrites its rings while the device walks them (T23). The
// memory is mapped, as a guest's is; whatever the device makes of it, it reads
// each descriptor once, so what it checked is what it uses.
func TestChain_T23_ConcurrentScribble(t *testing.T) {
	d, r, q := manual(t, vt.Config{Memfd: true, MemSize: 64 << 10})
	good, bad := desc{Addr: 0x1000, Len: 64}, desc{Addr: vt.LowSize - 1, Len: 0xffffffff}
	indirect := r.Table(good, good)
	table, err := d.Mem.Bytes(indirect.Addr, 32)
	require.NoError(t, err)
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		rnd := rand.New(rand.NewPCG(3, 4))
		for !stop.Load() {
			for i := range table {
				table[i] = byte(rnd.Uint32() & 3)
			}
			for _, e := range []desc{good, bad, indirect, {Addr: 0x1000, Len: 8, Flags: next, Next: 0}} {
				r.SetDesc(0, e)
			}
		}
	})
	var c virtio.Chain
	broken := 0
	start := time.Now()
	for time.Since(start) < 300*time.Millisecond || broken == 0 && time.Since(start) < 10*time.Second {
		r.Offer(0)
		ok, err := q.Pop(&c)
		if err != nil { // broken for good: begin again with a queue like it
			broken++
			s := q.State()
			s.NextUsed, s.SignalledUsed = 0, 0
			s.NextAvail = r.AvailIdx
			q, err = virtio.NewQueue(d.Mem, s, nil)
			require.NoError(t, err)
			continue
		}
		require.True(t, ok)
		checkChain(t, d.Mem, &c)
		q.Push(c.Head(), 0)
	}
	stop.Store(true)
	wg.Wait()
	require.NotZero(t, broken)
}

// A driver that never stops adding chains delays neither a reset (T28) nor what
// other queues do.
func TestWorkers_T28_EndlessQueue(t *testing.T) {
	p := &probe{sizes: []uint16{16, 16}}
	var served atomic.Int64
	p.activate = func(a virtio.Activation) error {
		p.workers.Serve(a, a.Queues[0], func(c *virtio.Chain) error { served.Add(1); return nil })
		p.workers.Serve(a, a.Queues[1], echo)
		return nil
	}
	d := vt.New(t, p, vt.Config{MemSize: 64 << 10})
	d.Start()
	r := d.Ring(0)
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			if idx := r.DeviceUsedIdx(); r.AvailIdx-idx < 8 {
				r.Offer(r.AvailIdx % 16) // heads in turn: none is in flight twice
				r.Kick()
			}
		}
	})
	require.Eventually(t, func() bool { return served.Load() > 100 }, 10*time.Second, time.Millisecond)
	for range 20 {
		require.EqualValues(t, 2, d.Ring(1).Do([]byte("hi"), 2).Used)
	}
	start := time.Now()
	d.Store32(vt.Status, 0)
	require.Less(t, time.Since(start), vt.Timeout)
	stop.Store(true)
	wg.Wait()
}

// A driver that kicks only when it is asked to: no wake-up is lost.
func TestWorkers_NoLostKick(t *testing.T) {
	for _, without := range []uint64{0, virtio.FeatureEventIdx} {
		d, _ := serving(t, echo, vt.Config{Without: without})
		r := d.Ring(0)
		a := d.Put([]byte("x"))
		rnd := rand.New(rand.NewPCG(5, 6))
		for range 20000 {
			old := r.AvailIdx
			n := rnd.IntN(3) + 1
			for range n {
				r.Add(vt.Buf{Addr: a, Len: 1})
				for range rnd.IntN(200) { // hit the moment when the worker goes to sleep
					r.UsedFlags()
				}
			}
			r.KickIfWanted(old)
			for range n {
				r.Wait()
			}
		}
	}
}

// A queue that is popped from a worker and completed elsewhere, as asynchronous
// devices do.
func TestQueue_PushFromElsewhere(t *testing.T) {
	p := &probe{sizes: []uint16{64}}
	heads := make(chan uint16, 64)
	p.activate = func(a virtio.Activation) error {
		q := a.Queues[0]
		p.workers.Go(a, q, func() error {
			var c virtio.Chain
			for {
				for {
					ok, err := q.Pop(&c)
					if err != nil {
						return err
					}
					if !ok {
						break
					}
					heads <- c.Head()
				}
				if q.EnableNotifications() {
					continue
				}
				if err := q.Wait(); err != nil {
					return err
				}
			}
		})
		return nil
	}
	d := vt.New(t, p, vt.Config{})
	d.Start()
	q := p.act.Queues[0]
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for h := range heads {
				q.Push(h, 1)
				q.Notify()
			}
		})
	}
	r := d.Ring(0)
	seen := 0
	for range 50 {
		want := map[uint16]bool{}
		for range 32 {
			want[r.Add(vt.Buf{Addr: 0x100, Len: 1, Write: true})] = true
		}
		r.Kick()
		for range 32 {
			h, _ := r.Wait()
			require.True(t, want[h])
			delete(want, h)
			seen++
		}
	}
	require.Equal(t, 50*32, seen)
	d.Reset()
	close(heads)
	wg.Wait()
}
