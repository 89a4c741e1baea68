package virtiotest

import (
	"encoding/binary"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
)

// A fuzz input is a program: a run of instructions, each a byte and its operands,
// that a driver carries out. Every input is a program, and small changes of the
// input make small changes of what is done. An Assembler writes programs, for
// seeds.
const (
	opStore    = iota // register offset (2), width (1), value (8)
	opLoad            // register offset (2), width (1)
	opStart           // features not to accept (1), queue size (1): the whole initialisation
	opReset           //
	opDesc            // queue (1), index (1), place (2), length (4), flags (1), next (1)
	opTable           // queue (1), index (1), n (1), then n descriptors as above without queue and index
	opOffer           // queue (1), head (1)
	opAvailIdx        // queue (1), difference (2)
	opKick            // queue (1)
	opPoll            // queue (1)
	opFill            // place (2), n (1), n bytes
	opChain           // queue (1), readable n (1), n bytes, writable length (2): a good chain, kicked
	opEvent           // queue (1), used_event (2), avail flags (1)
	opSettle          // wait until the device has used what it will
	opCount
)

// MaxInstructions bounds what Run does with one program.
const MaxInstructions = 256

// place turns an operand into an address. Most are in RAM, near what else is
// there; the others are the interesting ones.
func place(v uint16) guestmem.GPA {
	switch low := guestmem.GPA(v & 0xfff); v >> 12 {
	case 0, 1, 2, 3:
		return guestmem.GPA(v) // low region
	case 4:
		return LowSize - 0x800 + low // around its end
	case 5:
		return HighBase - 0x800 + low // around the start of the other
	case 6:
		return 0xd0000000 + low
	case 7:
		return ^guestmem.GPA(0) - low
	default:
		return HighBase + guestmem.GPA(v&0x7fff)*4
	}
}

type program []byte

func (p *program) byte() byte {
	if len(*p) == 0 {
		return 0
	}
	b := (*p)[0]
	*p = (*p)[1:]
	return b
}

func (p *program) u16() uint16 { return uint16(p.byte()) | uint16(p.byte())<<8 }
func (p *program) u32() uint32 { return uint32(p.u16()) | uint32(p.u16())<<16 }
func (p *program) u64() uint64 { return uint64(p.u32()) | uint64(p.u32())<<32 }

func (p *program) bytes(n int) []byte {
	n = min(n, len(*p))
	b := (*p)[:n]
	*p = (*p)[n:]
	return b
}

func (p *program) desc() Desc {
	return Desc{Addr: place(p.u16()), Len: p.u32(), Flags: uint16(p.byte()), Next: uint16(p.byte())}
}

// Run carries out a program. Whatever the program, no access may do harm: the
// caller checks afterwards what it holds dear, and that the device still works
// after a reset (see CheckAlive).
func (d *Driver) Run(input []byte) {
	p := program(input)
	for range MaxInstructions {
		if len(p) == 0 {
			return
		}
		d.step(&p)
	}
}

func (d *Driver) step(p *program) {
	op := p.byte() % opCount
	switch op {
	case opStore:
		off, n, v := uint64(p.u16()), int(p.byte()%17), p.u64()
		b := binary.LittleEndian.AppendUint64(nil, v)
		d.Store(off, append(b, b...)[:n])
		return
	case opLoad:
		off, n := uint64(p.u16()), int(p.byte()%17)
		d.Load(off, n)
		return
	case opStart:
		without, size := uint64(p.byte()), p.byte()
		d.runStart(without<<24, uint16(1)<<(size%9))
		return
	case opReset:
		d.Reset()
		return
	case opFill:
		a, n := place(p.u16()), int(p.byte())
		_ = d.ram.WriteAt(p.bytes(n), a) // outside RAM nothing happens
		return
	case opSettle:
		d.Settle()
		return
	}
	if r := d.Ring(int(p.byte() % 4)); r != nil {
		r.step(op, p)
	}
}

func (r *Ring) step(op byte, p *program) {
	switch op {
	case opDesc:
		i := uint16(p.byte()) % r.Size
		r.SetDesc(i, p.desc())
	case opTable:
		i := uint16(p.byte()) % r.Size
		var entries []Desc
		for range p.byte() % 32 {
			entries = append(entries, p.desc())
		}
		if r.d.room(16 * uint64(len(entries))) {
			r.SetDesc(i, r.Table(entries...))
		}
	case opOffer:
		r.Offer(uint16(p.byte()))
	case opAvailIdx:
		r.SetAvailIdx(r.AvailIdx + p.u16())
	case opKick:
		r.Kick()
	case opPoll:
		r.pollAny()
	case opChain:
		in := p.bytes(int(p.byte()))
		n := uint32(p.u16())
		if !r.d.room(uint64(len(in))+uint64(n)) || len(r.free) < 2 {
			return
		}
		bufs := []Buf{{Addr: r.d.Put(in), Len: uint32(len(in))}}
		if n > 0 {
			bufs = append(bufs, Buf{Addr: r.d.Alloc(uint64(n), 16), Len: n, Write: true})
		}
		r.Add(bufs...)
		r.Kick()
	case opEvent:
		r.SetUsedEvent(p.u16())
		r.SetAvailFlags(uint16(p.byte()))
	}
}

