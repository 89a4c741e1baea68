package virtiotest

import (
	"encoding/binary"
	"runtime"
	"time"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
)

// Timeout is how long a Ring waits for the device before the test fails.
const Timeout = 10 * time.Second

// Descriptor flags, virtio 1.2 §2.7.5.
const (
	Next     = 1
	Write    = 2
	Indirect = 4
)

// Desc is a descriptor as it lies in memory.
type Desc struct {
	Addr  guestmem.GPA
	Len   uint32
	Flags uint16
	Next  uint16
}

func (e Desc) bytes() []byte {
	b := make([]byte, 16)
	binary.LittleEndian.PutUint64(b[0:], uint64(e.Addr))
	binary.LittleEndian.PutUint32(b[8:], e.Len)
	binary.LittleEndian.PutUint16(b[12:], e.Flags)
	binary.LittleEndian.PutUint16(b[14:], e.Next)
	return b
}

// Buf is one buffer of a chain.
type Buf struct {
	Addr  guestmem.GPA
	Len   uint32
	Write bool // for the device to write
}

// chain is what a head stands for while the device has it.
type chain struct {
	descs []uint16
}

// Ring is the driver's view of a queue.
type Ring struct {
	Index             int
	Size              uint16
	Desc, Avail, Used guestmem.GPA

	// AvailIdx and UsedIdx are the driver's own indexes: the next entry to
	// offer, and the next to look at.
	AvailIdx, UsedIdx uint16

	d      *Driver
	free   []uint16
	chains []chain
}

func (r *Ring) must(err error) {
	if err != nil {
		r.d.TB.Helper()
		r.d.TB.Fatalf("virtiotest: queue %d: %v", r.Index, err)
	}
}

// Ready reads QueueReady.
func (r *Ring) Ready() bool {
	r.d.Store32(QueueSel, uint32(r.Index))
	return r.d.Load32(QueueReady) == 1
}

// SetDesc writes a descriptor, whatever it says.
func (r *Ring) SetDesc(i uint16, e Desc) {
	b := e.bytes()
	at := r.Desc + 16*guestmem.GPA(i)
	r.must(r.d.ram.StoreUint64(at, binary.LittleEndian.Uint64(b)))
	r.must(r.d.ram.StoreUint64(at+8, binary.LittleEndian.Uint64(b[8:])))
}

// Table writes an indirect table and returns the descriptor for it.
func (r *Ring) Table(entries ...Desc) Desc {
	var b []byte
	for _, e := range entries {
		b = append(b, e.bytes()...)
	}
	return Desc{Addr: r.d.Put(b), Len: uint32(len(b)), Flags: Indirect}
}

// Offer puts a head into the available ring and moves the index, without a kick.
func (r *Ring) Offer(head uint16) {
	r.must(r.d.ram.StoreUint16(r.Avail+4+2*guestmem.GPA(r.AvailIdx%r.Size), head))
	r.SetAvailIdx(r.AvailIdx + 1)
}

// SetAvailIdx sets the available index, whatever it says.
func (r *Ring) SetAvailIdx(idx uint16) {
	r.AvailIdx = idx
	r.must(r.d.ram.StoreUint16(r.Avail+2, idx))
}

// SetAvailFlags sets the flags of the available ring.
func (r *Ring) SetAvailFlags(v uint16) { r.must(r.d.ram.StoreUint16(r.Avail, v)) }

// SetUsedEvent says after which used entry the driver wants an interrupt.
func (r *Ring) SetUsedEvent(idx uint16) {
	r.must(r.d.ram.StoreUint16(r.Avail+4+2*guestmem.GPA(r.Size), idx))
}

// UsedFlags reads the flags of the used ring.
func (r *Ring) UsedFlags() uint16 {
	v, err := r.d.ram.LoadUint16(r.Used)
	r.must(err)
	return v
}

// AvailEvent reads after which available entry the device wants a kick.
func (r *Ring) AvailEvent() uint16 {
	v, err := r.d.ram.LoadUint16(r.Used + 4 + 8*guestmem.GPA(r.Size))
	r.must(err)
	return v
}

// DeviceUsedIdx reads the used index.
func (r *Ring) DeviceUsedIdx() uint16 {
	v, err := r.d.ram.LoadUint16(r.Used + 2)
	r.must(err)
	return v
}

// Kick notifies the device through the register.
func (r *Ring) Kick() { r.d.Store32(QueueNotify, uint32(r.Index)) }

// KickIfWanted notifies the device unless it said that it does not need to be
// told of the entries since the available index was old (virtio 1.2 §2.7.10).
func (r *Ring) KickIfWanted(old uint16) {
	if r.d.Features&virtio.FeatureEventIdx != 0 {
		if r.AvailIdx-r.AvailEvent()-1 >= r.AvailIdx-old {
			return
		}
	} else if r.UsedFlags()&1 != 0 {
		return
	}
	r.Kick()
}

// Add offers a chain of direct descriptors, without a kick, and returns its head.
func (r *Ring) Add(bufs ...Buf) uint16 {
	r.d.TB.Helper()
	if len(bufs) == 0 || len(bufs) > len(r.free) {
		r.d.TB.Fatalf("virtiotest: queue %d: %d descriptors wanted, %d free", r.Index, len(bufs), len(r.free))
	}
	cut := len(r.free) - len(bufs)
	ids := append([]uint16(nil), r.free[cut:]...)
	r.free = r.free[:cut]
	for i, b := range bufs {
		e := Desc{Addr: b.Addr, Len: b.Len}
		if b.Write {
			e.Flags |= Write
		}
		if i+1 < len(bufs) {
			e.Flags |= Next
			e.Next = ids[i+1]
		}
		r.SetDesc(ids[i], e)
	}
	r.chains[ids[0]] = chain{ids}
	r.Offer(ids[0])
	return ids[0]
}

