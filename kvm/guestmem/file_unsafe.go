package guestmem

import (
	"errors"
	"fmt"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// NewFile maps a file for guests to read at r.Base: every process that maps it
// has the same physical pages, those of the page cache. Nothing is read before
// it is touched. What lies beyond the file's end, up to r.Size, reads as zeros;
// the file must not be made shorter while it is mapped.
//
// It is for reading: a write by this process, through Bytes or a Window, is a
// fault, and a guest must have it with KVM_MEM_READONLY. Discard fails.
func NewFile(f *os.File, r Range) (*Memory, error) {
	m, err := newMemory([]Range{r})
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, &Error{"stat", r, err}
	}
	if r.Size > math.MaxInt {
		return nil, &Error{"mmap", r, fmt.Errorf("%d bytes: %w", r.Size, ErrInvalidRange)}
	}
	// First all of it, then the file over its part: the addresses stay ours
	// throughout.
	whole, err := unix.Mmap(-1, 0, int(r.Size), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, &Error{"mmap", r, err}
	}
	m.maps = append(m.maps, whole)
	m.readOnly = true
	if n := min(info.Size(), int64(r.Size)); n > 0 {
		// SAFETY: [whole, whole+n) is the mapping made above, which nothing
		// uses yet; MAP_FIXED replaces it in place, and m.maps unmaps both.
		_, err = unix.MmapPtr(int(f.Fd()), 0, unsafe.Pointer(unsafe.SliceData(whole)), uintptr(n),
			unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_FIXED)
		if err != nil {
			return nil, errors.Join(&Error{"mmap " + f.Name(), r, err}, m.Close())
		}
	}
	_ = unix.Madvise(whole, unix.MADV_DONTDUMP)
	m.regions[0].data = whole
	return m, nil
}
