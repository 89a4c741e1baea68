package qcow2

// Discard gives up the clusters that lie within the n bytes at off. They read as
// zeros from now on; their space goes back to the file system with the next
// Sync.
func (im *Image) Discard(off, n int64) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	if err := im.checkWrite(off, n); err != nil {
		return wrap("discard", err)
	}
	defer im.release()
	first, last := im.whole(off, n)
	return wrap("discard", im.clearClusters(first, last, true))
}

// WriteZeroes makes the n bytes at off read as zeros. With unmap it gives up the
// clusters that lie within; without, their space stays reserved.
func (im *Image) WriteZeroes(off, n int64, unmap bool) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	if err := im.checkWrite(off, n); err != nil {
		return wrap("write zeroes", err)
	}
	defer im.release()
	first, last := im.whole(off, n)
	bits := im.h.clusterBits
	if first >= last { // within one cluster, or the edges of two
		return wrap("write zeroes", im.writeZeros(off, n))
	}
	if err := im.writeZeros(off, first<<bits-off); err != nil {
		return wrap("write zeroes", err)
	}
	if err := im.clearClusters(first, last, unmap); err != nil {
		return wrap("write zeroes", err)
	}
	if end := last << bits; end < off+n {
		return wrap("write zeroes", im.writeZeros(end, off+n-end))
	}
	return nil
}

// whole returns the disk's clusters that lie within n bytes at off. The last of
// the disk need not be whole.
func (im *Image) whole(off, n int64) (first, last int64) {
	first = im.h.roundUp(off) >> im.h.clusterBits
	if off+n == im.h.size {
		return first, im.h.roundUp(off+n) >> im.h.clusterBits
	}
	return first, (off + n) >> im.h.clusterBits
}

// writeZeros writes zeros, except where there are zeros without a cluster.
func (im *Image) writeZeros(off, n int64) error {
	for n > 0 {
		m, k, err := im.extent(off, n)
		if err != nil {
			return err
		}
		if !m.zeros() {
			k = min(k, int64(len(zeros)))
			v := vec{bufs: [][]byte{zeros[:k]}}
			if _, err := im.writeAll(&v, off, k); err != nil {
				return err
			}
		}
		off, n = off+k, n-k
	}
	return nil
}

// clearClusters makes the disk's clusters from first to before last read as
// zeros.
func (im *Image) clearClusters(first, last int64, unmap bool) error {
	perTable := im.h.clusterSize() / 8
	for g := first; g < last; g++ {
		_, table, _, err := im.table(g)
		if err != nil {
			return err
		}
		if table == 0 {
			g |= perTable - 1 // the last that it would have
			continue
		}
		if err := im.clearCluster(g, unmap); err != nil {
			return err
		}
		if len(im.pending) >= maxPending {
			if err := im.commit(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (im *Image) clearCluster(g int64, unmap bool) error {
	m, err := im.lookup(g)
	if err != nil || m == (mapping{}) || !unmap && m.zeros() {
		return err
	}
	if !unmap && m.inPlace() && im.h.version < 3 {
		off := g << im.h.clusterBits // there is no flag for it
		return im.writeZeros(off, min(im.h.clusterSize(), im.h.size-off))
	}
	if err := im.ownTable(g); err != nil {
		return err
	}
	s, at, err := im.entries(g)
	if err != nil {
		return err
	}
	if !unmap && m.inPlace() {
		s.set(at, s.entry(at)|entryZero)
	} else {
		// Without a backing file, nothing reads as zeros.
		s.set(at, 0)
		im.giveUpMapping(m)
	}
	im.l2.mark(s, true)
	return nil
}
