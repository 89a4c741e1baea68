package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// kvmDebug has KVM's counters, each the sum over the machines there are
// (Linux, virt/kvm/kvm_main.c, kvm_init_debug).
const kvmDebug = "/sys/kernel/debug/kvm"

// The counters that are printed: all exits of guests; those that a monitor's
// process had to serve, by memory and by port; those for a halt; and those for
// the host's own interrupts.
const (
	statExits = "exits"
	statMMIO  = "mmio_exits"
	statPIO   = "io_exits"
	statHalt  = "halt_exits"
	statIRQ   = "irq_exits"
)

var stats = []string{statExits, statMMIO, statPIO, statHalt, statIRQ}

// counters are KVM's.
type counters map[string]int64

// readCounters returns nothing where they cannot be read.
func readCounters() counters {
	c := counters{}
	for _, name := range stats {
		data, err := os.ReadFile(filepath.Join(kvmDebug, name))
		if err != nil {
			return nil
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		if err != nil {
			return nil
		}
		c[name] = n
	}
	return c
}

// since is what was counted from then on.
func (c counters) since(then counters) counters {
	if c == nil || then == nil {
		return nil
	}
	d := counters{}
	for name := range c {
		d[name] = c[name] - then[name]
	}
	return d
}
