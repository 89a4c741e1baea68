package l1

import "os"

// steadyMemory switches L1's huge pages off, so that nothing compacts or
// collapses memory under a running nested guest. Every such move is a chance for
// the emulation to go wrong, and the gain is small where everything is slow. On
// hardware, where guests do get huge pages, L1 is not used.
func steadyMemory() error {
	return os.WriteFile("/sys/kernel/mm/transparent_hugepage/enabled", []byte("never"), 0)
}
