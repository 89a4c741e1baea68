// Package vmm assembles a virtual machine from its parts and runs it: guest
// memory, vCPUs, the PIO and MMIO buses, the platform devices and the virtio
// devices. It is the package to start from when the machine itself is the
// subject; package sandbox builds on it and adds everything a sandbox is.
//
// A [Machine] is made by [New], started once by [Machine.Run], which returns
// the [Reason] the guest ended for, and given back by [Machine.Close]:
//
//	kernel, _ := os.Open("vmlinux")
//	m, err := vmm.New(vmm.Config{
//		Memory:  256 << 20,
//		Kernel:  kernel,
//		Cmdline: "console=ttyS0 panic=-1 reboot=k",
//		Serial:  os.Stdout,
//	})
//	if err != nil { … }
//	defer m.Close()
//	reason, err := m.Run(ctx)
//
// What it does not do: it opens no file but /dev/kvm (and not even that when
// Config.KVM is set), dials nothing, and knows nothing of images or agents.
//
// # Goroutines
//
// Run starts one goroutine per vCPU, each locked to an operating system
// thread for its whole life, and joins them all before it returns. The
// workers of virtio devices belong to the devices; Close joins them. No other
// goroutine is started.
//
// # Order of construction
//
// Memory slots come before the interrupt controller and before any
// ioeventfd: on Linux 6.18 a memslot change after those waits for a grace
// period (7.8 ms against 0.3 ms, measured).
package vmm
