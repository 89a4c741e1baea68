// Command tenbytes runs a guest of ten bytes on /dev/kvm, with package kvm and
// nothing above it. The guest adds two and two and says so.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

// code is 16-bit x86. Port 0x3f8 is where a PC has its first serial port; here
// it is whatever run makes of it.
var code = []byte{
	0xba, 0xf8, 0x03, // mov dx, 0x3f8
	0xb0, '2', // mov al, '2'
	0x04, 2, // add al, 2
	0xee, // out dx, al
	0xf4, // hlt
	0x90, // nop, so that they are ten
}

const codeAddr = 0x1000

func main() {
	if err := run(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run builds the machine and runs it until it halts.
func run(out io.Writer) (err error) {
	sys, err := kvm.Open()
	if err != nil {
		return err
	}
	defer sys.Close()
	vm, err := sys.CreateVM()
	if err != nil {
		return err
	}
	defer vm.Close()

	mem, err := guestmem.NewAnonymous(guestmem.Range{Base: 0, Size: 64 << 10})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	if err := vm.SetMemory(0, 0, mem.Regions()[0]); err != nil {
		return err
	}
	if err := mem.WriteAt(code, codeAddr); err != nil {
		return err
	}

	// An Intel processor without "unrestricted guest" runs real mode with the
	// help of three pages that are not the guest's.
	if err := vm.SetTSSAddr(0xfffbd000); err != nil {
		return err
	}
	cpu, err := vm.CreateVCPU(0)
	if err != nil {
		return err
	}
	defer cpu.Close()
	sregs, err := cpu.Sregs()
	if err != nil {
		return err
	}
	sregs.CS.Base, sregs.CS.Selector = 0, 0 // after reset: 0xffff0000 and 0xf000
	if err := cpu.SetSregs(sregs); err != nil {
		return err
	}
	if err := cpu.SetRegs(kvm.Regs{RIP: codeAddr, RFLAGS: 2}); err != nil {
		return err
	}
	return loop(cpu, out)
}

// loop runs the vCPU and is its only device.
func loop(cpu *kvm.VCPU, out io.Writer) error {
	// KVM keeps a vCPU's state with the thread that runs it.
	cpu.Bind()
	defer cpu.Unbind()
	for {
		exit, err := cpu.Run()
		switch {
		case err != nil:
			return err
		case exit.Kind == kvm.ExitIO && exit.Write:
			fmt.Fprintf(out, "port %#x: %q\n", exit.Addr, exit.Data)
		case exit.Kind == kvm.ExitHLT:
			fmt.Fprintln(out, "halted")
			return nil
		case exit.Kind == kvm.ExitInterrupted: // a signal to this thread, perhaps Go's own
		default:
			return fmt.Errorf("unexpected exit: %v", exit)
		}
	}
}
