package virtio_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
	"github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

func TestQueue_PopPushNotify(t *testing.T) {
	d, r, q := manual(t, virtiotest.Config{})
	require.Equal(t, 16, q.Size())

	in := d.Put([]byte("hello"))
	out := d.Alloc(8, 8)
	head := r.Add(virtiotest.Buf{Addr: in, Len: 5}, virtiotest.Buf{Addr: out, Len: 8, Write: true})
	c := pop(t, q)
	require.Equal(t, head, c.Head())
	require.Equal(t, 5, c.ReadableLen())
	require.Equal(t, 8, c.WritableLen())
	require.NoError(t, echo(c))
	q.Push(c.Head(), c.Written())
	require.Zero(t, d.IRQ.Count())
	q.Notify()
	require.Equal(t, 1, d.IRQ.Count())

	got, used := r.Wait()
	require.Equal(t, head, got)
	require.EqualValues(t, 5, used)
	require.Equal(t, "hello", string(d.Get(out, 5)))
	s := q.State()
	require.EqualValues(t, 1, s.NextAvail)
	require.EqualValues(t, 1, s.NextUsed)

	q.Notify() // nothing new
	require.Equal(t, 1, d.IRQ.Count())
}

func TestQueue_T07_Size(t *testing.T) {
	mem, err := guestmem.NewHeap(guestmem.Range{Size: 4 << 20})
	require.NoError(t, err)
	for size := range 70000 {
		s := virtio.QueueState{Size: uint16(size), Desc: 0, Avail: 1 << 20, Used: 2 << 20}
		_, err := virtio.NewQueue(mem, s, nil)
		if n := uint16(size); n > 0 && n&(n-1) == 0 && n <= virtio.MaxQueueSize {
			require.NoError(t, err, size)
		} else {
			require.ErrorIs(t, err, virtio.ErrQueueSize, size)
		}
	}
}

func TestQueue_T08_Rings(t *testing.T) {
	const size = 64 << 10
	mem, err := guestmem.NewHeap(guestmem.Range{Size: size}, guestmem.Range{Base: 1 << 20, Size: size})
	require.NoError(t, err)
	good := virtio.QueueState{Size: 8, Desc: 0x1000, Avail: 0x2000, Used: 0x3000}
	_, err = virtio.NewQueue(mem, good, nil)
	require.NoError(t, err)

	for _, addr := range []guestmem.GPA{
		0x1001, 0x1002, 0x1004, 0x1008, // misaligned
		size - 16, size, size + 16, 0xf0000, // over the end, in the hole
		1<<20 - 16, 1 << 40, 1<<63 - 16, ^guestmem.GPA(15), // far away, wrapping
	} {
		s := good
		s.Desc = addr
		_, err := virtio.NewQueue(mem, s, nil)
		require.ErrorIs(t, err, virtio.ErrRingAddress, "desc %#x", addr)

		s = good
		s.Avail = addr
		_, err = virtio.NewQueue(mem, s, nil)
		if addr%2 == 0 && addr < size-16 {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, virtio.ErrRingAddress, "avail %#x", addr)
		}

		s = good
		s.Used = addr
		_, err = virtio.NewQueue(mem, s, nil)
		if addr%4 == 0 && addr < size-16 {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, virtio.ErrRingAddress, "used %#x", addr)
		}
	}

	// The last places that fit, event fields included.
	fit := virtio.QueueState{Size: 8, Desc: size - 16*8, Avail: size - 6 - 2*8, Used: 1<<20 + size - 72}
	_, err = virtio.NewQueue(mem, fit, nil)
	require.NoError(t, err)
	for _, s := range []virtio.QueueState{
		{Size: 8, Desc: fit.Desc + 16, Avail: fit.Avail, Used: fit.Used},
		{Size: 8, Desc: fit.Desc, Avail: fit.Avail + 2, Used: fit.Used},
		{Size: 8, Desc: fit.Desc, Avail: fit.Avail, Used: fit.Used + 4},
	} {
		_, err = virtio.NewQueue(mem, s, nil)
		require.ErrorIs(t, err, virtio.ErrRingAddress)
	}
}

// The used ring at the very end of RAM: its last field is written 16 bits wide.
func TestQueue_T08_EndOfMemory(t *testing.T) {
	mem, err := guestmem.NewHeap(guestmem.Range{Size: 8192})
	require.NoError(t, err)
	q, err := virtio.NewQueue(mem, virtio.QueueState{Size: 1, Desc: 0, Avail: 16, Used: 8192 - 16, EventIdx: true}, nil)
	require.NoError(t, err)
	require.False(t, q.EnableNotifications())
}

