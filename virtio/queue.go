package virtio

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

// MaxQueueSize is the longest queue that the format allows, virtio 1.2 §2.7.
const MaxQueueSize = 32768

// Offsets in the available and used rings, virtio 1.2 §2.7.6 and §2.7.8.
const (
	ringFlags   = 0
	ringIdx     = 2
	ringEntries = 4

	descSize      = 16
	availElemSize = 2
	usedElemSize  = 8

	availNoInterrupt = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT
	usedNoNotify     = 1 // VIRTQ_USED_F_NO_NOTIFY
)

// QueueState is all there is to know about a queue that is at rest: plain data.
type QueueState struct {
	Size  uint16       // number of descriptors, a power of two
	Desc  guestmem.GPA // descriptor table, 16-byte aligned
	Avail guestmem.GPA // available ring, 2-byte aligned
	Used  guestmem.GPA // used ring, 4-byte aligned

	Indirect bool // INDIRECT_DESC was negotiated
	EventIdx bool // EVENT_IDX was negotiated

	NextAvail     uint16 // index of the next available entry to take, free-running
	NextUsed      uint16 // index of the next used entry to write, free-running
	SignalledUsed uint16 // NextUsed when Notify last decided
}

// Queue is the device's view of a split virtqueue. One goroutine at a time
// takes chains from it; Push and Notify may be called from others.
type Queue struct {
	index int
	mem   *guestmem.Memory
	limit int // descriptors in a chain

	maxBytes int // in a chain; set before the queue is used

	desc, avail, used guestmem.Window // their bounds never change (T6, T26)

	kick    *kick
	signal  func() // sends a used buffer notification
	stopped atomic.Bool
	done    chan struct{} // closed by Stop

	mu       sync.Mutex // guards what follows
	state    QueueState
	inFlight []uint64 // one bit per head taken and not yet pushed
	err      error    // why the ring is broken; sticky
}

// NewQueue checks where the rings lie and returns a queue over them. signal is
// called when the driver wants to hear of used buffers; nil is never.
//
// The rings may overlap each other and anything else in RAM: a driver that does
// that confuses nobody but itself (T9).
func NewQueue(mem *guestmem.Memory, s QueueState, signal func()) (*Queue, error) {
	q := &Queue{mem: mem, state: s, signal: signal, maxBytes: MaxChainBytes, done: make(chan struct{})}
	if s.Size == 0 || s.Size&(s.Size-1) != 0 || s.Size > MaxQueueSize {
		return nil, &Error{"new queue", fmt.Errorf("%d: %w", s.Size, ErrQueueSize)} // T7
	}
	q.limit = min(int(s.Size), maxDescriptors)
	// Alignment and size are virtio 1.2 §2.7's table, event fields included (T8).
	for _, r := range []struct {
		name  string
		addr  guestmem.GPA
		align guestmem.GPA
		size  uint64
		win   *guestmem.Window
	}{
		{"descriptor table", s.Desc, 16, descSize * uint64(s.Size), &q.desc},
		{"available ring", s.Avail, 2, 6 + availElemSize*uint64(s.Size), &q.avail},
		{"used ring", s.Used, 4, 6 + usedElemSize*uint64(s.Size), &q.used},
	} {
		w, err := mem.Window(r.addr, r.size)
		if err != nil || r.addr%r.align != 0 {
			return nil, &Error{"new queue", fmt.Errorf("%s at %#x: %w", r.name, uint64(r.addr), ErrRingAddress)}
		}
		*r.win = w
	}
	q.inFlight = make([]uint64, (int(s.Size)+63)/64)
	return q, nil
}

// LimitChains sets how many bytes a chain may have, in place of MaxChainBytes.
// It is for devices that do not look at what the chain points to, and is called
// in Activate, before the queue has a worker.
func (q *Queue) LimitChains(bytes int) { q.maxBytes = bytes }

// Size is the number of descriptors.
func (q *Queue) Size() int { return int(q.state.Size) } // never changes

// Index is the queue's number within its device.
func (q *Queue) Index() int { return q.index }

// State returns a copy of the queue's state. It describes the queue completely
// if no chain is in flight.
func (q *Queue) State() QueueState {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.state
}

// Pop takes the next available chain into c, which is reused: a worker has one
// Chain and Pop allocates nothing. It reports false if there is none, or if the
// queue was stopped. An error means that the ring or the chain is malformed; it
// is final, and the caller passes it to Activation.NeedsReset. The head of a
// malformed chain is not returned to the driver, which gets all its buffers
// back by the reset.
func (q *Queue) Pop(c *Chain) (bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return false, q.err
	}
	if q.stopped.Load() {
		return false, nil
	}
	ready := q.avail.LoadUint16(ringIdx) - q.state.NextAvail
	if ready == 0 {
		return false, nil
	}
	if ready > q.state.Size {
		return false, q.fail(ErrAvailIndex) // T14
	}
	slot := uint64(q.state.NextAvail & (q.state.Size - 1))
	head := q.avail.LoadUint16(ringEntries + availElemSize*slot)
	if head >= q.state.Size {
		return false, q.fail(ErrHead) // T15
	}
	if q.inFlight[head/64]&(1<<(head%64)) != 0 {
		return false, q.fail(ErrInFlight) // T29
	}
	if err := c.load(q, head); err != nil {
		return false, q.fail(err)
	}
	q.state.NextAvail++
	q.inFlight[head/64] |= 1 << (head % 64)
	return true, nil
}

