package vmm

import (
	"time"

	"github.com/sandpit-vm/sandpit/kvm"
)

// Event is one VM exit as Config.Trace sees it. Data and the device are valid
// only during the call.
type Event struct {
	// Time since Run began, at the exit.
	Time time.Duration
	CPU  int
	Exit *kvm.Exit
	// Device is the name of the device whose window was accessed, and Offset
	// the place in it; "" for exits that reach no device.
	Device string
	Offset uint64
}

func (m *Machine) trace(cpu int, e *kvm.Exit) {
	ev := Event{Time: time.Since(m.startTime), CPU: cpu, Exit: e}
	switch e.Kind {
	case kvm.ExitIO:
		ev.Device, ev.Offset, _ = m.pio.Lookup(e.Addr)
	case kvm.ExitMMIO:
		ev.Device, ev.Offset, _ = m.mmio.Lookup(e.Addr)
	}
	m.cfg.Trace(ev)
}

// Stats counts what a machine did so far.
type Stats struct {
	// Exits holds the number of VM exits by kind, over all vCPUs, without the
	// kinds that did not occur.
	Exits map[kvm.ExitKind]uint64
	// CPUTime is what the vCPUs' threads used of the host's CPUs, in the guest
	// and for it: what an exit takes, and KVM's waiting for a halted vCPU that
	// may wake at once, are part of it.
	CPUTime time.Duration
	// Uptime is since Run was called; 0 before.
	Uptime time.Duration
}

// Stats returns the counters at this moment; they are read one by one while
// the machine runs.
func (m *Machine) Stats() Stats {
	s := Stats{Exits: make(map[kvm.ExitKind]uint64)}
	m.mu.Lock()
	if !m.startTime.IsZero() {
		s.Uptime = time.Since(m.startTime)
	}
	m.mu.Unlock()
	for _, v := range m.vcpus {
		s.CPUTime += v.clock.read()
		for kind := range v.exits {
			if n := v.exits[kind].Load(); n > 0 {
				s.Exits[kvm.ExitKind(kind)] += n
			}
		}
	}
	return s
}
