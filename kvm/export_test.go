package kvm

// Descriptors, so that another library can be asked about the same objects.

func (s *System) FD() uintptr { return uintptr(s.fd) }
func (vm *VM) FD() uintptr    { return uintptr(vm.fd) }
func (v *VCPU) FD() uintptr   { return uintptr(v.fd) }

// KickSignal is the signal that Kick sends.
const KickSignal = kickSignal

// Runner is the thread that is inside Run.
func (v *VCPU) Runner() int { return int(v.runner.Load()) }
