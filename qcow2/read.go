package qcow2

// PreadV fills bufs from off of the disk. Data moves from the file straight into
// bufs, except out of compressed clusters. The count is how many bytes were
// read before an error.
func (im *Image) PreadV(bufs [][]byte, off int64) (int, error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	n := total(bufs)
	if err := im.check(off, n); err != nil {
		return 0, wrap("read", err)
	}
	defer im.release()
	v := vec{bufs: bufs}
	done := int64(0)
	for done < n {
		k, err := im.readExtent(&v, off+done, n-done)
		done += int64(k)
		if err != nil {
			return int(done), wrap("read", err)
		}
	}
	return int(done), nil
}

// readExtent reads some of n bytes at off, as far as they are of one kind.
func (im *Image) readExtent(v *vec, off, n int64) (int, error) {
	m, n, err := im.extent(off, n)
	if err != nil {
		return 0, err
	}
	in := off & (im.h.clusterSize() - 1)
	switch m.kind {
	case kindData:
		// The file may end within its last cluster; the rest is zeros.
		start := m.host + in
		there := min(n, max(im.length-start, 0))
		im.iov = v.append(im.iov[:0], int(there))
		if k, err := im.file.preadv(im.iov, start); err != nil {
			return k, err
		}
		v.zero(int(n - there))
	case kindCompressed:
		p, err := im.inflate(m)
		if err != nil {
			return 0, err
		}
		v.copyFrom(p[in : in+n])
	default:
		v.zero(int(n))
	}
	return int(n), nil
}

// readCluster fills p from within one cluster of the disk, in bytes into it.
func (im *Image) readCluster(p []byte, m mapping, in int64) error {
	switch m.kind {
	case kindData:
		return im.readMeta(p, m.host+in)
	case kindCompressed:
		plain, err := im.inflate(m)
		if err == nil {
			copy(p, plain[in:])
		}
		return err
	}
	clear(p)
	return nil
}
