package kvm_test

import (
	"errors"
	"fmt"
	"log"

	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

// A whole virtual machine: ten bytes of 16-bit code that print a digit and halt.
func Example() {
	if err := printDigit(); err != nil {
		log.Fatal(err)
	}
}

func printDigit() (err error) {
	code := []byte{
		0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xb0, '2', // mov al, '2'
		0x04, 2, // add al, 2
		0xee, // out dx, al
		0xf4, // hlt
	}
	sys, err := kvm.Open()
	if err != nil {
		return err
	}
	defer sys.Close()
	mem, err := guestmem.NewMemfd("example", guestmem.Range{Base: 0, Size: 64 << 10})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	if err := mem.WriteAt(code, 0x1000); err != nil {
		return err
	}
	vm, err := sys.CreateVM()
	if err != nil {
		return err
	}
	defer vm.Close()
	if err := vm.SetMemory(0, 0, mem.Regions()[0]); err != nil {
		return err
	}
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
	sregs.CS.Base, sregs.CS.Selector = 0, 0
	if err := cpu.SetSregs(sregs); err != nil {
		return err
	}
	if err := cpu.SetRegs(kvm.Regs{RIP: 0x1000, RFLAGS: 2}); err != nil {
		return err
	}
	cpu.Bind()
	defer cpu.Unbind()
	for {
		exit, err := cpu.Run()
		switch {
		case err != nil:
			return err
		case exit.Kind == kvm.ExitIO && exit.Write:
			fmt.Printf("port %#x: %s\n", exit.Addr, exit.Data)
		case exit.Kind == kvm.ExitHLT:
			return nil
		case exit.Kind != kvm.ExitInterrupted:
			return fmt.Errorf("unexpected exit: %v", exit)
		}
	}
}
