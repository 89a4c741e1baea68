package qcow2

import "encoding/binary"

// Bits of a table's entry, "Cluster mapping" in the specification.
const (
	entryCopied     = 1 << 63 // the reference count is exactly one
	entryCompressed = 1 << 62
	entryZero       = 1 << 0
	entryOffset     = maxHostOffset - 1<<9 // bits 9 to 55
)

// kind is what an L2 entry says about a cluster of the disk.
type kind uint8

const (
	kindNone       kind = iota // not allocated, reads as zeros
	kindZero                   // reads as zeros; may have a host cluster
	kindData                   // is a host cluster
	kindCompressed             // is compressed, at any place
)

// mapping is an L2 entry, checked.
type mapping struct {
	kind   kind
	copied bool
	host   int64 // where it is in the file; 0 if nowhere
	size   int64 // of compressed data, at most
}

// zeros reports whether the cluster reads as zeros.
func (m mapping) zeros() bool { return m.kind <= kindZero }

// inPlace reports whether the cluster's data may be overwritten.
func (m mapping) inPlace() bool { return m.kind == kindData && m.copied }

// reserved reports whether the cluster reads as zeros and has a host cluster of
// its own.
func (m mapping) reserved() bool { return m.kind == kindZero && m.copied }

// tableOffset checks an L1 or refcount table entry without its flags.
func (im *Image) tableOffset(what string, off uint64) (int64, error) {
	if off&uint64(im.h.clusterSize()-1) != 0 || off == 0 || off >= uint64(im.length) {
		return 0, malformed("%s at %#x, in a file of %d bytes", what, off, im.length)
	}
	return int64(off), nil
}

// decode checks an L2 entry.
func (im *Image) decode(e uint64) (mapping, error) {
	if e == 0 {
		return mapping{}, nil
	}
	if e&entryCompressed != 0 {
		return im.decodeCompressed(e)
	}
	m := mapping{kind: kindData, copied: e&entryCopied != 0, host: int64(e & entryOffset)}
	if e&entryZero != 0 {
		m.kind = kindZero
	}
	switch {
	case e&^(entryCopied|entryOffset|entryZero) != 0:
		return m, malformed("L2 entry %#x has reserved bits", e)
	case m.kind == kindZero && im.h.version < 3:
		return m, malformed("L2 entry %#x has the zero flag, in version 2", e)
	case m.host == 0 && (m.copied || m.kind != kindZero):
		return m, malformed("L2 entry %#x refers to the header", e)
	case m.host&(im.h.clusterSize()-1) != 0 || m.host != 0 && m.host >= im.length:
		return m, malformed("L2 entry %#x, in a file of %d bytes", e, im.length)
	}
	return m, nil
}

func (im *Image) decodeCompressed(e uint64) (mapping, error) {
	x := 62 - (im.h.clusterBits - 8)
	off := e & (1<<x - 1)
	sectors := e & (entryCompressed - 1) >> x
	m := mapping{
		kind: kindCompressed, host: int64(off),
		size: int64(sectors+1)*512 - int64(off&511),
	}
	if e&entryCopied != 0 || off >= uint64(im.length) || off < uint64(im.h.clusterSize()) {
		return m, malformed("L2 entry %#x of a compressed cluster, in a file of %d bytes", e, im.length)
	}
	return m, nil
}

// table returns the L2 table that has the disk's cluster g, and the number of
// its L1 entry. Where there is none off is 0. It is ours if it may be written.
func (im *Image) table(g int64) (index int, off int64, ours bool, err error) {
	index = int(g >> (im.h.clusterBits - 3))
	e := im.l1[index] // the header's check: it covers the disk
	if e == 0 {
		return index, 0, false, nil
	}
	off, err = im.tableOffset("L2 table", e&^entryCopied)
	return index, off, e&entryCopied != 0, err
}

// place is where cluster g's L2 entry is: the slice's offset in the file, and the
// entry's number in the slice. The offset is 0 where there is no table.
func (im *Image) place(g int64) (off int64, at int, err error) {
	_, table, _, err := im.table(g)
	if err != nil || table == 0 {
		return 0, 0, err
	}
	in := g << 3 & (im.h.clusterSize() - 1) // bytes into the table
	return table + in&^int64(im.l2.size-1), int(in) & (im.l2.size - 1) / 8, nil
}

// entries returns the slice that has cluster g's entry, of a table that is
// there, and the number of the entry in it. The slice is valid until the next
// call that may load another.
func (im *Image) entries(g int64) (s *slice, at int, err error) {
	off, at, err := im.place(g)
	if err != nil {
		return nil, 0, err
	}
	if s = im.l2.get(off); s != nil {
		return s, at, nil
	}
	if old := im.l2.victim(); old != nil && old.dirty {
		// A dirty slice may only be written in a commit, which takes all.
		if err := im.commit(); err != nil {
			return nil, 0, err
		}
	}
	s, err = im.l2.add(off, func(p []byte) error { return im.readMeta(p, off) })
	return s, at, err
}

func (s *slice) entry(at int) uint64 { return binary.BigEndian.Uint64(s.data[at*8:]) }

func (s *slice) set(at int, e uint64) { binary.BigEndian.PutUint64(s.data[at*8:], e) }

// lookup returns what is at the disk's cluster g.
func (im *Image) lookup(g int64) (mapping, error) {
	off, at, err := im.place(g)
	if err != nil || off == 0 {
		return mapping{}, err
	}
	s := im.l2.get(off)
	if s == nil {
		if s, _, err = im.entries(g); err != nil {
			// Reading does not depend on what cannot be written.
			s = &slice{data: make([]byte, im.l2.size)}
			if err := im.readMeta(s.data, off); err != nil {
				return mapping{}, err
			}
		}
	}
	return im.decode(s.entry(at))
}

// extent returns what is at off of the disk, and how many of n bytes from there
// are like it: zeros, or data in one piece in the file.
func (im *Image) extent(off, n int64) (mapping, int64, error) {
	g, in := off>>im.h.clusterBits, off&(im.h.clusterSize()-1)
	m, err := im.lookup(g)
	if err != nil {
		return m, 0, err
	}
	have := im.h.clusterSize() - in
	for k := int64(1); have < n && m.kind != kindCompressed; k++ {
		next, err := im.lookup(g + k)
		if err != nil {
			break // it is reported when it is reached
		}
		if m.zeros() != next.zeros() || next.kind == kindCompressed ||
			!m.zeros() && next.host != m.host+k<<im.h.clusterBits {
			break
		}
		have += im.h.clusterSize()
	}
	return m, min(have, n), nil
}
