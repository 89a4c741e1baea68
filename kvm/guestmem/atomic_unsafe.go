package guestmem

import (
	"sync/atomic"
	"unsafe"
)

// HVA is the region's address in this process, for KVM_SET_USER_MEMORY_REGION.
// It is valid until Memory.Close.
func (r Region) HVA() uintptr { return address(r.data) }

// address is where b starts; zero for no bytes.
func address(b []byte) uintptr {
	// SAFETY: the pointer is only converted to a number, never back. Go's heap
	// does not move objects, and mapped memory is not its business.
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))
}

// aligned returns a pointer to the start of b, which must hold and be a
// multiple of n bytes.
func aligned(b []byte, n uintptr) unsafe.Pointer {
	if uintptr(len(b)) < n {
		panic("guestmem: atomic access beyond its bytes")
	}
	// SAFETY: b is at least n bytes long, so the pointer is to its first byte.
	p := unsafe.Pointer(unsafe.SliceData(b))
	if uintptr(p)%n != 0 {
		panic("guestmem: atomic access is not aligned")
	}
	return p
}

// containing32 returns the aligned 32-bit word around the two bytes of b, and
// their bit offset in it. sync/atomic has nothing narrower than 32 bits.
func containing32(b []byte) (word *uint32, shift uint) {
	p := aligned(b, 2)
	odd := uintptr(p) & 2
	// SAFETY: the word starts zero or two bytes before p. Regions start and end
	// on page boundaries, so the word that contains a byte of a region lies
	// inside the same region, and hence inside the same allocation.
	return (*uint32)(unsafe.Add(p, -int(odd))), uint(odd) * 8
}

func load16(b []byte) uint16 {
	w, shift := containing32(b)
	return uint16(atomic.LoadUint32(w) >> shift)
}

// store16 replaces half of a word whose other half may be written by the guest
// meanwhile: hence the compare-and-swap, and hence no lost update of either.
func store16(b []byte, v uint16) {
	w, shift := containing32(b)
	for {
		old := atomic.LoadUint32(w)
		if atomic.CompareAndSwapUint32(w, old, old&^(0xffff<<shift)|uint32(v)<<shift) {
			return
		}
	}
}

func load32(b []byte) uint32 {
	// SAFETY: aligned checked length and alignment.
	return atomic.LoadUint32((*uint32)(aligned(b, 4)))
}

func store32(b []byte, v uint32) {
	// SAFETY: as load32.
	atomic.StoreUint32((*uint32)(aligned(b, 4)), v)
}

func load64(b []byte) uint64 {
	// SAFETY: as load32.
	return atomic.LoadUint64((*uint64)(aligned(b, 8)))
}

func store64(b []byte, v uint64) {
	// SAFETY: as load32.
	atomic.StoreUint64((*uint64)(aligned(b, 8)), v)
}