func TestQueue_T09_OverlappingRings(t *testing.T) {
	mem, err := guestmem.NewHeap(guestmem.Range{Size: 4096})
	require.NoError(t, err)
	q, err := virtio.NewQueue(mem, virtio.QueueState{Size: 4, Indirect: true, EventIdx: true}, nil)
	require.NoError(t, err)
	// idx, flags, heads and descriptors are all the same bytes.
	var c virtio.Chain
	for i := range 1000 {
		require.NoError(t, mem.StoreUint64(guestmem.GPA(i%16)*8, uint64(i)*0x9e3779b97f4a7c15))
		if ok, err := q.Pop(&c); err == nil && ok {
			q.Push(c.Head(), c.Written())
			q.Notify()
		}
		q.EnableNotifications()
	}
}

func TestQueue_T14_AvailJump(t *testing.T) {
	for _, jump := range []uint16{17, 18, 0x8000, 0xffff} {
		t.Run(fmt.Sprint(jump), func(t *testing.T) {
			_, r, q := manual(t, virtiotest.Config{QueueSize: 16})
			r.SetAvailIdx(jump)
			popError(t, q, virtio.ErrAvailIndex)
		})
	}
	t.Run("full queue", func(t *testing.T) {
		_, r, q := manual(t, virtiotest.Config{QueueSize: 16})
		for i := range uint16(16) {
			r.Offer(i)
		}
		for range 16 {
			pop(t, q)
		}
		ok, err := q.Pop(new(virtio.Chain))
		require.NoError(t, err)
		require.False(t, ok)
	})
	t.Run("backwards", func(t *testing.T) {
		_, r, q := manual(t, virtiotest.Config{QueueSize: 16})
		r.Offer(0)
		pop(t, q)
		r.SetAvailIdx(0)
		popError(t, q, virtio.ErrAvailIndex)
	})
	t.Run("device", func(t *testing.T) {
		d, _ := serving(t, echo, virtiotest.Config{})
		d.Ring(0).SetAvailIdx(0x8000)
		d.Ring(0).Kick()
		d.WaitNeedsReset()
		require.NotZero(t, d.Load32(virtiotest.InterruptStatus)&virtio.InterruptConfig)
	})
}

func TestQueue_T15_Head(t *testing.T) {
	for _, head := range []uint16{16, 17, 0x8000, 0xffff} {
		_, r, q := manual(t, virtiotest.Config{QueueSize: 16})
		r.Offer(head)
		popError(t, q, virtio.ErrHead)
	}
}

func TestQueue_T25_HeadsReturnedOnce(t *testing.T) {
	_, r, q := manual(t, virtiotest.Config{QueueSize: 4})
	r.Offer(2)
	c := pop(t, q)
	for _, head := range []uint16{0, 1, 3, 4, 0xffff} { // not in flight
		q.Push(head, 1)
	}
	require.Zero(t, r.DeviceUsedIdx())
	q.Push(c.Head(), 0)
	q.Push(c.Head(), 0) // once
	require.EqualValues(t, 1, r.DeviceUsedIdx())
}

// More than 2¹⁶ requests through a queue of two: all indexes wrap.
func TestQueue_T26_T27_Wrap(t *testing.T) {
	for _, without := range []uint64{0, virtio.FeatureEventIdx} {
		d, r, q := manual(t, virtiotest.Config{QueueSize: 2, Without: without})
		var c virtio.Chain
		for i := range 70000 {
			head := uint16(i % 2)
			r.SetUsedEvent(uint16(i))
			r.Offer(head)
			ok, err := q.Pop(&c)
			require.True(t, ok && err == nil && c.Head() == head)
			q.Push(head, uint32(i))
			q.Notify()
			got, used, ok := r.Poll()
			require.True(t, ok && got == head && used == uint32(i))
			require.Equal(t, i+1, d.IRQ.Count())
			require.False(t, q.EnableNotifications())
		}
	}
}

