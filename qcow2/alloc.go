package qcow2

import (
	"fmt"
	"slices"
)

// alloc is what writing needs beside the mapping: which clusters of the file are
// used ("Host cluster management" in the specification). It embeds in Image.
type alloc struct {
	refTable []uint64
	refs     cache // of refcount blocks
	perBlock int64 // clusters that one block counts

	// Clusters that hold tables in use. Nothing of the disk may be there, and
	// nothing may be allocated there, whatever the tables say.
	tables clusterSet

	hint   int64 // no free cluster is known before this one
	freed  int64 // clusters freed before hint since it was last set back
	lowest int64 // of those

	pending  []run // references given up, but not yet durably
	dirtyRef []int // refcount table entries that differ from the file's
}

// run is n clusters of the file from first on.
type run struct{ first, n int64 }

// maxPending bounds the memory for references that were given up. A commit
// empties the list.
const maxPending = 16 << 10

// openAlloc reads the refcount table and checks that no two tables share a
// cluster: one would be written through the other.
func (im *Image) openAlloc() error {
	h := &im.h
	var err error
	entries := int(h.refTableClusters << h.clusterBits / 8)
	if im.refTable, err = im.readTable(h.refTableOffset, entries); err != nil {
		return err
	}
	im.perBlock = h.clusterSize() * 8 >> h.refOrder
	im.refs = newCache(h.clusterSize(), refCacheBytes)

	im.tables.add(0)
	im.addTables(h.l1Offset, h.roundUp(int64(h.l1Entries)*8)>>h.clusterBits)
	im.addTables(h.refTableOffset, h.refTableClusters)
	if h.snapshots > 0 {
		im.addTables(h.snapshotsOffset, 1)
	}
	for _, e := range im.refTable {
		if e != 0 {
			off, err := im.tableOffset("refcount block", e)
			if err != nil {
				return err
			}
			im.addTables(off, 1)
		}
	}
	for _, e := range im.l1 {
		if e != 0 {
			off, err := im.tableOffset("L2 table", e&^entryCopied)
			if err != nil {
				return err
			}
			im.addTables(off, 1)
		}
	}
	slices.Sort(im.tables)
	for i := 1; i < len(im.tables); i++ {
		if c := im.tables[i]; c == im.tables[i-1] {
			return malformed("two tables at %d: %s", c<<h.clusterBits, remedyCheck)
		}
	}
	return nil
}

func (im *Image) addTables(off, n int64) {
	for i := range n {
		im.tables.add(off>>im.h.clusterBits + i)
	}
}

// end is the number of clusters that the file has, the last maybe in part.
func (im *Image) end() int64 { return im.h.roundUp(im.length) >> im.h.clusterBits }

// allocate finds up to want free clusters in one piece and counts a reference to
// each. They are clean if they are known to read as zeros.
func (im *Image) allocate(want int64) (r run, clean bool, err error) {
	if end := im.end(); im.hint >= end && im.freed > end/8 {
		// Look again from the start, but only after enough was freed that the
		// walk pays: otherwise a driver could make every write cost one.
		im.hint, im.freed = im.lowest, 0
	}
	for {
		c := im.hint
		block := c / im.perBlock
		switch {
		case block >= int64(len(im.refTable)):
			if err := im.growRefTable(block); err != nil {
				return run{}, false, err
			}
			continue
		case c<<im.h.clusterBits >= maxHostOffset-im.h.clusterSize():
			return run{}, false, fmt.Errorf("%w: %d clusters", ErrFull, c)
		case im.refTable[block] == 0:
			if err := im.addRefBlock(c); err != nil {
				return run{}, false, err
			}
			continue
		}
		s, at, left, err := im.counts(c)
		if err != nil {
			return run{}, false, err
		}
		skip := int64(0)
		for skip < left && im.count(s, at+skip) != 0 {
			skip++
		}
		im.hint += skip
		if skip == left {
			continue
		}
		r, clean := run{c + skip, 0}, false
		left -= skip
		if end := im.end(); r.first >= end {
			clean = !im.device
		} else {
			left = min(left, end-r.first)
		}
		for r.n < min(want, left) && im.count(s, at+skip+r.n) == 0 {
			r.n++
		}
		return r, clean, im.take(r, s, at+skip)
	}
}

