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

// ring0Deadline bounds each of the two runs of MeasureRing0.
const ring0Deadline = 20 * time.Millisecond

// MeasureRing0 is how many instructions per second guest kernel code runs at
// here, measured with a counted loop in 64-bit mode at CPL 0 in a VM of its own.
// It takes a millisecond where KVM is good, and some 50 where it is not.
func (s *System) MeasureRing0() (float64, error) {
	const small, large = 5_000, 500_000 // turns
	speed, err := s.ring0Loop(small)
	if err != nil || speed < UsableRing0/10 {
		return speed, err
	}
	// Good enough for a loop in which the exit's own cost disappears.
	return s.ring0Loop(large)
}

// ring0Loop times turns of a loop of two instructions.
func (s *System) ring0Loop(turns uint64) (speed float64, err error) {
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
		0xe6, port, // out port, al: from here on everything is mapped and warm
		0x48, 0xff, 0xc9, // 1: dec rcx
		0x75, 0xfb, // jnz 1b
		0xe6, port, // out port, al
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
	if err := v.startLong(pml4, code, turns); err != nil {
		return 0, err
	}
	if err := v.runToPort(port); err != nil {
		return 0, err
	}
	defer time.AfterFunc(ring0Deadline, v.Kick).Stop()
	start := time.Now()
	err = v.runToPort(port)
	elapsed := time.Since(start)
	if err != nil && !errors.Is(err, errInterrupted) {
		return 0, err
	}
	r, err := v.Regs()
	if err != nil {
		return 0, err
	}
	return 2 * float64(turns-r.RCX) / elapsed.Seconds(), nil
}

// startLong puts the vCPU into 64-bit mode at CPL 0.
func (v *VCPU) startLong(cr3, rip, rcx uint64) error {
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
	if err := v.SetSregs(s); err != nil {
		return err
	}
	return v.SetRegs(Regs{RIP: rip, RCX: rcx, RFLAGS: 2})
}

var errInterrupted = errors.New("interrupted")

// runToPort runs until the guest writes to port. A signal that is not our kick
// does not stop it; the deadline does.
func (v *VCPU) runToPort(port uint64) error {
	for start := time.Now(); ; {
		e, err := v.Run()
		switch {
		case err != nil:
			return err
		case e.Kind == ExitIO && e.Addr == port:
			return nil
		case e.Kind != ExitInterrupted:
			return &Error{"measuring ring 0", fmt.Errorf("unexpected exit: %v", e)}
		case time.Since(start) >= ring0Deadline:
			return &Error{"measuring ring 0", errInterrupted}
		}
	}
}
