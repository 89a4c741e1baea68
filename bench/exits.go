package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"time"

	"github.com/sandpit-vm/sandpit/devices"
	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

// exitsArg makes this program the counterpart of testdata/exitloop.c.
const exitsArg = "exits"

// The kinds of exits that both measure, and how ours are handled.
const (
	exitsPIO, exitsMMIO = "pio", "mmio"
	alone, withBus      = "alone", "bus"
)

// The port and, with DS at 0x20000, the address that the guest writes to.
const (
	exitsPort = 0x10
	exitsAddr = 0x20010
)

// exitsCode is exitloop.c's guest: n writes, then hlt.
func exitsCode(kind string, n uint32) []byte {
	code := []byte{0xb8, 0x00, 0x20, 0x8e, 0xd8, 0x66, 0xb9} // mov ax, 0x2000; mov ds, ax; mov ecx, n
	code = binary.LittleEndian.AppendUint32(code, n)
	if kind == exitsMMIO {
		code = append(code, 0xa2, 0x10, 0x00) // mov [0x10], al
	} else {
		code = append(code, 0xe6, exitsPort, 0x90) // out 0x10, al; nop
	}
	return append(code, 0x66, 0x49, 0x75, 0xf9, 0xf4) // dec ecx; jnz; hlt
}

// exitsMain runs that guest with package kvm, alone or with the buses of
// package devices behind it, and prints nanoseconds and exits as the C program
// does.
func exitsMain(args []string) error {
	if len(args) != 3 {
		return errors.New("want pio|mmio N alone|bus")
	}
	n, err := strconv.ParseUint(args[1], 0, 32)
	if err != nil {
		return err
	}
	cpu, err := exitsMachine(exitsCode(args[0], uint32(n)))
	if err != nil {
		return err
	}
	cpu.Bind()
	var took time.Duration
	var exits uint64
	if args[2] == withBus {
		took, exits, err = exitsBus(cpu)
	} else {
		took, exits, err = exitsAlone(cpu)
	}
	if err == nil && exits != n {
		err = fmt.Errorf("%d exits, want %d", exits, n)
	}
	fmt.Println(took.Nanoseconds(), exits)
	return err // the end of the process closes the machine
}

// exitsMachine is a vCPU in real mode before the code.
func exitsMachine(code []byte) (*kvm.VCPU, error) {
	sys, err := kvm.Open()
	if err != nil {
		return nil, err
	}
	vm, err := sys.CreateVM()
	if err != nil {
		return nil, err
	}
	mem, err := guestmem.NewAnonymous(guestmem.Range{Base: 0, Size: 64 << 10})
	if err != nil {
		return nil, err
	}
	const codeAddr = 0x1000
	if err := errors.Join(vm.SetTSSAddr(0xfffbd000), vm.SetMemory(0, 0, mem.Regions()[0]), mem.WriteAt(code, codeAddr)); err != nil {
		return nil, err
	}
	cpu, err := vm.CreateVCPU(0)
	if err != nil {
		return nil, err
	}
	sregs, err := cpu.Sregs()
	if err != nil {
		return nil, err
	}
	sregs.CS.Base, sregs.CS.Selector = 0, 0
	return cpu, errors.Join(cpu.SetSregs(sregs), cpu.SetRegs(kvm.Regs{RIP: codeAddr, RFLAGS: 2}))
}

// exitsAlone does with an exit what the C program does.
func exitsAlone(cpu *kvm.VCPU) (took time.Duration, exits uint64, err error) {
	start := time.Now()
	for {
		e, err := cpu.Run()
		switch {
		case err != nil:
			return 0, exits, err
		case e.Kind == kvm.ExitIO || e.Kind == kvm.ExitMMIO:
			exits++
		case e.Kind == kvm.ExitHLT:
			return time.Since(start), exits, nil
		case e.Kind != kvm.ExitInterrupted:
			return 0, exits, fmt.Errorf("unexpected exit: %v", e)
		}
	}
}

// exitsCounter is a device that counts what is written to it.
type exitsCounter uint64

func (c *exitsCounter) Read(_ uint64, p []byte)  { clear(p) }
func (c *exitsCounter) Write(_ uint64, p []byte) { *c += exitsCounter(len(p)) }

// exitsBus takes each write to a device, as a machine does.
func exitsBus(cpu *kvm.VCPU) (took time.Duration, exits uint64, err error) {
	var counter exitsCounter
	pio, mmio := devices.NewBus(), devices.NewBus()
	// Among as many windows as a machine of ours has.
	for i := range uint64(8) {
		err = errors.Join(err, pio.Map("neighbour", 0x100+i*8, 8, &counter), mmio.Map("neighbour", 0x30000+i*0x1000, 0x1000, &counter))
	}
	err = errors.Join(err, pio.Map("counter", exitsPort, 1, &counter), mmio.Map("counter", exitsAddr&^0xfff, 0x1000, &counter))
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	for {
		e, err := cpu.Run()
		switch {
		case err != nil:
			return 0, 0, err
		case e.Kind == kvm.ExitIO:
			for p := range e.Elements() {
				pio.Write(e.Addr, p)
			}
		case e.Kind == kvm.ExitMMIO:
			mmio.Write(e.Addr, e.Data)
		case e.Kind == kvm.ExitHLT:
			return time.Since(start), uint64(counter), nil
		case e.Kind != kvm.ExitInterrupted:
			return 0, 0, fmt.Errorf("unexpected exit: %v", e)
		}
	}
}

// loops races our loop around KVM_RUN against the C program's.
func (b *bed) loops(w io.Writer) error {
	n := strconv.Itoa(b.exits)
	for _, kind := range []string{exitsPIO, exitsMMIO} {
		all := []*contender{
			{name: "C", command: func() *exec.Cmd { return exec.Command(b.exitloop, kind, n) }},
			{name: "package kvm", command: func() *exec.Cmd { return exec.Command("/proc/self/exe", exitsArg, kind, n, alone) }},
			{name: "package kvm with the buses of package devices", command: func() *exec.Cmd {
				return exec.Command("/proc/self/exe", exitsArg, kind, n, withBus)
			}},
		}
		for i := range b.runs + 1 {
			// Whoever comes first has no advantage of it.
			order := slices.Clone(all)
			if i%2 == 1 {
				slices.Reverse(order)
			}
			for _, c := range order {
				took, err := exitsOf(c.command())
				if err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
				if i > 0 { // the first is a warm-up
					c.times = append(c.times, took)
				}
			}
		}
		fmt.Fprintf(w, "%s exits of %s, the loop around KVM_RUN alone; target: at most 1.05:\n", n, kind)
		if err := standings(w, all, "C's"); err != nil {
			return err
		}
	}
	return nil
}

// exitsOf is the time that such a program prints.
func exitsOf(cmd *exec.Cmd) (time.Duration, error) {
	out, err := cmd.Output()
	if err != nil {
		return 0, err
	}
	var ns, exits int64
	if _, err := fmt.Sscan(string(out), &ns, &exits); err != nil {
		return 0, fmt.Errorf("%q: %w", out, err)
	}
	return time.Duration(ns), nil
}
