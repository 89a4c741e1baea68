package guestmem

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// NewMemfd returns zeroed guest RAM in one memfd called name, which shows in
// /proc/PID/maps. Regions lie one after the other in the file, in ascending
// order of address, and are mapped shared, so that another process that gets
// [Memory.File] sees the same bytes. Nothing is allocated before it is touched.
//
// The file's size is sealed: were it truncated, by whoever else holds the
// descriptor, our next access would be a SIGBUS. It is marked not executable
// where the kernel can do that (Linux 6.3), and is left out of core dumps.
//
// Huge pages are not asked for: most hosts have none for files in memory. See
// [Memory.AdviseHugePages], and [NewAnonymous] for memory that need not be
// shared.
func NewMemfd(name string, ranges ...Range) (*Memory, error) {
	m, err := newMemory(ranges)
	if err != nil {
		return nil, err
	}
	if m.size > math.MaxInt64 {
		return nil, &Error{Op: "memfd_create", Err: fmt.Errorf("%d bytes: %w", m.size, ErrInvalidRange)}
	}
	if m.file, err = createMemfd(name, int64(m.size)); err != nil {
		return nil, err
	}
	var off int64
	for i := range m.regions {
		r := &m.regions[i]
		r.FileOffset = off
		off += int64(r.Size)
		if r.data, err = mapRegion(m.file, r); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	return m, nil
}

func createMemfd(name string, size int64) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, &Error{Op: "memfd_create", Err: err}
	}
	f := os.NewFile(uintptr(fd), "memfd:"+name)
	err = f.Truncate(size)
	if err != nil {
		f.Close()
		return nil, &Error{Op: fmt.Sprintf("sizing a memfd to %d bytes", size), Err: err}
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW); err != nil {
		f.Close()
		return nil, &Error{Op: "sealing a memfd", Err: err}
	}
	return f, nil
}

func mapRegion(f *os.File, r *Region) ([]byte, error) {
	b, err := unix.Mmap(int(f.Fd()), r.FileOffset, int(r.Size),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, &Error{"mmap", r.Range, err}
	}
	// What is in guest RAM is the guest's, and huge; a kernel without the
	// advice only dumps more.
	_ = unix.Madvise(b, unix.MADV_DONTDUMP)
	return b, nil
}

// AdviseHugePages asks the kernel to back the memory with huge pages. It needs
// /sys/kernel/mm/transparent_hugepage/shmem_enabled to be "advise" or more.
// It helps guests that touch most of their RAM, and costs the others memory.
func (m *Memory) AdviseHugePages() error {
	for i := range m.regions {
		r := &m.regions[i]
		if err := unix.Madvise(r.data, unix.MADV_HUGEPAGE); err != nil {
			return &Error{"madvise(MADV_HUGEPAGE)", r.Range, err}
		}
	}
	return nil
}

// Discard gives the pages of r back to the host. The guest may go on using
// them: it reads zeros next. The range must be page-aligned and lie inside one
// region; the heap keeps its memory.
func (m *Memory) Discard(r Range) error {
	if uint64(r.Base)%PageSize != 0 || r.Size%PageSize != 0 {
		return &Error{"discard", r, ErrUnaligned}
	}
	reg, ok := m.find(r.Base, r.Size)
	if !ok {
		return &Error{"discard", r, ErrOutOfRange}
	}
	off := uint64(r.Base - reg.Base)
	switch {
	case r.Size == 0:
		return nil
	case m.readOnly:
		return &Error{"discard", r, ErrReadOnly}
	case m.maps != nil:
		if err := discardAnonymous(reg.data[off : off+r.Size]); err != nil {
			return &Error{"discard", r, err}
		}
		return nil
	case m.file == nil:
		clear(reg.data[off : off+r.Size])
		return nil
	}
	for {
		err := unix.Fallocate(int(m.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
			reg.FileOffset+int64(off), int64(r.Size))
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return &Error{"discard", r, err}
		}
	}
}

// Close unmaps the memory and closes its memfd. Slices and windows obtained
// before must not be used any more; accesses through m fail with ErrOutOfRange.
// A second Close does nothing.
func (m *Memory) Close() error {
	var errs []error
	if m.file != nil {
		for i := range m.regions {
			if r := &m.regions[i]; r.data != nil {
				if err := unix.Munmap(r.data); err != nil {
					errs = append(errs, &Error{"munmap", r.Range, err})
				}
			}
		}
		if err := m.file.Close(); err != nil {
			errs = append(errs, &Error{Op: "close", Err: err})
		}
	}
	for _, whole := range m.maps {
		if err := unix.Munmap(whole); err != nil {
			errs = append(errs, &Error{Op: "munmap", Err: err})
		}
	}
	m.regions, m.file, m.maps, m.size = nil, nil, nil, 0
	return errors.Join(errs...)
}
