// Package boot turns a kernel, an initramfs and a command line into bytes in
// guest memory and the first vCPU's initial state.
//
// [Load] is a pure function of its parameters: the same input gives the same
// bytes and the same [CPUState]. It starts nothing, opens nothing, keeps
// nothing, and knows nothing of KVM; the vmm package translates CPUState to
// registers. It builds no device tree, and it does not run a kernel's 16-bit
// set-up code.
//
// Three kinds of kernel are understood:
//
//   - a 64-bit ELF vmlinux, entered at its entry point by the 64-bit boot
//     protocol (Linux Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"):
//     nothing is decompressed, which makes it the fastest;
//   - a bzImage with a 64-bit entry point (protocol 2.12, XLF_KERNEL_64), as
//     distributions ship it;
//   - an ELF kernel with a PVH entry point (Xen docs/misc/pvh.pandoc and
//     xen/include/public/arch-x86/hvm/start_info.h).
//
// Whatever the kind, the guest finds its RAM in an e820 map, and its processors
// and interrupts in an Intel MultiProcessor table (version 1.4) and, for kernels
// that read no such table, in an ACPI MADT. All addresses are in
// layout_amd64.go, with a picture.
//
// The kernel and the initramfs are untrusted: any byte sequence gives either a
// loaded guest or an [*Error], in bounded time, without an allocation whose
// size the file chooses, and without a write outside guest memory.
//
//	mem, err := guestmem.NewAnonymous(boot.Ranges(512<<20)...)
//	f, err := os.Open("vmlinux")
//	fi, err := f.Stat()
//	base, irq := boot.MMIODevice(0)
//	cpu, err := boot.Load(mem, boot.Params{
//		Kernel: f, KernelSize: fi.Size(),
//		Cmdline: "console=ttyS0 " + boot.MMIODeviceArg(base, boot.MMIODeviceSize, irq),
//		CPUs:    2,
//	})
//	// give cpu to vCPU 0; the other vCPUs wait for their start-up IPI
package boot
