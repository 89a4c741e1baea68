package guestmem

import (
	"errors"
	"fmt"
)

var (
	// ErrOutOfRange says that an access does not lie inside one region of RAM.
	ErrOutOfRange = errors.New("outside guest memory")
	// ErrUnaligned says that an address or a size is not a multiple of what
	// the operation needs: its own width for atomics, a page for ranges.
	ErrUnaligned = errors.New("not aligned")
	// ErrReadOnly says that the memory is a file's and cannot be changed.
	ErrReadOnly = errors.New("read-only memory")
	// ErrInvalidRange says that the ranges of a new Memory cannot be used:
	// none, empty, overlapping, or beyond the physical address space.
	ErrInvalidRange = errors.New("invalid range")
)

// Error is a failed operation on guest memory.
type Error struct {
	Op    string // what was tried: "read", "write", "window", "memfd_create", …
	Range Range  // the guest-physical bytes concerned; zero if none
	Err   error  // ErrOutOfRange and friends, or the host's errno
}

func (e *Error) Error() string {
	if e.Range == (Range{}) {
		return fmt.Sprintf("guestmem: %s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("guestmem: %s of %#x bytes at GPA %#x: %v", e.Op, e.Range.Size, uint64(e.Range.Base), e.Err)
}

func (e *Error) Unwrap() error { return e.Err }
