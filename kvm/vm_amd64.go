package kvm

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

// VM is a virtual machine: memory slots, interrupt controllers and vCPUs.
//
// The order of setting up matters for speed. Every SetMemory comes first: since
// Linux 6.17 or so, a memslot change after the irqchip, the PIT or an ioeventfd
// waits several milliseconds for a grace period. SetTSSAddr,
// SetIdentityMapAddr and the irqchip come before the first CreateVCPU, as KVM
// demands, and irqfds after the irqchip.
type VM struct {
	fd      int
	runSize int

	mu     sync.Mutex
	slots  map[uint32]guestmem.Region // keeps what KVM maps reachable
	closed bool
}

func newVM(fd, runSize int) *VM {
	return &VM{fd: fd, runSize: runSize, slots: make(map[uint32]guestmem.Region)}
}

// Close closes the VM's descriptor. KVM keeps the VM until its vCPUs are closed
// too, and only then may the memory go. A second Close does nothing.
func (vm *VM) Close() error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.closed {
		return nil
	}
	vm.closed = true
	err := unix.Close(vm.fd)
	vm.fd = -1 // the number will soon be another file's
	if err != nil {
		return &Error{"close VM", err}
	}
	return nil
}

// CheckExtension is what this VM says about c; see System.CheckExtension.
func (vm *VM) CheckExtension(c Cap) (int, error) {
	return ioctlVal(vm.fd, "KVM_CHECK_EXTENSION", _KVM_CHECK_EXTENSION, uintptr(c))
}

// EnableCap switches c on for this VM, with up to four arguments.
func (vm *VM) EnableCap(c Cap, args ...uint64) error {
	return vm.enableCap("KVM_ENABLE_CAP", c, args...)
}

func (vm *VM) enableCap(op string, c Cap, args ...uint64) error {
	arg := kvmEnableCap{cap: uint32(c)}
	if copy(arg.args[:], args) != len(args) {
		return &Error{op, fmt.Errorf("%w: %d arguments for %v", ErrInvalid, len(args), c)}
	}
	_, err := ioctlPtr(vm.fd, fmt.Sprintf("%s(%v)", op, c), _KVM_ENABLE_CAP, &arg)
	return err
}

// MemFlags are properties of a memslot.
type MemFlags uint32

// Bits of MemFlags (KVM_MEM_*).
const (
	MemLogDirtyPages MemFlags = 1 << 0
	MemReadonly      MemFlags = 1 << 1 // the guest's writes exit as MMIO
)

// SetMemory puts r into the guest's physical address space as memslot slot,
// or changes the flags of the slot that holds it. The guest sees the memory
// until DeleteMemory or Close, so r's Memory outlives both.
func (vm *VM) SetMemory(slot uint32, flags MemFlags, r guestmem.Region) error {
	arg := kvmUserspaceMemoryRegion{
		slot: slot, flags: uint32(flags),
		guestPhysAddr: uint64(r.Base), memorySize: r.Size, userspaceAddr: uint64(r.HVA()),
	}
	if r.Size == 0 || uint64(len(r.Bytes())) != r.Size {
		return &Error{"KVM_SET_USER_MEMORY_REGION", fmt.Errorf("%w: slot %d: region of %d bytes with %d bytes of memory",
			ErrInvalid, slot, r.Size, len(r.Bytes()))}
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if _, err := ioctlPtr(vm.fd, "KVM_SET_USER_MEMORY_REGION", _KVM_SET_USER_MEMORY_REGION, &arg); err != nil {
		return err
	}
	vm.slots[slot] = r
	return nil
}

// DeleteMemory takes memslot slot out of the guest's address space.
func (vm *VM) DeleteMemory(slot uint32) error {
	arg := kvmUserspaceMemoryRegion{slot: slot}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if _, err := ioctlPtr(vm.fd, "KVM_SET_USER_MEMORY_REGION", _KVM_SET_USER_MEMORY_REGION, &arg); err != nil {
		return err
	}
	delete(vm.slots, slot)
	return nil
}

// DirtyWords is how many words DirtyLog needs for a region of size bytes.
func DirtyWords(size uint64) int {
	const perWord = 64 * guestmem.PageSize
	return int((size + perWord - 1) / perWord)
}

// DirtyLog fills bitmap with one bit per page of memslot slot, set if the guest
// wrote the page since the last call, and starts anew. The slot has
// MemLogDirtyPages, and bitmap has at least DirtyWords of the region's size.
// Writes by this process are not in it.
func (vm *VM) DirtyLog(slot uint32, bitmap []uint64) error {
	const op = "KVM_GET_DIRTY_LOG"
	vm.mu.Lock()
	defer vm.mu.Unlock()
	r, ok := vm.slots[slot]
	if !ok {
		return &Error{op, fmt.Errorf("%w: no memslot %d", ErrInvalid, slot)}
	}
	if need := DirtyWords(r.Size); len(bitmap) < need {
		return &Error{op, fmt.Errorf("%w: bitmap of %d words, need %d", ErrInvalid, len(bitmap), need)}
	}
	_, err := ioctlPtr(vm.fd, op, _KVM_GET_DIRTY_LOG, &kvmDirtyLog{slot: slot, dirtyBitmap: &bitmap[0]})
	return err
}

// SetTSSAddr gives KVM three pages of guest-physical space, which Intel
// processors need to run real mode. No memslot and no device may lie there.
func (vm *VM) SetTSSAddr(a guestmem.GPA) error {
	_, err := ioctlVal(vm.fd, "KVM_SET_TSS_ADDR", _KVM_SET_TSS_ADDR, uintptr(a))
	return err
}

// SetIdentityMapAddr gives KVM one page, for the same purpose, before the
// first vCPU.
func (vm *VM) SetIdentityMapAddr(a guestmem.GPA) error {
	addr := uint64(a)
	_, err := ioctlPtr(vm.fd, "KVM_SET_IDENTITY_MAP_ADDR", _KVM_SET_IDENTITY_MAP_ADDR, &addr)
	return err
}

// Clock reads the VM's clock.
func (vm *VM) Clock() (ClockData, error) {
	var c ClockData
	_, err := ioctlPtr(vm.fd, "KVM_GET_CLOCK", _KVM_GET_CLOCK, &c)
	return c, err
}

// SetClock sets the VM's clock. Of the flags, KVM wants at most ClockRealtime.
func (vm *VM) SetClock(c ClockData) error {
	_, err := ioctlPtr(vm.fd, "KVM_SET_CLOCK", _KVM_SET_CLOCK, &c)
	return err
}
