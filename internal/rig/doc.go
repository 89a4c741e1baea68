// Package rig runs a command on a machine with a working KVM. On a host whose
// /dev/kvm runs guest kernels at full speed, that is the host itself. On any
// other (no /dev/kvm, or one that interprets ring 0), it is L1: our own kernel
// in QEMU's software emulation of an AMD processor with SVM, where /dev/kvm is
// the real kvm-amd.
//
//	host                                 │ L1 (QEMU, TCG)
//	                                     │
//	kvmrig ── socketpair ─── virtio-console port ── /init (kvmrig itself)
//	  │ stdin, stdout, stderr,           │               │ fork, exec
//	  │ signals, size, status            │            the command ── /dev/kvm
//	  │                                  │
//	QEMU (dies with kvmrig)              │ /        overlay (tmpfs)
//	host's / ─── 9p, read-only ──────────── /lower  └ below it
//	--share DIR ─ 9p, read-write ────────── DIR
//
// Nothing is written on the host: the kernel comes from the cache of package
// kernel, the initramfs from a memfd, and the port is an inherited descriptor.
//
// A warm rig is one L1 that stays up and serves many commands, found through a
// unix socket. It relays frames between its clients and L1 and renumbers the
// commands; credit is granted end to end, so it buffers at most the windows.
//
// What it does not do: the host's network is not reachable from L1, and what a
// command writes outside a share is gone with L1.
//
//	code, err := rig.Run(rig.Config{Args: []string{"sandpit", "run", "--", "true"}})
//
// Owners: one goroutine, locked to its thread, starts and awaits QEMU (the
// thread's death would kill QEMU, as the process's shall); one reads frames;
// one per output stream writes to the host's file; one forwards signals. The
// goroutine that reads the host's standard input is the only one that is not
// joined: nothing can interrupt such a read, and it ends with the process.
package rig
