// Package guestmem is guest RAM: the only place where a guest-physical address
// becomes bytes of this process.
//
// A [Memory] is a few page-aligned regions of guest-physical address space.
// [NewAnonymous] backs them with anonymous memory and huge pages, which is what a
// virtual machine runs on; [NewMemfd] with one sealed memfd, which another
// process can map too; [NewHeap] with ordinary Go memory, for tests: the race
// detector does not see mapped memory, so code that shares rings with a guest is
// tested on a heap-backed Memory under -race.
//
//	mem, err := guestmem.NewAnonymous(guestmem.Range{Base: 0, Size: 128 << 20})
//	if err != nil {
//		return err
//	}
//	defer mem.Close()
//	if err := mem.WriteAt(kernel, 0x100000); err != nil {
//		return err // a *guestmem.Error that names the address
//	}
//	ring, err := mem.Window(gpa, 4+8*256+2) // checked once
//	...
//	idx := ring.LoadUint16(2) // atomic
//
// Every access is checked for bounds and for wrap-around, lies wholly inside
// one region, and fails with an [*Error] otherwise. What the guest writes may
// change at any time, between two reads of the same byte too: a header is copied
// once, with [Memory.ReadAt], and then parsed.
//
// The package does not know KVM, rings or devices, and has no opinion on the
// layout of the address space. A Memory is immutable until Close, so any number
// of goroutines may use it; its owner calls [Memory.Close] after the last vCPU
// and the last device worker have been joined, because slices and windows into
// mapped memory dangle from then on.
//
// Atomic access is in the host's byte order, which is the guest's too: hosts are
// little-endian (amd64, arm64).
package guestmem
