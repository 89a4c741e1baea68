// Package kernel holds the guest kernel that sandboxes boot: a Linux 6.12
// vmlinux, compressed and embedded, with the configuration it was built from.
//
// The image is an uncompressed 64-bit ELF file with a PVH note, built from
// Debian's source package by build.sh and bit for bit reproducible; README.md
// says how, what it costs and why it is configured as it is. There are no
// modules: what the configuration does not say, no guest can load.
//
//	f, err := kernel.Image().Open(cacheDir) // decompressed once, verified
//	if err != nil {
//		return err
//	}
//	defer f.Close()
//	state, err := boot.Load(mem, boot.Params{Kernel: f, KernelSize: kernel.Image().Size})
//
// The package does not boot anything and knows nothing of KVM.
//
// The image is licensed under the GPL, version 2 only, with the Linux syscall
// note (see COPYING); the Go files around it under the module's own licence.
package kernel
