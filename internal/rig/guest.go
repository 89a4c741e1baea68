package rig

import (
	"os"

	"github.com/sandpit-vm/sandpit/internal/rig/l1"
)

// InL1 reports whether this process is the init process of L1. It then calls
// RunL1 and nothing else.
func InL1() bool { return os.Getpid() == 1 && os.Args[0] == "/init" }

// RunL1 is L1's init process. It does not return.
func RunL1() { l1.Main() }