// AddIndirect offers a chain in an indirect table, without a kick.
func (r *Ring) AddIndirect(bufs ...Buf) uint16 {
	r.d.TB.Helper()
	if len(r.free) == 0 {
		r.d.TB.Fatalf("virtiotest: queue %d: no descriptor free", r.Index)
	}
	var entries []Desc
	for i, b := range bufs {
		e := Desc{Addr: b.Addr, Len: b.Len, Next: uint16(i + 1)}
		if b.Write {
			e.Flags |= Write
		}
		if i+1 < len(bufs) {
			e.Flags |= Next
		}
		entries = append(entries, e)
	}
	id := r.free[len(r.free)-1]
	r.free = r.free[:len(r.free)-1]
	r.SetDesc(id, r.Table(entries...))
	r.chains[id] = chain{[]uint16{id}}
	r.Offer(id)
	return id
}

// Poll takes the next used entry, if there is one.
func (r *Ring) Poll() (head uint16, written uint32, ok bool) {
	if r.DeviceUsedIdx() == r.UsedIdx {
		return 0, 0, false
	}
	at := r.Used + 4 + 8*guestmem.GPA(r.UsedIdx%r.Size)
	id, err := r.d.ram.LoadUint32(at)
	r.must(err)
	written, err = r.d.ram.LoadUint32(at + 4)
	r.must(err)
	r.UsedIdx++
	if id >= uint32(r.Size) {
		r.d.TB.Fatalf("virtiotest: queue %d: the device used head %d", r.Index, id)
	}
	r.free = append(r.free, r.chains[id].descs...)
	r.chains[id] = chain{}
	return uint16(id), written, true
}

// Wait waits for the next used entry. The test fails if none comes.
func (r *Ring) Wait() (head uint16, written uint32) {
	r.d.TB.Helper()
	deadline := time.Now().Add(Timeout)
	for i := 0; ; i++ {
		if head, written, ok := r.Poll(); ok {
			return head, written
		}
		if time.Now().After(deadline) {
			r.d.TB.Fatalf("virtiotest: queue %d: nothing used in %v, status %#x", r.Index, Timeout, r.d.Status())
		}
		pause(i)
	}
}

// pause waits a moment, longer after a while.
func pause(i int) {
	if i < 1000 {
		runtime.Gosched()
		return
	}
	time.Sleep(100 * time.Microsecond)
}

// WaitNeedsReset waits for DEVICE_NEEDS_RESET. The test fails if it is not set.
func (d *Driver) WaitNeedsReset() {
	d.TB.Helper()
	deadline := time.Now().Add(Timeout)
	for i := 0; !d.NeedsReset(); i++ {
		if time.Now().After(deadline) {
			d.TB.Fatalf("virtiotest: no DEVICE_NEEDS_RESET in %v, status %#x", Timeout, d.Status())
		}
		pause(i)
	}
}

// Reply is what came back for a chain.
type Reply struct {
	Used uint32 // bytes written, as the device says
	Data []byte // the writable buffers, one after the other, whole
}

// Do sends request and room for a reply as one chain, one buffer each, and waits
// for the device to use it.
func (r *Ring) Do(request []byte, room int) Reply {
	r.d.TB.Helper()
	return r.DoSplit(split(request, len(request)), room)
}

// split cuts p into pieces of n bytes.
func split(p []byte, n int) [][]byte {
	var out [][]byte
	for len(p) > 0 {
		k := min(n, len(p))
		out = append(out, p[:k])
		p = p[k:]
	}
	return out
}

// DoSplit is Do with one buffer for each piece of the request, and the room cut
// at the given sizes. It uses indirect descriptors where they were negotiated
// and direct ones do not suffice, and reuses the memory for the next call.
func (r *Ring) DoSplit(request [][]byte, room ...int) Reply {
	r.d.TB.Helper()
	mark := r.d.next
	defer func() { r.d.next = mark }()
	var bufs []Buf
	for _, p := range request {
		bufs = append(bufs, Buf{Addr: r.d.Put(p), Len: uint32(len(p))})
	}
	first, total := len(bufs), 0
	for _, n := range room {
		if n > 0 {
			bufs = append(bufs, Buf{Addr: r.d.Alloc(uint64(n), 16), Len: uint32(n), Write: true})
			total += n
		}
	}
	var head uint16
	if len(bufs) > len(r.free) && r.d.Features&virtio.FeatureIndirectDesc != 0 {
		head = r.AddIndirect(bufs...)
	} else {
		head = r.Add(bufs...)
	}
	r.Kick()
	got, used := r.Wait()
	if got != head {
		r.d.TB.Fatalf("virtiotest: queue %d: head %d used, %d expected", r.Index, got, head)
	}
	reply := Reply{Used: used, Data: make([]byte, 0, total)}
	for _, b := range bufs[first:] {
		reply.Data = append(reply.Data, r.d.Get(b.Addr, int(b.Len))...)
	}
	return reply
}
