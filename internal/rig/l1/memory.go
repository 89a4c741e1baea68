package l1

import (
	"errors"
	"os"
)

// steadyMemory keeps L1's kernel from moving memory about: no compaction, no
// collapsing of small pages into huge ones. Either takes pages from under a
// running nested guest, whose next access then faults in L1; when that access
// is the delivery of an interrupt, QEMU's emulation (7.2) was seen to end the
// guest with a triple fault. Huge pages still come where they are asked for,
// when they are first touched.
func steadyMemory() error {
	const thp = "/sys/kernel/mm/transparent_hugepage/"
	return errors.Join(
		os.WriteFile(thp+"defrag", []byte("never"), 0),
		os.WriteFile(thp+"khugepaged/defrag", []byte("0"), 0),
		os.WriteFile(thp+"khugepaged/scan_sleep_millisecs", []byte("4294967295"), 0),
		os.WriteFile(thp+"khugepaged/pages_to_scan", []byte("1"), 0),
		os.WriteFile("/proc/sys/vm/compaction_proactiveness", []byte("0"), 0),
	)
}
