// The runtime's once-a-second look at its CPU limit would wake an idle guest.
//go:debug updatemaxprocs=0

// Command agent is /init of a sandbox's guest; see package agent.
package main

import (
	"fmt"
	"os"

	"github.com/sandpit-vm/sandpit/guest/agent"
)

func main() {
	switch {
	case os.Args[0] == agent.StageName:
		agent.Stage()
	case os.Getpid() == 1:
		agent.Init()
	default:
		fmt.Fprintln(os.Stderr, "agent: this is PID 1 of a sandbox's guest and does nothing elsewhere")
		os.Exit(2)
	}
}
