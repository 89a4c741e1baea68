package kvm

import (
	"errors"
	"fmt"
	"time"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

// UsableRing0 is the number of instructions per second at CPL 0 below which
// KVM is not worth using: it interprets guest kernels. Hardware, and an emulator
// below an honest KVM, do hundreds of millions; interpreters a few.
const UsableRing0 = 50e6

// ring0Budget bounds the time that MeasureRing0 spends in the guest. Should the
// guest not run a single turn in that time, it gets as much again, up to
// ring0Tries times: that happens in an emulator on a crowded machine.
const (
	ring0Budget = 40 * time.Millisecond
	ring0Tries  = 5
)

// MeasureRing0 is how many instructions per second guest kernel code runs at
// here, measured with a counted loop in 64-bit mode at CPL 0 in a VM of its own.
// It takes a few milliseconds where KVM is good, and some 50 where it is not.
//
// The loop is run with more and more turns, until the exit's own cost disappears
// in it, and the fastest counts: a busy host makes some runs slow, and nothing
// makes one too fast.
func (s *System) MeasureRing0() (speed float64, err error) {
	const (
		pml4, pdpt, pd, code = 0x1000, 0x2000, 0x3000, 0x4000
		size                 = 0x5000
		port                 = 0x10
	)
	mem, err := guestmem.NewMemfd("ring0", guestmem.Range{Size: size})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	for _, e := range []struct {
		at guestmem.GPA
		v  uint64
	}{
		{pml4, pdpt | 3}, // present, writable
		{pdpt, pd | 3},
		{pd, 0x83}, // 2 MiB from 0
	} {
		if err := mem.StoreUint64(e.at, e.v); err != nil {
			return 0, err
		}
	}
	if err := mem.WriteAt([]byte{
		0xe6, port, // out port, al: after the first, everything is mapped and warm
		0x48, 0xff, 0xc9, // 1: dec rcx
		0x75, 0xfb, // jnz 1b
		0xeb, 0xf7, // jmp to the start
	}, code); err != nil {
		return 0, err
	}

	vm, err := s.CreateVM()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, vm.Close()) }()
	if err := vm.SetMemory(0, 0, mem.Regions()[0]); err != nil {
		return 0, err
	}
	if err := vm.SetTSSAddr(0xfffbd000); err != nil {
		return 0, err
	}
	v, err := vm.CreateVCPU(0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	cpuid, err := s.SupportedCPUID()
	if err != nil {
		return 0, err
	}
	if err := v.SetCPUID(cpuid); err != nil { // without it, no long mode
		return 0, err
	}
	if err := v.startLong(pml4); err != nil {
		return 0, err
	}
	if err := v.SetRegs(Regs{RIP: code, RFLAGS: 2}); err != nil {
		return 0, err
	}
	if err := v.runToPort(port); err != nil {
		return 0, err
	}
	for range ring0Tries {
		if speed, err = v.ring0Speed(port); err != nil || speed > 0 {
			break
		}
	}
	return speed, err
}

// ring0Speed runs longer and longer loops until the budget is used, or one was
// long enough to be believed.
func (v *VCPU) ring0Speed(port uint64) (speed float64, err error) {
	deadline := time.Now().Add(ring0Budget)
	defer time.AfterFunc(ring0Budget, v.Kick).Stop()
	for turns := uint64(5_000); ; turns *= 4 {
		n, elapsed, err := v.ring0Loop(port, turns)
		if err != nil {
			return 0, err
		}
		speed = max(speed, n/elapsed.Seconds())
		if !time.Now().Before(deadline) || elapsed > time.Millisecond && speed > 2*UsableRing0 {
			return speed, nil
		}
	}
}

// ring0Loop goes on for turns of the loop, and returns how many instructions
// that were: fewer, if it is interrupted.
func (v *VCPU) ring0Loop(port, turns uint64) (instructions float64, elapsed time.Duration, err error) {
	r, err := v.Regs()
	if err != nil {
		return 0, 0, err
	}
	r.RCX = turns
	if err := v.SetRegs(r); err != nil {
		return 0, 0, err
	}
	start := time.Now()
	err = v.runToPort(port)
	elapsed = time.Since(start)
	if err != nil {
		return 0, 0, err
	}
	r, err = v.Regs()
	return 2 * float64(turns-r.RCX), elapsed, err
}

// runToPort runs until the guest writes to port, or an interruption.
func (v *VCPU) runToPort(port uint64) error {
	e, err := v.Run()
	if err == nil && e.Kind != ExitInterrupted && (e.Kind != ExitIO || e.Addr != port) {
		err = &Error{"measuring ring 0", fmt.Errorf("unexpected exit: %v", e)}
	}
	return err
}

// startLong puts the vCPU into 64-bit mode at CPL 0.
func (v *VCPU) startLong(cr3 uint64) error {
	s, err := v.Sregs()
	if err != nil {
		return err
	}
	code := Segment{Limit: 0xffffffff, Selector: 0x08, Type: 11, Present: 1, S: 1, L: 1, G: 1}
	data := Segment{Limit: 0xffffffff, Selector: 0x10, Type: 3, Present: 1, S: 1, DB: 1, G: 1}
	s.CS, s.DS, s.ES, s.FS, s.GS, s.SS = code, data, data, data, data, data
	s.CR3 = cr3
	s.CR4 = 1 << 5               // PAE
	s.CR0 = 1<<31 | 1<<16 | 0x31 // PG, WP, NE, ET, PE
	s.EFER = 1<<10 | 1<<8        // LMA, LME
	return v.SetSregs(s)
}
