package kvm

import (
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// immediateExitBit is immediate_exit in the first word of struct kvm_run, of
// which no other byte is anybody else's. sync/atomic has no bytes.
const immediateExitBit = 1 << (8 * unsafe.Offsetof(kvmRun{}.immediateExit))

func (v *VCPU) firstWord() *uint32 {
	// SAFETY: the mapping is page-aligned and larger than a word; Close unmaps
	// it only when nobody is in Run or Kick.
	return (*uint32)(unsafe.Pointer(&v.page[0]))
}

func (v *VCPU) setImmediateExit()   { atomic.OrUint32(v.firstWord(), immediateExitBit) }
func (v *VCPU) clearImmediateExit() { atomic.AndUint32(v.firstWord(), ^uint32(immediateExitBit)) }

// enter is KVM_RUN. EINTR is for the caller. EAGAIN, by which KVM says that a
// vCPU that waits for its start-up message woke for nothing, is not.
//
// Syscall, never RawSyscall: a guest may run for ever, and the runtime must be
// able to take the processor away from this goroutine.
func (v *VCPU) enter() syscall.Errno {
	for {
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(v.fd), _KVM_RUN, 0)
		if errno != unix.EAGAIN {
			return errno
		}
	}
}
