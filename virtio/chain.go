package virtio

import (
	"encoding/binary"
	"io"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

// Limits of one chain. The specification's own are the queue's size and 2³²
// bytes; it allows a device to have reasonable ones of its own (virtio 1.2
// §2.7.4.1).
const (
	// maxDescriptors is what one preadv takes (IOV_MAX). Drivers keep within
	// the queue size for direct chains; the tables of Linux hold up to seg_max
	// and a few entries more.
	maxDescriptors = 1024
	// MaxChainBytes bounds the work that one chain can cause (T20): 4 MiB of
	// data, and room for headers. It holds for every queue whose device does
	// not set another (see Queue.LimitChains).
	MaxChainBytes = 4<<20 + 4<<10
)

// Descriptor flags, virtio 1.2 §2.7.5.
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
)

// descriptor is a private copy of a virtq_desc.
type descriptor struct {
	addr  guestmem.GPA
	len   uint32
	flags uint16
	next  uint16
}

func parseDescriptor(lo, hi uint64) descriptor {
	return descriptor{guestmem.GPA(lo), uint32(hi), uint16(hi >> 32), uint16(hi >> 48)}
}

// Chain is one request: the buffers that a driver chained together, first those
// for the device to read, then those for it to write. The buffers alias guest
// memory: whatever a device decides on, it copies first (T23).
//
// A Chain belongs to one goroutine and is reused by Pop. Reading and writing
// consume it from the front. Zero-length buffers are legal and vanish, wherever
// they point (T18).
type Chain struct {
	head     uint16
	readable segments
	writable segments
	written  uint32

	table []byte // private copy of an indirect table
}

// segments is a list of buffers that is consumed from the front.
type segments struct {
	all  [][]byte // as popped; keeps the array for reuse
	rest [][]byte // what is left of all
	n    int      // bytes in rest
}

func (s *segments) reset() { s.all, s.rest, s.n = s.all[:0], nil, 0 }

func (s *segments) add(b []byte) {
	s.all = append(s.all, b)
	s.n += len(b)
}

// skip consumes n bytes, at most what there is.
func (s *segments) skip(n int) {
	s.n -= min(n, s.n)
	for n > 0 && len(s.rest) > 0 {
		if b := s.rest[0]; n < len(b) {
			s.rest[0] = b[n:]
			return
		}
		n -= len(s.rest[0])
		s.rest = s.rest[1:]
	}
}

// load walks the chain at head. Called with q.mu held.
func (c *Chain) load(q *Queue, head uint16) error {
	c.head, c.written = head, 0
	c.readable.reset()
	c.writable.reset()
	next := head
	for count := 1; ; count++ {
		if count > q.limit {
			return ErrChainLength // T17
		}
		// Each half is read once, whole; the driver may be writing to it (T23).
		at := descSize * uint64(next)
		d := parseDescriptor(q.desc.LoadUint64(at), q.desc.LoadUint64(at+8))
		if d.flags&descIndirect != 0 {
			// A table may follow direct descriptors (T35), and ends the chain.
			if err := c.loadTable(q, d, count-1); err != nil {
				return err
			}
			break
		}
		if err := c.add(q, d); err != nil {
			return err
		}
		if d.flags&descNext == 0 {
			break
		}
		if d.next >= q.state.Size {
			return ErrNext // T16
		}
		next = d.next
	}
	c.readable.rest, c.writable.rest = c.readable.all, c.writable.all
	return nil
}

// loadTable walks the indirect table that d describes, virtio 1.2 §2.7.5.3.
// before is how many descriptors the chain has already. The WRITE flag of d
// means nothing (T34). Called with q.mu held.
func (c *Chain) loadTable(q *Queue, d descriptor, before int) error {
	entries := int(d.len / descSize)
	switch {
	case !q.state.Indirect, // T30
		d.flags&descNext != 0,           // T33
		d.len == 0, d.len%descSize != 0, // T31
		entries > maxDescriptors: // T31
		return ErrIndirect
	}
	if cap(c.table) < int(d.len) {
		// At most 16 KiB, and then kept.
		c.table = make([]byte, maxDescriptors*descSize)
	}
	table := c.table[:d.len]
	if err := q.mem.ReadAt(table, d.addr); err != nil { // the only read (T36)
		return ErrIndirect
	}
	next := 0
	for count := before + 1; ; count++ {
		if count > before+entries || count > maxDescriptors {
			return ErrChainLength // T17
		}
		b := table[descSize*next:]
		d := parseDescriptor(binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]))
		if d.flags&descIndirect != 0 {
			return ErrIndirect // T32
		}
		if err := c.add(q, d); err != nil {
			return err
		}
		if d.flags&descNext == 0 {
			return nil
		}
		if int(d.next) >= entries {
			return ErrNext // T16
		}
		next = int(d.next)
	}
}

