package qcow2

import (
	"encoding/binary"
	"slices"
)

// Sync makes everything that was written durable.
func (im *Image) Sync() error {
	im.mu.Lock()
	defer im.mu.Unlock()
	if err := im.check(0, 0); err != nil {
		return wrap("sync", err)
	}
	if im.readOnly {
		return nil
	}
	return wrap("sync", im.sync())
}

func (im *Image) sync() error {
	if im.failed != nil {
		return im.failed
	}
	if err := im.commit(); err != nil {
		return err
	}
	return im.barrier()
}

// commit brings the tables in the file up to date, such that a crash at any
// moment, after which any of the writes since the last barrier may be lost,
// leaves an image in which at worst clusters are counted that nobody uses:
//
//  1. counts of new references, and blocks of counts; barrier
//  2. the refcount table's references to new blocks; barrier
//  3. references to clusters: L2 entries, and L1 entries; barrier
//  4. counts of references that step 3 removed. Only now may the clusters be
//     used again.
//
// Data and the first content of new tables were written before step 1, to
// clusters that nothing refers to until step 3. Step 3 needs no order within
// itself, because a new L2 table's first content is what the disk had before.
//
// A commit may come at any moment, even in the midst of an allocation.
func (im *Image) commit() error {
	if im.l2.dirty == 0 && len(im.dirtyL1) == 0 && len(im.dirtyRef) == 0 && im.refs.dirty == 0 && len(im.pending) == 0 {
		return nil
	}
	if err := im.writeCounts(); err != nil {
		return err
	}
	if len(im.dirtyRef) > 0 {
		if err := im.barrier(); err != nil {
			return err
		}
		if err := im.writeEntries(&im.dirtyRef, im.refTable, im.h.refTableOffset); err != nil {
			return err
		}
	}
	if im.l2.dirty > 0 || len(im.dirtyL1) > 0 {
		if err := im.barrier(); err != nil {
			return err
		}
		if err := im.l2.each(func(s *slice) error { return im.writeSlice(&im.l2, s) }); err != nil {
			return err
		}
		if err := im.writeEntries(&im.dirtyL1, im.l1, im.h.l1Offset); err != nil {
			return err
		}
	}
	if len(im.pending) == 0 {
		return nil
	}
	if err := im.barrier(); err != nil {
		return err
	}
	return im.dropPending()
}

// barrier makes what was written durable. After a failure there is no telling
// what was: the kernel may have dropped it, and says so only once.
func (im *Image) barrier() error {
	if !im.unsynced {
		return nil
	}
	if err := im.file.flush(); err != nil {
		return im.fail(err)
	}
	im.unsynced = false
	return nil
}

func (im *Image) writeCounts() error {
	return im.refs.each(func(s *slice) error { return im.writeSlice(&im.refs, s) })
}

// writeEntries writes the entries of a table at off whose numbers are in dirty,
// which it empties.
func (im *Image) writeEntries(dirty *[]int, table []uint64, off int64) error {
	slices.Sort(*dirty)
	list := slices.Compact(*dirty)
	var p [512]byte
	for i := 0; i < len(list); {
		n := 0
		for ; n < len(p)/8 && i+n < len(list) && list[i+n] == list[i]+n; n++ {
			binary.BigEndian.PutUint64(p[n*8:], table[list[i]+n])
		}
		if err := im.writeMeta(p[:n*8], off+int64(list[i])*8); err != nil {
			return err
		}
		i += n
	}
	*dirty = (*dirty)[:0]
	return nil
}

// dropPending counts the references that are gone from the file, and gives the
// space of what became free back to the file system.
func (im *Image) dropPending() error {
	for len(im.pending) > 0 {
		r := im.pending[len(im.pending)-1]
		im.pending = im.pending[:len(im.pending)-1] // if it fails, it leaks
		var hole run
		err := im.dropRefs(r, func(c int64) {
			if hole.n > 0 && hole.first+hole.n == c {
				hole.n++
				return
			}
			im.punch(hole)
			hole = run{c, 1}
		})
		im.punch(hole)
		if err != nil {
			return err
		}
	}
	if err := im.writeCounts(); err != nil {
		return err
	}
	// Nothing depends on it: if it is lost, clusters leak. Before one of them is
	// used again its count is written again.
	im.unsynced = false
	return nil
}

func (im *Image) punch(r run) {
	off, n := r.first<<im.h.clusterBits, r.n<<im.h.clusterBits
	if n = min(n, im.length-off); n > 0 {
		im.file.punch(off, n)
	}
}
