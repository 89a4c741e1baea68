package kvm

import "fmt"

// get and set move a vCPU's state of one kind.
func get[T any](v *VCPU, op string, req uintptr) (state T, err error) {
	_, err = ioctlPtr(v.fd, op, req, &state)
	return state, err
}

func set[T any](v *VCPU, op string, req uintptr, state *T) error {
	_, err := ioctlPtr(v.fd, op, req, state)
	return err
}

// Regs reads the general registers.
func (v *VCPU) Regs() (Regs, error) { return get[Regs](v, "KVM_GET_REGS", _KVM_GET_REGS) }

// SetRegs sets the general registers.
func (v *VCPU) SetRegs(r Regs) error { return set(v, "KVM_SET_REGS", _KVM_SET_REGS, &r) }

// Sregs reads the special registers.
func (v *VCPU) Sregs() (Sregs, error) { return get[Sregs](v, "KVM_GET_SREGS", _KVM_GET_SREGS) }

// SetSregs sets the special registers.
func (v *VCPU) SetSregs(s Sregs) error { return set(v, "KVM_SET_SREGS", _KVM_SET_SREGS, &s) }

// FPU reads the x87 and SSE state.
func (v *VCPU) FPU() (FPU, error) { return get[FPU](v, "KVM_GET_FPU", _KVM_GET_FPU) }

// SetFPU sets the x87 and SSE state.
func (v *VCPU) SetFPU(f FPU) error { return set(v, "KVM_SET_FPU", _KVM_SET_FPU, &f) }

// LAPIC reads the local APIC, which needs an irqchip in the kernel.
func (v *VCPU) LAPIC() (LAPICState, error) {
	return get[LAPICState](v, "KVM_GET_LAPIC", _KVM_GET_LAPIC)
}

// SetLAPIC sets the local APIC.
func (v *VCPU) SetLAPIC(s LAPICState) error { return set(v, "KVM_SET_LAPIC", _KVM_SET_LAPIC, &s) }

// XSave reads the extended state, which includes the FPU's.
func (v *VCPU) XSave() (XSave, error) { return get[XSave](v, "KVM_GET_XSAVE", _KVM_GET_XSAVE) }

// SetXSave sets the extended state.
func (v *VCPU) SetXSave(s XSave) error { return set(v, "KVM_SET_XSAVE", _KVM_SET_XSAVE, &s) }

// XCRS reads the extended control registers.
func (v *VCPU) XCRS() (XCRS, error) { return get[XCRS](v, "KVM_GET_XCRS", _KVM_GET_XCRS) }

// SetXCRS sets the extended control registers.
func (v *VCPU) SetXCRS(x XCRS) error { return set(v, "KVM_SET_XCRS", _KVM_SET_XCRS, &x) }

// Events reads pending exceptions, interrupts and NMIs.
func (v *VCPU) Events() (VCPUEvents, error) {
	return get[VCPUEvents](v, "KVM_GET_VCPU_EVENTS", _KVM_GET_VCPU_EVENTS)
}

// SetEvents sets pending exceptions, interrupts and NMIs.
func (v *VCPU) SetEvents(e VCPUEvents) error {
	return set(v, "KVM_SET_VCPU_EVENTS", _KVM_SET_VCPU_EVENTS, &e)
}

// DebugRegs reads the debug registers.
func (v *VCPU) DebugRegs() (DebugRegs, error) {
	return get[DebugRegs](v, "KVM_GET_DEBUGREGS", _KVM_GET_DEBUGREGS)
}

// SetDebugRegs sets the debug registers.
func (v *VCPU) SetDebugRegs(d DebugRegs) error {
	return set(v, "KVM_SET_DEBUGREGS", _KVM_SET_DEBUGREGS, &d)
}

// SetGuestDebug asks for ExitDebug on steps and breakpoints; the zero value
// asks for none.
func (v *VCPU) SetGuestDebug(d GuestDebug) error {
	return set(v, "KVM_SET_GUEST_DEBUG", _KVM_SET_GUEST_DEBUG, &d)
}

// MPState reads whether the vCPU runs, waits or was never started.
func (v *VCPU) MPState() (MPState, error) {
	s, err := get[kvmMPState](v, "KVM_GET_MP_STATE", _KVM_GET_MP_STATE)
	return MPState(s.mpState), err
}

