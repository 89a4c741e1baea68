// Package hostile is a guest that attacks its machine: a program of a few
// hundred bytes, without an operating system, that carries out accesses to
// device registers, ports and memory as it is told, on one or two vCPUs. What it
// is told is decided outside, by the attacks in this package's tests: each has
// the number of the threat that it is (docs/threats.md), and is judged PASS, FAIL
// or WEDGED.
//
//	g := hostile.NewGuest()
//	m, _ := vmm.New(vmm.Config{CPUs: 2, Memory: hostile.Memory, Load: g.Load, PIO: g.Windows(), Virtio: …})
//	go m.Run(ctx)
//	g.CPU(0).Store(0xd0000070, 4, 0) // a vCPU writes zero to a Status register
//
// The same attacks run in process too, against heap-backed memory, where the race
// detector sees what happens. The package is for tests only.
package hostile
