package l1

import "os"

// steadyMemory switches L1's huge pages off. With them a nested guest's memory
// is mapped 2 MiB at a time, and under QEMU's emulation (7.2 and 10.0 alike) a
// guest that moved much data then ended in triple faults, or L1's own per-CPU
// data was found overwritten with the guest's zeros. With small pages neither
// was seen. On hardware, where guests do get huge pages, L1 is not used.
func steadyMemory() error {
	return os.WriteFile("/sys/kernel/mm/transparent_hugepage/enabled", []byte("never"), 0)
}
