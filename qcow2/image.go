package qcow2

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
)

// Image is an open disk image. Its methods may be called from several
// goroutines; they take turns.
type Image struct {
	h        header // the refcount table's place changes when it grows
	readOnly bool

	mu     sync.Mutex // guards everything below
	file   storage
	length int64 // of the file, in bytes
	device bool  // the file is a block device and cannot grow
	closed bool
	failed error // why nothing may be written any more

	l1 []uint64 // the active L1 table
	l2 cache    // of L2 tables
	alloc

	dirtyL1  []int // entries that differ from the file's
	unsynced bool  // something was written since the last barrier
	begun    bool  // the autoclear bits are clear

	inflater inflater

	// Scratch, reused by every request.
	iov     [][]byte
	old     []mapping
	cowHead []byte
	cowTail []byte
}

// Open returns the disk in f, which is a regular file or a block device and
// stays the caller's to close, after the image. The image is read-only if
// readOnly is set or f was opened so. Nothing is written before the first write
// to the disk.
//
// Opening an image that is marked as dirty or corrupt for writing gives
// ErrRepair; for reading it succeeds.
func Open(f *os.File, readOnly bool) (*Image, error) {
	s, length, writable, err := openStorage(f)
	if err != nil {
		return nil, wrap("open", err)
	}
	im, err := open(s, length, readOnly || !writable)
	if err != nil {
		return nil, wrap("open", err)
	}
	im.device = s.device
	return im, nil
}

func open(s storage, length int64, readOnly bool) (*Image, error) {
	if length > maxHostOffset {
		return nil, malformed("file of %d bytes", length)
	}
	im := &Image{file: s, length: length, readOnly: readOnly}
	p := make([]byte, min(headerMax, length))
	if err := im.readMeta(p, 0); err != nil {
		return nil, err
	}
	var err error
	if im.h, err = parseHeader(p, length); err != nil {
		return nil, err
	}
	if !readOnly {
		switch {
		case im.h.corrupt:
			return nil, fmt.Errorf("%w: it is marked as corrupt: %s", ErrRepair, remedyCheck)
		case im.h.dirty:
			return nil, fmt.Errorf("%w: it is marked as dirty, its reference counts may be wrong: %s", ErrRepair, remedyCheck)
		}
	}
	im.l2 = newCache(im.h.clusterSize(), l2CacheBytes)
	if im.l1, err = im.readTable(im.h.l1Offset, im.h.l1Entries); err != nil {
		return nil, err
	}
	if !readOnly {
		err = im.openAlloc()
	}
	return im, err
}

// readTable reads a table of 64-bit entries, whose size was checked.
func (im *Image) readTable(off int64, entries int) ([]uint64, error) {
	table := make([]uint64, entries)
	p := make([]byte, min(entries*8, 64<<10))
	for done := 0; done < entries; {
		n := min(len(p)/8, entries-done)
		if err := im.readMeta(p[:n*8], off+int64(done)*8); err != nil {
			return nil, err
		}
		for i := range n {
			table[done+i] = binary.BigEndian.Uint64(p[i*8:])
		}
		done += n
	}
	return table, nil
}

// readMeta fills p from off. What is beyond the file's end, within a cluster
// that begins before it, is zeros.
func (im *Image) readMeta(p []byte, off int64) error {
	n := min(max(im.length-off, 0), int64(len(p)))
	clear(p[n:])
	if n == 0 {
		return nil
	}
	_, err := im.file.preadv([][]byte{p[:n]}, off)
	return err
}

// write writes bufs at off in the file.
func (im *Image) write(bufs [][]byte, off int64) (int, error) {
	im.unsynced = true
	n, err := im.file.pwritev(bufs, off)
	im.length = max(im.length, off+int64(n))
	return n, err
}

// writeMeta writes p at off in the file.
func (im *Image) writeMeta(p []byte, off int64) error {
	_, err := im.write([][]byte{p}, off)
	return err
}

// Size is the size of the disk in bytes.
func (im *Image) Size() int64 { return im.h.size }

// ClusterSize is the unit of allocation in bytes. A discard of less does
// nothing.
func (im *Image) ClusterSize() int64 { return im.h.clusterSize() }

// ReadOnly reports whether writes are refused.
func (im *Image) ReadOnly() bool { return im.readOnly }

// check looks at a request of n bytes at off.
func (im *Image) check(off, n int64) error {
	if im.closed {
		return os.ErrClosed
	}
	if off < 0 || n < 0 || off > im.h.size || n > im.h.size-off {
		return fmt.Errorf("%d bytes at %d: %w of %d bytes", n, off, ErrRange, im.h.size)
	}
	return nil
}

// checkWrite looks at a request that changes the disk, and prepares the image
// for the first of them.
func (im *Image) checkWrite(off, n int64) error {
	if err := im.check(off, n); err != nil {
		return err
	}
	if im.readOnly {
		return ErrReadOnly
	}
	if im.failed != nil {
		return im.failed
	}
	return im.begin()
}

// begin clears the autoclear bits: they vouch for what we do not keep up to
// date ("Header", autoclear_features).
func (im *Image) begin() error {
	if im.begun {
		return nil
	}
	if im.h.autoclear != 0 {
		if err := im.writeMeta(make([]byte, 8), offAutoclear); err != nil {
			return err
		}
		if err := im.barrier(); err != nil {
			return err
		}
	}
	im.begun = true
	return nil
}

// fail makes err the answer to every further write: the image's tables cannot be
// trusted, or not what the host says about them.
func (im *Image) fail(err error) error {
	if im.failed == nil {
		im.failed = fmt.Errorf("image can no longer be written to: %w", err)
	}
	return err
}

// Close makes everything durable and lets go of the file, which it does not
// close. It may be called again.
func (im *Image) Close() error {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.closed {
		return nil
	}
	var err error
	if !im.readOnly {
		if err = im.sync(); err == nil {
			im.unsynced = im.begun // counts of what was freed, too
			err = im.barrier()
		}
	}
	im.closed = true
	im.inflater.close()
	im.l1, im.l2, im.alloc, im.iov = nil, cache{}, alloc{}, nil
	return wrap("close", err)
}

// vec is what is left of a request's buffers. They are not changed, only what
// is in them.
type vec struct {
	bufs [][]byte
	off  int // into the first
}

func (v *vec) append(iov [][]byte, n int) [][]byte {
	for n > 0 {
		p := v.bufs[0][v.off:]
		if len(p) > n {
			v.off += n
			return append(iov, p[:n])
		}
		if len(p) > 0 {
			iov = append(iov, p)
		}
		n -= len(p)
		v.bufs, v.off = v.bufs[1:], 0
	}
	return iov
}

func (v *vec) zero(n int) {
	for n > 0 {
		p := v.bufs[0][v.off:]
		p = p[:min(len(p), n)]
		clear(p)
		v.skip(len(p))
		n -= len(p)
	}
}

func (v *vec) copyFrom(src []byte) {
	for len(src) > 0 {
		n := copy(v.bufs[0][v.off:], src)
		v.skip(n)
		src = src[n:]
	}
}

// skip passes n bytes of the first buffer, and buffers that are used up.
func (v *vec) skip(n int) {
	v.off += n
	for len(v.bufs) > 0 && v.off == len(v.bufs[0]) {
		v.bufs, v.off = v.bufs[1:], 0
	}
}

func total(bufs [][]byte) int64 {
	n := int64(0)
	for _, p := range bufs {
		n += int64(len(p))
	}
	return n
}

// release forgets the caller's memory.
func (im *Image) release() {
	clear(im.iov[:cap(im.iov)])
	im.iov = im.iov[:0]
}