func TestQueue_T27_UsedEvent(t *testing.T) {
	// need(event, old, new) by definition: some entry in [old, new) is event.
	need := func(event, old, now uint16) bool {
		for i := old; i != now; i++ {
			if i == event {
				return true
			}
		}
		return false
	}
	for _, start := range []uint16{0, 1, 0x7ffe, 0xfffa, 0xffff} {
		for pushes := range uint16(5) {
			for _, delta := range []uint16{0, 1, 2, 3, 4, 5, 6, 0x7fff, 0x8000, 0xfffe, 0xffff} {
				mem, err := guestmem.NewHeap(guestmem.Range{Size: 8192})
				require.NoError(t, err)
				signalled := false
				q, err := virtio.NewQueue(mem, virtio.QueueState{
					Size: 8, Desc: 0, Avail: 0x800, Used: 0x1000, EventIdx: true,
					NextAvail: start, NextUsed: start, SignalledUsed: start,
				}, func() { signalled = true })
				require.NoError(t, err)
				var c virtio.Chain
				for i := range pushes {
					require.NoError(t, mem.StoreUint16(0x804+2*guestmem.GPA((start+i)%8), i))
					require.NoError(t, mem.StoreUint16(0x802, start+i+1))
					ok, err := q.Pop(&c)
					require.True(t, ok && err == nil)
					q.Push(c.Head(), 0)
				}
				event := start + delta
				require.NoError(t, mem.StoreUint16(0x804+2*8, event))
				q.Notify()
				require.Equal(t, need(event, start, start+pushes), signalled, "start %d, %d pushes, event %d", start, pushes, event)
			}
		}
	}
}

func TestQueue_T29_SameHeadTwice(t *testing.T) {
	_, r, q := manual(t, virtiotest.Config{QueueSize: 128})
	for _, head := range []uint16{0, 63, 64, 127} {
		r.Offer(head)
		c := pop(t, q)
		q.Push(c.Head(), 0)
		r.Offer(head) // returned, so free again
		pop(t, q)
	}
	r.Offer(64)
	popError(t, q, virtio.ErrInFlight)
}

func TestQueue_T38_StoppedQueueTouchesNothing(t *testing.T) {
	d, r, q := manual(t, virtiotest.Config{QueueSize: 4})
	r.Offer(1)
	r.Offer(2)
	c := pop(t, q)
	q.Stop()
	q.Stop()
	before := d.Get(r.Used, 6+8*4)
	irqs := d.IRQ.Count()
	q.Push(c.Head(), 7)
	q.Notify()
	q.DisableNotifications()
	require.False(t, q.EnableNotifications())
	ok, err := q.Pop(c)
	require.False(t, ok)
	require.NoError(t, err)
	require.ErrorIs(t, q.Wait(), virtio.ErrStopped)
	require.Equal(t, before, d.Get(r.Used, 6+8*4))
	require.Equal(t, irqs, d.IRQ.Count())
	<-q.Done()
}

// virtio 1.2 §2.7.7.2 and §2.7.10.2, as subtests named by section.
func TestQueue_SpecNotificationSuppression(t *testing.T) {
	use := func(t *testing.T, r *virtiotest.Ring, q *virtio.Queue) {
		r.Offer(0)
		c := pop(t, q)
		q.Push(c.Head(), 0)
		q.Notify()
		_, _, ok := r.Poll()
		require.True(t, ok)
	}
	t.Run("2.7.7.2 flags without EVENT_IDX", func(t *testing.T) {
		d, r, q := manual(t, virtiotest.Config{Without: virtio.FeatureEventIdx})
		r.SetUsedEvent(0x1234) // MUST be ignored
		use(t, r, q)
		require.Equal(t, 1, d.IRQ.Count())
		r.SetAvailFlags(1)
		use(t, r, q)
		require.Equal(t, 1, d.IRQ.Count())
		r.SetAvailFlags(0)
		use(t, r, q)
		require.Equal(t, 2, d.IRQ.Count())
	})
	t.Run("2.7.7.2 used_event with EVENT_IDX", func(t *testing.T) {
		d, r, q := manual(t, virtiotest.Config{})
		r.SetAvailFlags(1) // MUST be ignored
		use(t, r, q)
		require.Equal(t, 1, d.IRQ.Count())
		r.SetUsedEvent(2)
		use(t, r, q)
		require.Equal(t, 1, d.IRQ.Count())
		use(t, r, q)
		require.Equal(t, 2, d.IRQ.Count())
	})
	t.Run("2.7.10.2 flags without EVENT_IDX", func(t *testing.T) {
		_, r, q := manual(t, virtiotest.Config{Without: virtio.FeatureEventIdx})
		q.DisableNotifications()
		require.EqualValues(t, 1, r.UsedFlags())
		require.False(t, q.EnableNotifications())
		require.EqualValues(t, 0, r.UsedFlags())
		q.DisableNotifications()
		r.Offer(0)
		require.True(t, q.EnableNotifications(), "what came while they were off")
	})
	t.Run("2.7.10.2 flags stay 0 with EVENT_IDX", func(t *testing.T) {
		_, r, q := manual(t, virtiotest.Config{})
		q.DisableNotifications()
		require.EqualValues(t, 0, r.UsedFlags())
		r.Offer(0)
		pop(t, q)
		require.False(t, q.EnableNotifications())
		require.EqualValues(t, 1, r.AvailEvent())
		require.EqualValues(t, 0, r.UsedFlags())
	})
}