// add appends the buffer that d describes. Called with q.mu held.
func (c *Chain) add(q *Queue, d descriptor) error {
	if d.flags&descWrite == 0 && len(c.writable.all) > 0 {
		return ErrOrder // T21, virtio 1.2 §2.7.4.2
	}
	if d.len == 0 {
		return nil // T18
	}
	b, err := q.mem.Bytes(d.addr, uint64(d.len)) // T19
	if err != nil {
		return ErrBuffer
	}
	if c.readable.n+c.writable.n+len(b) > q.maxBytes {
		return ErrChainBytes // T20
	}
	if d.flags&descWrite == 0 {
		c.readable.add(b)
	} else {
		c.writable.add(b)
	}
	return nil
}

// Head names the chain towards Push.
func (c *Chain) Head() uint16 { return c.head }

// Readable returns the buffers that are left to read, for readv and the like;
// Skip consumes what was read. Valid until the next call on c.
func (c *Chain) Readable() [][]byte { return c.readable.rest }

// ReadableLen is the number of bytes left to read.
func (c *Chain) ReadableLen() int { return c.readable.n }

// Skip consumes n readable bytes.
func (c *Chain) Skip(n int) { c.readable.skip(n) }

// Read copies readable bytes into p and consumes them. It returns io.EOF when
// there are none left.
func (c *Chain) Read(p []byte) (int, error) {
	if c.readable.n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	n := 0
	for n < len(p) && c.readable.n > 0 {
		k := copy(p[n:], c.readable.rest[0])
		c.readable.skip(k)
		n += k
	}
	return n, nil
}

// ReadFull fills p or consumes nothing and returns ErrShortChain. It is how a
// header is read: once, into private memory.
func (c *Chain) ReadFull(p []byte) error {
	if c.readable.n < len(p) {
		return ErrShortChain
	}
	c.Read(p) // cannot fail
	return nil
}

// Writable returns the buffers that are left to write, for readv and the like;
// Wrote consumes what was written. Valid until the next call on c.
func (c *Chain) Writable() [][]byte { return c.writable.rest }

// WritableLen is the number of bytes left to write.
func (c *Chain) WritableLen() int { return c.writable.n }

// Wrote accounts for n bytes that were written into Writable from its start,
// and consumes them.
func (c *Chain) Wrote(n int) {
	n = min(n, c.writable.n)
	c.writable.skip(n)
	c.written += uint32(n)
}

// Write copies p into the writable buffers and consumes them. It returns
// ErrShortChain if p did not fit.
func (c *Chain) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) && c.writable.n > 0 {
		k := copy(c.writable.rest[0], p[n:])
		c.Wrote(k)
		n += k
	}
	if n < len(p) {
		return n, ErrShortChain
	}
	return n, nil
}

// Written is the number of bytes written so far, for Push.
func (c *Chain) Written() uint32 { return c.written }

// TakeLastByte removes the last writable byte from the chain and returns it: the
// status that follows data of any length, in a buffer of its own or not. It
// returns nil if nothing is writable. Written does not count it; WroteLast does.
func (c *Chain) TakeLastByte() []byte {
	last := len(c.writable.rest) - 1
	if last < 0 {
		return nil
	}
	b := c.writable.rest[last] // not empty: empty buffers vanish
	n := len(b) - 1
	c.writable.n--
	if n == 0 {
		c.writable.rest = c.writable.rest[:last]
	} else {
		c.writable.rest[last] = b[:n]
	}
	return b[n:]
}

// WroteLast accounts for the byte of TakeLastByte, which was written last. It
// counts only if everything before it was written: the length that the driver is
// told starts at the first writable byte (virtio 1.2 §2.7.8.2).
func (c *Chain) WroteLast() {
	if c.writable.n == 0 {
		c.written++
	}
}
