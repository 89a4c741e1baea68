package guestmem

import (
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// hugePage is the size that regions are aligned to in this process, so that
// the kernel can back them with huge pages and KVM can map those as one.
const hugePage = 2 << 20

// NewAnonymous returns zeroed guest RAM that is this process's alone. Nothing
// is allocated before it is touched, and what is touched comes in huge pages
// where the kernel has them (/sys/kernel/mm/transparent_hugepage/enabled is
// "madvise" or "always", as it is by default).
//
// A guest touches thousands of pages while it boots. Each small one costs an
// exit to the host's kernel, which allocates, zeroes and maps it; a memfd has
// small ones only unless the administrator changed shmem_enabled. Use
// [NewMemfd] where another process is to see the memory.
func NewAnonymous(ranges ...Range) (*Memory, error) {
	m, err := newMemory(ranges)
	if err != nil {
		return nil, err
	}
	for i := range m.regions {
		r := &m.regions[i]
		if r.Size > math.MaxInt-hugePage {
			return nil, errors.Join(&Error{"mmap", r.Range, fmt.Errorf("%d bytes: %w", r.Size, ErrInvalidRange)}, m.Close())
		}
		whole, err := unix.Mmap(-1, 0, int(r.Size)+hugePage, unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		if err != nil {
			return nil, errors.Join(&Error{"mmap", r.Range, err}, m.Close())
		}
		m.maps = append(m.maps, whole)
		skip := -address(whole) & (hugePage - 1)
		r.data = whole[skip : skip+uintptr(r.Size) : skip+uintptr(r.Size)]
		// Advice that an old kernel does not know costs speed or a larger core
		// dump, nothing else.
		_ = unix.Madvise(r.data, unix.MADV_HUGEPAGE)
		_ = unix.Madvise(r.data, unix.MADV_DONTDUMP)
	}
	return m, nil
}

// discardAnonymous frees pages: they read as zeros when touched next
// (madvise(2), MADV_DONTNEED on private anonymous memory).
func discardAnonymous(p []byte) error {
	for {
		err := unix.Madvise(p, unix.MADV_DONTNEED)
		if err != unix.EINTR {
			return err
		}
	}
}