// runStart is Start with a device that may say no.
func (d *Driver) runStart(without uint64, size uint16) {
	if !d.Negotiate(d.Offered() &^ without) {
		return
	}
	for i := range 4 {
		d.Store32(QueueSel, uint32(i))
		if most := d.Load32(QueueSizeMax); most > 0 {
			d.SetupQueue(i, uint16(min(most, uint32(size))))
		}
	}
	d.DriverOK()
}

// room reports whether Alloc can give n bytes.
func (d *Driver) room(n uint64) bool { return uint64(d.limit-d.next) >= n+64 }

// pollAny is Poll for a driver that lost count of its heads.
func (r *Ring) pollAny() {
	if idx := r.DeviceUsedIdx(); idx != r.UsedIdx {
		at := r.Used + 4 + 8*guestmem.GPA(r.UsedIdx%r.Size)
		id, err := r.d.ram.LoadUint32(at)
		r.must(err)
		r.UsedIdx++
		if id < uint32(r.Size) {
			r.free = append(r.free, r.chains[id].descs...)
			r.chains[id] = chain{}
		}
	}
}

// Settle waits until the device uses nothing more for a moment.
func (d *Driver) Settle() {
	for quiet := 0; quiet < 3; quiet++ {
		var before, after uint16
		for _, r := range d.rings {
			if r != nil {
				before += r.DeviceUsedIdx()
			}
		}
		for i := range 100 {
			pause(i)
		}
		for _, r := range d.rings {
			if r != nil {
				after += r.DeviceUsedIdx()
			}
		}
		if before != after {
			quiet = 0
		}
	}
}

// CheckAlive fails the test unless the device starts again after all that was
// done to it.
func (d *Driver) CheckAlive() {
	d.TB.Helper()
	d.Reset()
	if s := d.Status(); s != 0 {
		d.TB.Fatalf("virtiotest: status %#x after a reset", s)
	}
	d.Start()
	if d.Status()&virtio.StatusNeedsReset != 0 {
		d.TB.Fatal("virtiotest: needs a reset right after one")
	}
}

// Assembler writes programs for Run.
type Assembler []byte

func (a Assembler) u16(v uint16) Assembler { return binary.LittleEndian.AppendUint16(a, v) }
func (a Assembler) u32(v uint32) Assembler { return binary.LittleEndian.AppendUint32(a, v) }

// Store32 writes a register.
func (a Assembler) Store32(off uint16, v uint32) Assembler {
	a = append(append(a, opStore).u16(off), 4)
	return binary.LittleEndian.AppendUint64(a, uint64(v))
}

// Load reads n bytes of the register window.
func (a Assembler) Load(off uint16, n byte) Assembler { return append(append(a, opLoad).u16(off), n) }

// Start initialises the device with queues of 1<<logSize entries, without the
// features 24 to 31 whose bits are set in without.
func (a Assembler) Start(without, logSize byte) Assembler {
	return append(a, opStart, without, logSize)
}

// Reset resets the device.
func (a Assembler) Reset() Assembler { return append(a, opReset) }

// Desc writes a descriptor; addr is below 0x4000.
func (a Assembler) Desc(queue, index byte, addr uint16, n uint32, flags, next byte) Assembler {
	return append(append(a, opDesc, queue, index).u16(addr).u32(n), flags, next)
}

// Table writes an indirect table of n entries, each for n bytes at addr.
func (a Assembler) Table(queue, index, entries byte, addr uint16, n uint32, flags byte) Assembler {
	a = append(a, opTable, queue, index, entries)
	for i := range entries {
		f := flags
		if i+1 < entries {
			f |= Next
		}
		a = append(a.u16(addr).u32(n), f, i+1)
	}
	return a
}

// Offer makes a head available.
func (a Assembler) Offer(queue, head byte) Assembler { return append(a, opOffer, queue, head) }

// MoveAvail adds to the available index.
func (a Assembler) MoveAvail(queue byte, n uint16) Assembler {
	return append(a, opAvailIdx, queue).u16(n)
}

// Kick notifies.
func (a Assembler) Kick(queue byte) Assembler { return append(a, opKick, queue) }

// Poll looks at the used ring.
func (a Assembler) Poll(queue byte) Assembler { return append(a, opPoll, queue) }

// Fill writes memory; addr is below 0x4000.
func (a Assembler) Fill(addr uint16, p []byte) Assembler {
	return append(append(append(a, opFill).u16(addr), byte(len(p))), p...)
}

// Chain sends a good chain.
func (a Assembler) Chain(queue byte, in []byte, room uint16) Assembler {
	return append(append(a, opChain, queue, byte(len(in))), in...).u16(room)
}

// Event sets used_event and the flags of the available ring.
func (a Assembler) Event(queue byte, usedEvent uint16, flags byte) Assembler {
	return append(append(a, opEvent, queue).u16(usedEvent), flags)
}

// Settle waits for the device.
func (a Assembler) Settle() Assembler { return append(a, opSettle) }
