package qcow2

import (
	"encoding/binary"
	"fmt"
)

// counts returns the slice of a refcount block that has cluster c's count, the
// number of the count in it, and how many counts there are from it on. The
// cluster's block is there. The slice is valid until the next call.
func (im *Image) counts(c int64) (s *slice, at, left int64, err error) {
	block, err := im.tableOffset("refcount block", im.refTable[c/im.perBlock])
	if err != nil {
		return nil, 0, 0, err
	}
	perSlice := int64(im.refs.size) * 8 >> im.h.refOrder
	in := c % im.perBlock
	off := block + in/perSlice*int64(im.refs.size)
	at = in % perSlice
	if s = im.refs.get(off); s != nil {
		return s, at, perSlice - at, nil
	}
	// Unlike an L2 slice, one of counts may be written at any time: a reference
	// is counted before it is made and still counted when it is gone.
	if old := im.refs.victim(); old != nil && old.dirty {
		if err := im.writeSlice(&im.refs, old); err != nil {
			return nil, 0, 0, err
		}
	}
	s, err = im.refs.add(off, func(p []byte) error { return im.readMeta(p, off) })
	return s, at, perSlice - at, err
}

func (im *Image) writeSlice(c *cache, s *slice) error {
	if err := im.writeMeta(s.data, s.off); err != nil {
		return err
	}
	c.mark(s, false)
	return nil
}

// count is the reference count at entry at of s. Entries of less than a byte
// begin at its least significant bit.
func (im *Image) count(s *slice, at int64) uint64 {
	switch order := im.h.refOrder; order {
	case 3:
		return uint64(s.data[at])
	case 4:
		return uint64(binary.BigEndian.Uint16(s.data[at*2:]))
	case 5:
		return uint64(binary.BigEndian.Uint32(s.data[at*4:]))
	case 6:
		return binary.BigEndian.Uint64(s.data[at*8:])
	default:
		width := int64(1) << order
		return uint64(s.data[at*width/8] >> (at * width % 8) & (1<<width - 1))
	}
}

func (im *Image) setCount(s *slice, at int64, n uint64) {
	switch order := im.h.refOrder; order {
	case 3:
		s.data[at] = byte(n)
	case 4:
		binary.BigEndian.PutUint16(s.data[at*2:], uint16(n))
	case 5:
		binary.BigEndian.PutUint32(s.data[at*4:], uint32(n))
	case 6:
		binary.BigEndian.PutUint64(s.data[at*8:], n)
	default:
		width := int64(1) << order
		shift := at * width % 8
		p := &s.data[at*width/8]
		*p = *p&^((1<<width-1)<<shift) | byte(n)<<shift
	}
}

// addRefBlock makes cluster c, which no block counts yet, the block that counts
// it.
func (im *Image) addRefBlock(c int64) error {
	if im.tables.meets(run{c, 1}) {
		return im.fail(malformed("a table at %d has no reference count: %s", c<<im.h.clusterBits, remedyCheck))
	}
	if err := im.zeroCluster(c); err != nil {
		return err
	}
	off := c << im.h.clusterBits
	index := int(c / im.perBlock)
	im.refTable[index] = uint64(off)
	s, at, _, err := im.counts(c)
	if err != nil {
		im.refTable[index] = 0
		return err
	}
	im.setCount(s, at, 1)
	im.refs.mark(s, true)
	im.dirtyRef = append(im.dirtyRef, index)
	im.tables.insert(c)
	im.hint = c + 1
	return nil
}

// zeroCluster makes a free cluster of the file read as zeros.
func (im *Image) zeroCluster(c int64) error {
	fresh := c >= im.end() && !im.device
	if err := im.growTo(c + 1); err != nil || fresh {
		return err
	}
	im.iov = appendZeros(im.iov[:0], im.h.clusterSize())
	_, err := im.write(im.iov, c<<im.h.clusterBits)
	return err
}

// growRefTable makes a longer refcount table, so that it has an entry for block.
// The new table lies at the file's end, with the blocks that count it:
//
//	table, k clusters | m blocks
//
// None of it exists until the header refers to it, in one write.
func (im *Image) growRefTable(block int64) error {
	// A clean state makes what follows independent of everything before.
	if err := im.commit(); err != nil {
		return err
	}
	bits := im.h.clusterBits
	start := max(im.end(), block*im.perBlock)
	first := start / im.perBlock // blocks from here on do not exist
	entries := int64(min(len(im.refTable)*3/2, maxRefTableBytes/8))
	k, m := int64(0), int64(1)
	for {
		entries = max(entries, (start+k+m-1)/im.perBlock+1)
		newK := im.h.roundUp(entries*8) >> bits
		newM := (start+newK+m-1)/im.perBlock - first + 1
		if newK<<bits > maxRefTableBytes || (start+newK+newM)<<bits > maxHostOffset {
			return fmt.Errorf("%w: its file has %d clusters of %d bytes; make a copy with larger ones: `qemu-img convert -O qcow2 -o cluster_size=2M IMAGE COPY`",
				ErrFull, start, im.h.clusterSize())
		}
		if newK == k && newM == m {
			break
		}
		k, m = newK, newM
	}
	if err := im.growTo(start + k + m); err != nil {
		return err
	}
	table := make([]uint64, k<<bits/8)
	copy(table, im.refTable)
	if err := im.writeNewBlocks(table, start, k, m); err != nil {
		return err
	}
	if err := im.writeNewTable(table, start); err != nil {
		return err
	}
	if err := im.barrier(); err != nil {
		return err
	}
	var field [12]byte // refcount_table_offset, refcount_table_clusters
	binary.BigEndian.PutUint64(field[:], uint64(start<<bits))
	binary.BigEndian.PutUint32(field[8:], uint32(k))
	if err := im.writeMeta(field[:], offRefcountTable); err != nil {
		return im.fail(err) // either table may be the one
	}
	// The next commit's first barrier is early enough for the header: nothing
	// refers to what only the new table counts, and the old one is still there.
	for i := range k + m {
		im.tables.insert(start + i)
	}
	old := run{im.h.refTableOffset >> bits, im.h.refTableClusters}
	for i := range old.n {
		im.tables.remove(old.first + i)
	}
	im.refTable, im.h.refTableOffset, im.h.refTableClusters = table, start<<bits, k
	im.giveUp(old.first, old.n)
	return nil
}

// writeNewBlocks writes the m blocks after a new table of k clusters at start,
// which count the table and themselves, and enters them in the table.
func (im *Image) writeNewBlocks(table []uint64, start, k, m int64) error {
	first := start / im.perBlock
	block := &slice{data: make([]byte, im.h.clusterSize())}
	for i := range m {
		clear(block.data)
		from := (first + i) * im.perBlock
		for c := max(from, start); c < min(from+im.perBlock, start+k+m); c++ {
			im.setCount(block, c-from, 1)
		}
		off := (start + k + i) << im.h.clusterBits
		if err := im.writeMeta(block.data, off); err != nil {
			return err
		}
		table[first+i] = uint64(off)
	}
	return nil
}

func (im *Image) writeNewTable(table []uint64, start int64) error {
	p := make([]byte, im.h.clusterSize())
	for off := start << im.h.clusterBits; len(table) > 0; off += int64(len(p)) {
		for i := range len(p) / 8 {
			binary.BigEndian.PutUint64(p[i*8:], table[i])
		}
		if err := im.writeMeta(p, off); err != nil {
			return err
		}
		table = table[len(p)/8:]
	}
	return nil
}
