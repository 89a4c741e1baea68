// Package kvm is Linux's /dev/kvm as Go types: [System] makes a [VM], a VM makes
// [VCPU]s, and a vCPU's [VCPU.Run] returns an [Exit] by value.
//
//	sys, err := kvm.Open()
//	...
//	vm, err := sys.CreateVM()
//	...
//	vm.SetMemory(0, 0, mem.Regions()[0])
//	vcpu, err := vm.CreateVCPU(0)
//	...
//	vcpu.Bind()
//	for {
//		exit, err := vcpu.Run()
//		switch {
//		case err != nil:
//			return err
//		case exit.Kind == kvm.ExitIO && exit.Write:
//			for data := range exit.Elements() {
//				bus.Write(exit.Addr, data)
//			}
//		case exit.Kind == kvm.ExitHLT:
//			return nil
//		}
//	}
//
// It covers what a VMM for x86-64 needs: memslots and dirty logs, interrupt
// controllers in the kernel or split, irqfd and ioeventfd, CPUID, clocks, and the
// complete state of a vCPU. It has no policy: which devices a machine has, where
// its memory lies and what its processors pretend to be is the caller's business
// ([GuestCPUID] is a proposal). The reference is Linux's Documentation/virt/kvm/api.rst;
// the oldest kernel that works is 4.11.
//
// # Owners
//
// A VCPU belongs to one goroutine, best bound to its thread by [VCPU.Bind], which
// alone calls its methods; [VCPU.Kick] is for everybody else. A VM's methods may be called
// by several goroutines. Nothing here starts a goroutine, except that os/signal
// does so once. Close the vCPUs, then the VM, then the guest's memory.
//
// # Signals
//
// Kicks use real-time signal 62, which is asked for with os/signal for as long
// as there are vCPUs. A program that calls signal.Ignore on it, or on all
// signals, while a guest runs makes kicks wait for the guest's next exit.
//
// # Errors
//
// The host's failures are [*Error], with the request's C name, the errno and a
// remedy where there is one. What a guest does is an Exit and never an error,
// but for an exit whose description makes no sense (ErrMalformedExit).
package kvm