// SetMPState sets whether the vCPU runs, waits or was never started.
func (v *VCPU) SetMPState(s MPState) error {
	return set(v, "KVM_SET_MP_STATE", _KVM_SET_MP_STATE, &kvmMPState{mpState: uint32(s)})
}

// Translate walks the guest's page tables.
func (v *VCPU) Translate(linear uint64) (Translation, error) {
	t := Translation{LinearAddress: linear}
	err := set(v, "KVM_TRANSLATE", _KVM_TRANSLATE, &t)
	return t, err
}

// TSCKHz is the frequency of the vCPU's time stamp counter.
func (v *VCPU) TSCKHz() (uint32, error) {
	n, err := ioctlVal(v.fd, "KVM_GET_TSC_KHZ", _KVM_GET_TSC_KHZ, 0)
	return uint32(n), err
}

// SetTSCKHz sets the frequency of the vCPU's time stamp counter. Unless it is
// the host's, it needs CapTSCControl.
func (v *VCPU) SetTSCKHz(khz uint32) error {
	_, err := ioctlVal(v.fd, "KVM_SET_TSC_KHZ", _KVM_SET_TSC_KHZ, uintptr(khz))
	return err
}

// NMI queues a non-maskable interrupt.
func (v *VCPU) NMI() error {
	_, err := ioctlVal(v.fd, "KVM_NMI", _KVM_NMI, 0)
	return err
}

// NotifyPaused tells the guest that it was not running for a while, so that its
// watchdog does not take the pause for a lock-up. The guest must use kvmclock.
func (v *VCPU) NotifyPaused() error {
	_, err := ioctlVal(v.fd, "KVM_KVMCLOCK_CTRL", _KVM_KVMCLOCK_CTRL, 0)
	return err
}

// MSRs reads model-specific registers. KVM stops at the first one that it does
// not know; the error names it.
func (v *VCPU) MSRs(indices ...uint32) ([]MSR, error) {
	const op = "KVM_GET_MSRS"
	out := make([]MSR, len(indices))
	for i, index := range indices {
		out[i].Index = index
	}
	for rest := out; len(rest) > 0; {
		var buf kvmMSRsBuf
		n := copy(buf.entries[:], rest)
		buf.head.nmsrs = uint32(n)
		done, err := ioctlPtr(v.fd, op, _KVM_GET_MSRS, &buf)
		if err != nil {
			return nil, err
		}
		if done < n {
			return nil, &Error{op, fmt.Errorf("%w: MSR %#x", ErrInvalid, rest[done].Index)}
		}
		copy(rest, buf.entries[:n])
		rest = rest[n:]
	}
	return out, nil
}

// SetMSRs sets model-specific registers, in order. KVM stops at the first one
// that it refuses; the error names it, and those before it are set.
func (v *VCPU) SetMSRs(msrs []MSR) error {
	const op = "KVM_SET_MSRS"
	for rest := msrs; len(rest) > 0; {
		var buf kvmMSRsBuf
		n := copy(buf.entries[:], rest)
		buf.head.nmsrs = uint32(n)
		done, err := ioctlPtr(v.fd, op, _KVM_SET_MSRS, &buf)
		if err != nil {
			return err
		}
		if done < n {
			return &Error{op, fmt.Errorf("%w: MSR %#x", ErrInvalid, rest[done].Index)}
		}
		rest = rest[n:]
	}
	return nil
}

// SetCPUID sets what CPUID answers, at most 256 entries, before the first Run.
func (v *VCPU) SetCPUID(entries []CPUIDEntry) error {
	const op = "KVM_SET_CPUID2"
	buf := new(kvmCPUID2Buf)
	if copy(buf.entries[:], entries) != len(entries) {
		return &Error{op, fmt.Errorf("%w: %d entries, at most %d", ErrInvalid, len(entries), maxCPUIDEntries)}
	}
	buf.head.nent = uint32(len(entries))
	return set(v, op, _KVM_SET_CPUID2, buf)
}

// CPUID reads what CPUID answers.
func (v *VCPU) CPUID() ([]CPUIDEntry, error) {
	buf := new(kvmCPUID2Buf)
	buf.head.nent = maxCPUIDEntries
	if err := set(v, "KVM_GET_CPUID2", _KVM_GET_CPUID2, buf); err != nil {
		return nil, err
	}
	return buf.entries[:min(buf.head.nent, maxCPUIDEntries)], nil
}
