package qcow2

// PwriteV writes bufs at off of the disk. The count is how many bytes were
// written before an error.
func (im *Image) PwriteV(bufs [][]byte, off int64) (int, error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	n := total(bufs)
	if err := im.checkWrite(off, n); err != nil {
		return 0, wrap("write", err)
	}
	defer im.release()
	v := vec{bufs: bufs}
	done, err := im.writeAll(&v, off, n)
	return int(done), wrap("write", err)
}

// writeAll writes n bytes of v at off.
func (im *Image) writeAll(v *vec, off, n int64) (int64, error) {
	done := int64(0)
	for done < n {
		k, err := im.writeSome(v, off+done, n-done)
		done += k
		if err == nil && len(im.pending) >= maxPending {
			err = im.commit()
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// writeSome writes some of n bytes at off, as far as they go to one place.
func (im *Image) writeSome(v *vec, off, n int64) (int64, error) {
	bits := im.h.clusterBits
	g, in := off>>bits, off&(im.h.clusterSize()-1)
	if err := im.ownTable(g); err != nil {
		return 0, err
	}
	m, err := im.lookup(g)
	if err != nil {
		return 0, err
	}
	// All of it is described by one slice of an L2 table.
	perSlice := int64(im.l2.size / 8)
	clusters := min((in+n-1)>>bits+1, perSlice-g&(perSlice-1))
	n = min(n, clusters<<bits-in)
	if m.inPlace() {
		return im.overwrite(v, g, in, n, m)
	}

	im.old = append(im.old[:0], m)
	for k := int64(1); k < clusters; k++ {
		next, err := im.lookup(g + k)
		if err != nil || next.inPlace() || next.reserved() != m.reserved() ||
			m.reserved() && next.host != m.host+k<<bits {
			break // an error is reported when it is reached
		}
		im.old = append(im.old, next)
	}
	clusters = int64(len(im.old))
	n = min(n, clusters<<bits-in)
	if m.reserved() {
		r := run{m.host >> bits, clusters}
		if im.tables.meets(r) {
			return 0, malformed("a table at %d is a cluster of the disk too", m.host)
		}
		return im.fill(v, g, in, n, r, false)
	}
	r, clean, err := im.allocate(clusters)
	if err != nil {
		return 0, err
	}
	im.old = im.old[:r.n]
	n, err = im.fill(v, g, in, min(n, r.n<<bits-in), r, clean)
	if err != nil {
		im.giveBack(r)
	}
	return n, err
}

// overwrite writes to clusters that nobody else refers to.
func (im *Image) overwrite(v *vec, g, in, n int64, m mapping) (int64, error) {
	bits := im.h.clusterBits
	have := int64(1)
	for have<<bits < in+n {
		next, err := im.lookup(g + have)
		if err != nil || !next.inPlace() || next.host != m.host+have<<bits {
			break
		}
		have++
	}
	if im.tables.meets(run{m.host >> bits, have}) {
		return 0, malformed("a table at %d to %d is a cluster of the disk too", m.host, m.host+have<<bits)
	}
	n = min(n, have<<bits-in)
	im.iov = v.append(im.iov[:0], int(n))
	k, err := im.write(im.iov, m.host+in)
	return int64(k), err
}

// fill writes n bytes of v to the clusters r of the file, in bytes into the
// first, together with what else the disk has in these clusters, and makes them
// the disk's clusters from g on. im.old is what was there. If clean, r reads as
// zeros.
func (im *Image) fill(v *vec, g, in, n int64, r run, clean bool) (int64, error) {
	start := r.first << im.h.clusterBits
	iov := im.iov[:0]
	if head := in; head > 0 {
		switch first := im.old[0]; {
		case !first.zeros():
			p, err := im.readOld(&im.cowHead, first, 0, head)
			if err != nil {
				return 0, err
			}
			iov = append(iov, p)
		case clean:
			start += head
		default:
			iov = appendZeros(iov, head)
		}
	}
	iov = v.append(iov, int(n))
	if tail := r.n<<im.h.clusterBits - in - n; tail > 0 {
		switch last := im.old[r.n-1]; {
		case !last.zeros():
			p, err := im.readOld(&im.cowTail, last, im.h.clusterSize()-tail, tail)
			if err != nil {
				return 0, err
			}
			iov = append(iov, p)
		case !clean:
			iov = appendZeros(iov, tail)
		}
	}
	im.iov = iov
	if _, err := im.write(iov, start); err != nil {
		return 0, err
	}
	if err := im.point(g, r, entryCopied); err != nil {
		return 0, err
	}
	return n, nil
}

// readOld reads n bytes from in of a cluster of the disk into *buf.
func (im *Image) readOld(buf *[]byte, m mapping, in, n int64) ([]byte, error) {
	if int64(cap(*buf)) < n {
		*buf = make([]byte, n)
	}
	p := (*buf)[:n]
	return p, im.readCluster(p, m, in)
}

// point makes the clusters r of the file those of the disk from g on, and gives
// up what im.old says was there.
func (im *Image) point(g int64, r run, flags uint64) error {
	s, at, err := im.entries(g)
	if err != nil {
		return err
	}
	for i := range r.n {
		s.set(at+int(i), uint64(r.first+i)<<im.h.clusterBits|flags)
		if m := im.old[i]; m.host != (r.first+i)<<im.h.clusterBits {
			im.giveUpMapping(m)
		}
	}
	im.l2.mark(s, true)
	return nil
}

// ownTable makes sure that the L2 table for cluster g is there and may be
// written.
func (im *Image) ownTable(g int64) error {
	index, old, ours, err := im.table(g)
	if err != nil || ours {
		return err
	}
	r, clean, err := im.allocate(1)
	if err != nil {
		return err
	}
	off := r.first << im.h.clusterBits
	switch {
	case old != 0:
		err = im.copyTable(off, old)
	case !clean:
		err = im.zeroCluster(r.first)
	}
	if err != nil {
		im.giveBack(r)
		return err
	}
	im.l2.drop(off, im.h.clusterSize()) // of what the cluster was before
	im.l1[index] = uint64(off) | entryCopied
	im.dirtyL1 = append(im.dirtyL1, index)
	im.tables.insert(r.first)
	if old != 0 {
		im.tables.remove(old >> im.h.clusterBits)
		im.giveUp(old>>im.h.clusterBits, 1)
	}
	return nil
}

// copyTable copies an L2 table that is shared with a snapshot.
func (im *Image) copyTable(to, from int64) error {
	p := make([]byte, min(im.h.clusterSize(), 64<<10))
	for done := int64(0); done < im.h.clusterSize(); done += int64(len(p)) {
		if err := im.readMeta(p, from+done); err != nil {
			return err
		}
		if err := im.writeMeta(p, to+done); err != nil {
			return err
		}
	}
	return nil
}

// zeros is never written to.
var zeros [64 << 10]byte

func appendZeros(iov [][]byte, n int64) [][]byte {
	for n > 0 {
		k := min(n, int64(len(zeros)))
		iov = append(iov, zeros[:k])
		n -= k
	}
	return iov
}