// take counts a reference to each cluster of r, all free, at entry at of s, and
// makes the file long enough for them.
func (im *Image) take(r run, s *slice, at int64) error {
	if im.tables.meets(r) {
		return im.fail(malformed("a table at %d to %d is counted as free: %s",
			r.first<<im.h.clusterBits, (r.first+r.n)<<im.h.clusterBits, remedyCheck))
	}
	if err := im.growTo(r.first + r.n); err != nil {
		return err
	}
	for i := range r.n {
		im.setCount(s, at+i, 1)
	}
	im.refs.mark(s, true)
	im.hint = r.first + r.n
	return nil
}

// growTo makes the file at least n clusters long.
func (im *Image) growTo(n int64) error {
	size := n << im.h.clusterBits
	if size <= im.length {
		return nil
	}
	im.unsynced = true
	if err := im.file.grow(size); err != nil {
		return err
	}
	im.length = size
	return nil
}

// giveBack undoes an allocation that nothing refers to.
func (im *Image) giveBack(r run) {
	// It was just loaded, so this hardly fails; if it does, clusters leak.
	_ = im.dropRefs(r, func(int64) {})
}

// dropRefs gives up one reference to each cluster of r. It calls freed for those
// that have none left.
func (im *Image) dropRefs(r run, freed func(c int64)) error {
	for c := r.first; c < r.first+r.n; {
		if block := c / im.perBlock; block >= int64(len(im.refTable)) || im.refTable[block] == 0 {
			return im.fail(malformed("a cluster in use at %d has no reference count: %s", c<<im.h.clusterBits, remedyCheck))
		}
		s, at, left, err := im.counts(c)
		if err != nil {
			return err
		}
		for range min(left, r.first+r.n-c) {
			n := im.count(s, at)
			if n == 0 {
				return im.fail(malformed("a cluster in use at %d is counted as free: %s", c<<im.h.clusterBits, remedyCheck))
			}
			im.setCount(s, at, n-1)
			im.refs.mark(s, true)
			if n == 1 {
				freed(c)
				if c < im.hint {
					if im.freed == 0 || c < im.lowest {
						im.lowest = c
					}
					im.freed++
				}
			}
			c, at = c+1, at+1
		}
	}
	return nil
}

// giveUp notes that one reference to each cluster of r is gone from the tables.
// The commit that makes this durable counts it.
func (im *Image) giveUp(first, n int64) {
	if k := len(im.pending) - 1; k >= 0 && im.pending[k].first+im.pending[k].n == first {
		im.pending[k].n += n
		return
	}
	im.pending = append(im.pending, run{first, n})
}

// giveUpMapping is giveUp for what an L2 entry referred to.
func (im *Image) giveUpMapping(m mapping) {
	bits := im.h.clusterBits
	switch {
	case m.kind == kindCompressed:
		// Counted by sectors: the last may lie in the next cluster.
		first := m.host >> bits
		im.giveUp(first, (m.host+m.size-1)>>bits-first+1)
	case m.host != 0:
		im.giveUp(m.host>>bits, 1)
	}
}

// clusterSet is sorted.
type clusterSet []int64

// add appends; the caller sorts.
func (s *clusterSet) add(c int64) { *s = append(*s, c) }

func (s *clusterSet) insert(c int64) {
	if i, found := slices.BinarySearch(*s, c); !found {
		*s = slices.Insert(*s, i, c)
	}
}

func (s *clusterSet) remove(c int64) {
	if i, found := slices.BinarySearch(*s, c); found {
		*s = slices.Delete(*s, i, i+1)
	}
}

// meets reports whether a cluster of r is in the set.
func (s clusterSet) meets(r run) bool {
	i, _ := slices.BinarySearch(s, r.first)
	return i < len(s) && s[i] < r.first+r.n
}
