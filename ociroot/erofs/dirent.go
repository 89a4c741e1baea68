package erofs

import (
	"bytes"
	"encoding/binary"
)

// dirPacker lays a directory's entries out in blocks: each holds the fixed parts
// of its entries first, then their names. Entries come in bytewise order, "."
// and ".." among the others, as the kernel searches in it.
type dirPacker struct {
	used int   // bytes of the current block
	full int64 // blocks before it

	// emit receives each block that others follow, if it is set.
	emit  func(block []byte) error
	fixed []byte // nid, name offset within names, type
	names []byte
	block [blockSize]byte
}

func (p *dirPacker) reset() {
	p.used, p.full = 0, 0
	p.fixed, p.names = p.fixed[:0], p.names[:0]
}

// add appends an entry. Without emit, only sizes are counted.
func (p *dirPacker) add(name []byte, nid uint32, typ byte) error {
	n := direntSize + len(name)
	if p.used+n > blockSize {
		if p.emit != nil {
			if err := p.emit(p.finish()); err != nil {
				return err
			}
		}
		p.used = 0
		p.full++
		p.fixed, p.names = p.fixed[:0], p.names[:0]
	}
	p.used += n
	if p.emit != nil {
		p.fixed = binary.LittleEndian.AppendUint64(p.fixed, uint64(nid))
		p.fixed = binary.LittleEndian.AppendUint16(p.fixed, uint16(len(p.names)))
		p.fixed = append(p.fixed, typ, 0)
		p.names = append(p.names, name...)
	}
	return nil
}

// size is that of the directory: of the last block only what is used counts.
func (p *dirPacker) size() int64 { return p.full*blockSize + int64(p.used) }

// finish returns the current block, zeros behind its last name; valid until the
// next call.
func (p *dirPacker) finish() []byte {
	b := p.block[:]
	n := copy(b, p.fixed)
	for i := 8; i < n; i += direntSize {
		off := binary.LittleEndian.Uint16(b[i:])
		binary.LittleEndian.PutUint16(b[i:], off+uint16(n))
	}
	n += copy(b[n:], p.names)
	clear(b[n:])
	return b
}

// tail returns what the last block holds.
func (p *dirPacker) tail() []byte { return p.finish()[:p.used] }

// Lister says what is in a directory: it yields the names, in bytewise order and
// without "." and "..", until yield returns false. It is called three times for
// each directory and says the same each time. The name is not kept.
type Lister func(dir NodeID, yield func(name []byte, child NodeID) bool)

var dot, dotdot = []byte("."), []byte("..")

// eachEntry calls f for every entry of a directory, and for its own "." and "..",
// with listed false.
func (w *Writer) eachEntry(list Lister, dir, parent NodeID, f func(name []byte, id NodeID, listed bool) error) error {
	own := [2]struct {
		name []byte
		id   NodeID
	}{{dot, dir}, {dotdot, parent}}
	next := 0
	var err error
	list(dir, func(name []byte, child NodeID) bool {
		for ; next < 2 && bytes.Compare(own[next].name, name) < 0; next++ {
			if err = f(own[next].name, own[next].id, false); err != nil {
				return false
			}
		}
		err = f(name, child, true)
		return err == nil
	})
	for ; err == nil && next < 2; next++ {
		err = f(own[next].name, own[next].id, false)
	}
	return err
}

// checkName refuses what no directory can hold.
func checkName(op string, name []byte) error {
	if len(name) == 0 || len(name) > nameMax || bytes.IndexByte(name, '/') >= 0 || bytes.IndexByte(name, 0) >= 0 ||
		bytes.Equal(name, dot) || bytes.Equal(name, dotdot) {
		return invalid(op, "name %.300q", name)
	}
	return nil
}
