package guestmem

import (
	"fmt"
	"os"
	"slices"
)

// PageSize is the granularity of regions and of Discard.
const PageSize = 4096

// maxGPA bounds the guest-physical address space: x86-64 has at most 52 bits
// of physical address, and so no sum of a valid base and size can wrap.
const maxGPA = 1 << 52

// GPA is a guest-physical address.
type GPA uint64

// Range is a run of guest-physical addresses.
type Range struct {
	Base GPA
	Size uint64 // in bytes
}

// End is the first address after r.
func (r Range) End() GPA { return r.Base + GPA(r.Size) }

// Contains reports whether the n bytes at a lie inside r, without wrapping.
// No bytes lie inside r if a does.
func (r Range) Contains(a GPA, n uint64) bool {
	if a < r.Base {
		return false
	}
	off := uint64(a - r.Base)
	return off < r.Size && n <= r.Size-off
}

// Region is one run of RAM: contiguous for the guest and in this process.
type Region struct {
	Range
	// FileOffset is where the region starts in Memory.File; zero for heap memory.
	FileOffset int64

	data []byte
}

// Bytes is the whole region, aliasing guest memory.
func (r Region) Bytes() []byte { return r.data }

// Memory is guest RAM. See the package documentation for who may use it when.
type Memory struct {
	regions []Region // ascending, disjoint
	file    *os.File // the memfd; nil for anonymous and heap memory
	maps    [][]byte // what is mapped without a file; nil for heap memory
	size    uint64
	// readOnly memory is a file's: mapped without leave to write.
	readOnly bool
}

// newMemory checks ranges and returns a Memory without backing. The ranges may
// come in any order; file offsets follow the order of addresses.
func newMemory(ranges []Range) (*Memory, error) {
	const op = "new memory"
	if len(ranges) == 0 {
		return nil, &Error{Op: op, Err: fmt.Errorf("no range: %w", ErrInvalidRange)}
	}
	m := &Memory{regions: make([]Region, 0, len(ranges))}
	for _, r := range ranges {
		switch {
		case r.Size == 0:
			return nil, &Error{op, r, fmt.Errorf("empty: %w", ErrInvalidRange)}
		case r.Base >= maxGPA || r.Size > maxGPA-uint64(r.Base):
			return nil, &Error{op, r, fmt.Errorf("beyond %#x: %w", uint64(maxGPA), ErrInvalidRange)}
		case uint64(r.Base)%PageSize != 0 || r.Size%PageSize != 0:
			return nil, &Error{op, r, ErrUnaligned}
		}
		m.regions = append(m.regions, Region{Range: r})
	}
	slices.SortFunc(m.regions, func(a, b Region) int {
		if a.Base < b.Base {
			return -1
		}
		return 1
	})
	for i := range m.regions {
		r := &m.regions[i]
		if i > 0 && r.Base < m.regions[i-1].End() {
			return nil, &Error{op, r.Range, fmt.Errorf("overlaps its predecessor: %w", ErrInvalidRange)}
		}
		m.size += r.Size
	}
	return m, nil
}

// Regions returns the regions in ascending order of address.
func (m *Memory) Regions() []Region { return slices.Clone(m.regions) }

// Size is the number of bytes of RAM, all regions together.
func (m *Memory) Size() uint64 { return m.size }

// File is the memfd behind the memory, nil for heap memory. It stays owned by m.
func (m *Memory) File() *os.File { return m.file }

// find returns the region that wholly contains the n bytes at a.
func (m *Memory) find(a GPA, n uint64) (*Region, bool) {
	for i := range m.regions {
		if r := &m.regions[i]; r.Contains(a, n) {
			return r, true
		}
	}
	return nil, false
}

// slice returns the n bytes at a; op names the operation in the error.
func (m *Memory) slice(op string, a GPA, n uint64) ([]byte, error) {
	r, ok := m.find(a, n)
	if !ok {
		return nil, &Error{op, Range{a, n}, ErrOutOfRange}
	}
	off := uint64(a - r.Base)
	return r.data[off : off+n : off+n], nil
}

// Bytes returns the n bytes at a, aliasing guest memory. They must lie inside
// one region. With n zero, a itself must be RAM.
func (m *Memory) Bytes(a GPA, n uint64) ([]byte, error) {
	return m.slice("access", a, n)
}

// ReadAt copies guest memory at a into p, all of it or nothing.
func (m *Memory) ReadAt(p []byte, a GPA) error {
	b, err := m.slice("read", a, uint64(len(p)))
	if err != nil {
		return err
	}
	copy(p, b)
	return nil
}

// WriteAt copies p to guest memory at a, all of it or nothing.
func (m *Memory) WriteAt(p []byte, a GPA) error {
	b, err := m.slice("write", a, uint64(len(p)))
	if err != nil {
		return err
	}
	copy(b, p)
	return nil
}
