package rig

import (
	"os"

	"golang.org/x/sys/unix"
)

// usableRing0 is the speed at CPL 0, in instructions per second, from which on
// a KVM runs guest kernels itself. One that interprets them reaches 4 million;
// hardware, and QEMU's emulation of it, several hundred.
const usableRing0 = 50e6

// The requests that carry no struct. _KVM_CREATE_VM and _KVM_CREATE_VCPU are
// called with the argument 0: the default machine type, and vCPU 0.
const (
	_KVM_CREATE_VM   = 0xae01
	_KVM_CREATE_VCPU = 0xae41
	_KVM_GET_TSC_KHZ = 0xaea3
)

// kvmTSCKHz asks KVM for the TSC frequency of a new vCPU, which is the host's.
// Any /dev/kvm can tell, also one that is unfit to run guests.
func kvmTSCKHz() uint32 {
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return 0
	}
	defer kvm.Close()
	vm, err := unix.IoctlRetInt(int(kvm.Fd()), _KVM_CREATE_VM)
	if err != nil {
		return 0
	}
	defer unix.Close(vm)
	vcpu, err := unix.IoctlRetInt(vm, _KVM_CREATE_VCPU)
	if err != nil {
		return 0
	}
	defer unix.Close(vcpu)
	khz, err := unix.IoctlRetInt(vcpu, _KVM_GET_TSC_KHZ)
	if err != nil || khz < 0 {
		return 0
	}
	return uint32(khz)
}