// fail breaks the queue for good. Called with q.mu held.
func (q *Queue) fail(err error) error {
	q.err = &Error{fmt.Sprintf("queue %d", q.index), err}
	return q.err
}

// Push returns a chain to the driver: written is the number of bytes that the
// device wrote into it from the start of its writable part (T24). A head that
// is not in flight, and any head of a stopped queue, is ignored (T25, T38).
func (q *Queue) Push(head uint16, written uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped.Load() || head >= q.state.Size || q.inFlight[head/64]&(1<<(head%64)) == 0 {
		return
	}
	q.inFlight[head/64] &^= 1 << (head % 64)
	slot := ringEntries + usedElemSize*uint64(q.state.NextUsed&(q.state.Size-1))
	q.used.StoreUint32(slot, uint32(head))
	q.used.StoreUint32(slot+4, written)
	q.state.NextUsed++
	// A full barrier: the entry is visible before the index (§2.7.8.2), and
	// the index before Notify looks at what the driver wants.
	q.used.StoreUint16(ringIdx, q.state.NextUsed)
}

// Notify tells the driver of the chains pushed since the last Notify, if it
// wants to know (virtio 1.2 §2.7.7).
func (q *Queue) Notify() {
	q.mu.Lock()
	wanted := q.wantsNotification()
	q.mu.Unlock()
	if wanted && q.signal != nil {
		q.signal()
	}
}

// wantsNotification is called with q.mu held.
func (q *Queue) wantsNotification() bool {
	old, now := q.state.SignalledUsed, q.state.NextUsed
	if old == now || q.stopped.Load() {
		return false
	}
	q.state.SignalledUsed = now
	if !q.state.EventIdx {
		return q.avail.LoadUint16(ringFlags)&availNoInterrupt == 0
	}
	// Did the index pass used_event? All of it wraps at 2¹⁶ (T27).
	event := q.avail.LoadUint16(ringEntries + availElemSize*uint64(q.state.Size))
	return now-event-1 < now-old
}

// DisableNotifications asks the driver not to kick: the worker is awake. It is
// advice, and kicks may come all the same (virtio 1.2 §2.7.10).
func (q *Queue) DisableNotifications() {
	if q.state.EventIdx { // never changes
		return // avail_event lies behind: the driver is silent by itself
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.stopped.Load() {
		q.used.StoreUint16(ringFlags, usedNoNotify)
	}
}

// EnableNotifications asks the driver to kick when it adds a chain. It reports
// whether there is one already: then no kick need come, and the caller goes on
// instead of waiting.
func (q *Queue) EnableNotifications() (pending bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped.Load() || q.err != nil {
		return false
	}
	if q.state.EventIdx {
		q.used.StoreUint16(ringEntries+usedElemSize*uint64(q.state.Size), q.state.NextAvail)
	} else {
		q.used.StoreUint16(ringFlags, 0)
	}
	return q.avail.LoadUint16(ringIdx) != q.state.NextAvail
}

// Wait blocks until the driver kicks, or Wake is called. It may return without
// reason. It returns ErrStopped once the queue is stopped.
func (q *Queue) Wait() error {
	if q.stopped.Load() {
		return ErrStopped
	}
	if q.kick == nil { // made by NewQueue: nobody kicks
		<-q.done
		return ErrStopped
	}
	if err := q.kick.wait(); err != nil {
		return &Error{"wait for kick", err}
	}
	if q.stopped.Load() {
		return ErrStopped
	}
	return nil
}

// Wake makes Wait return, as a kick does. The host's side of a device calls it
// to let the queue's worker know of something to do.
func (q *Queue) Wake() {
	if q.kick != nil {
		q.kick.signal()
	}
}

// Stop ends the queue for good: Wait returns ErrStopped, Pop finds nothing, Push
// and Notify do nothing. Once Stop has returned, the rings are not touched.
func (q *Queue) Stop() {
	q.mu.Lock()
	if !q.stopped.Swap(true) {
		close(q.done)
	}
	q.mu.Unlock()
	q.Wake()
}

// Done is closed when the queue is stopped, for workers that wait for something
// else than a kick.
func (q *Queue) Done() <-chan struct{} { return q.done }

// Stopped reports whether Stop was called.
func (q *Queue) Stopped() bool { return q.stopped.Load() }
