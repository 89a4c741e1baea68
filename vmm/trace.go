package vmm

import (
	"fmt"
	"strings"
	"time"

	"github.com/sandpit-vm/sandpit/boot"
	"github.com/sandpit-vm/sandpit/devices"
	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/virtio"
)

// EventKind says what an Event is about.
type EventKind uint8

const (
	EventStep       EventKind = iota + 1 // New has built a part of the machine
	EventExit                            // a vCPU left the guest, and was served
	EventQueue                           // a virtio device used chains of a queue
	EventNeedsReset                      // a virtio device gave up
)

func (k EventKind) String() string {
	switch k {
	case EventStep:
		return "step"
	case EventExit:
		return "exit"
	case EventQueue:
		return "queue"
	case EventNeedsReset:
		return "needs-reset"
	}
	return fmt.Sprintf("event %d", uint8(k))
}

// Event is what Config.Trace is told. Exit and what it points to are valid only
// during the call.
type Event struct {
	Kind EventKind
	// Time is since New was called: when the exit happened, or the step began.
	Time time.Duration
	// Took is how long the step or the serving of the exit took.
	Took time.Duration

	// CPU is the vCPU of an EventExit. Exit has been served: the Data of a read
	// is what the guest gets.
	CPU  int
	Exit *kvm.Exit
	// Device is the name of the device whose window was accessed, or that has
	// the queue, and Offset the place in the window; "" for exits that reach no
	// device.
	Device string
	Offset uint64
	// Register and Note decode an access: the register's name, and what its
	// value means; "" where there is nothing to say.
	Register, Note string
	// Queue is the queue of an EventQueue, and of accesses to a register that
	// belongs to one. Chains is how many were used in one go.
	Queue, Chains int
	// Text tells an EventStep and an EventNeedsReset.
	Text string
}

// step runs a part of New.
func (m *Machine) step(op string, run func() error) error {
	start := time.Now()
	if err := run(); err != nil {
		return &Error{Op: op, Err: err}
	}
	if m.cfg.Trace == nil {
		return nil
	}
	took := time.Since(start)
	if text := m.stepText(op); text != "" {
		m.cfg.Trace(Event{Kind: EventStep, Time: start.Sub(m.birth), Took: took, Text: op + ": " + text})
	}
	return nil
}

// stepText says what a part of New consisted of; "" if it had nothing to do.
func (m *Machine) stepText(op string) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	switch op {
	case "guest memory":
		for _, r := range m.mem.Regions() {
			add("%d KiB at %#x", r.Size>>10, uint64(r.Base))
		}
	case "virtual machine":
		add("KVM_CREATE_VM, KVM_SET_TSS_ADDR %#x, KVM_SET_IDENTITY_MAP_ADDR %#x", uint64(boot.KVMTSS), uint64(boot.KVMIdentityMap))
	case "memory slots":
		add("%d × KVM_SET_USER_MEMORY_REGION", len(m.mem.Regions()))
	case "persistent memory":
		for i, p := range m.pmem {
			r := p.mem.Regions()[0]
			add("%s, %d KiB at %#x, read-only", m.cfg.PMem[i].Name, r.Size>>10, uint64(r.Base))
		}
	case "interrupt controller":
		add("KVM_CREATE_IRQCHIP")
		if m.cfg.PIT {
			add("KVM_CREATE_PIT2")
		}
	case "platform devices":
		add("serial at port %#x, rtc at %#x, i8042 at %#x, exit at %#x", boot.SerialPort, boot.RTCPort, boot.I8042Port, boot.ExitPort)
		for _, w := range m.cfg.PIO {
			add("%s at port %#x", w.Name, w.Base)
		}
		for _, w := range m.cfg.MMIO {
			add("%s at %#x", w.Name, w.Base)
		}
	case "virtio devices":
		for i, d := range m.cfg.Virtio {
			base, irq := boot.MMIODevice(i)
			add("%s at %#x, interrupt %d", d.Name, base, irq)
		}
	case "vCPUs":
		add("%d × KVM_CREATE_VCPU, KVM_SET_CPUID2", len(m.vcpus))
	case "load":
		if regs, err := m.vcpus[0].vcpu.Regs(); err == nil {
			add("vCPU 0 will start at %#x", regs.RIP)
		}
	case "events":
		queues := 0
		for _, d := range m.cfg.Virtio {
			queues += len(d.Device.QueueSizes())
		}
		add("%d × KVM_IRQFD, %d × KVM_IOEVENTFD", len(m.lines), queues)
	}
	return strings.Join(parts, "; ")
}

// traceDevice has the device's own events traced.
func (m *Machine) traceDevice(name string, t *virtio.MMIO) {
	t.SetTrace(func(e virtio.Event) {
		ev := Event{Time: time.Since(m.birth), Device: name}
		switch e.Kind {
		case virtio.EventQueue:
			ev.Kind, ev.Queue, ev.Chains = EventQueue, e.Queue, e.Chains
		case virtio.EventNeedsReset:
			ev.Kind, ev.Text = EventNeedsReset, e.Err.Error()
		default:
			return // accesses are exits, which are told anyway
		}
		m.cfg.Trace(ev)
	})
}

// traced is handle for a machine that is traced.
func (v *vcpu) traced(e *kvm.Exit) Reason {
	m := v.m
	start := time.Now()
	reason := v.handle(e)
	ev := Event{Kind: EventExit, Time: start.Sub(m.birth), Took: time.Since(start), CPU: v.index, Exit: e}
	switch e.Kind {
	case kvm.ExitIO:
		ev.Device, ev.Offset, _ = m.pio.Lookup(e.Addr)
		ev.Register = devices.RegisterName(ev.Device, ev.Offset, e.Write)
		if ev.Device == "" {
			ev.Note = devices.PortName(e.Addr)
		}
	case kvm.ExitMMIO:
		ev.Device, ev.Offset, _ = m.mmio.Lookup(e.Addr)
		if t := m.window(e.Addr); t != nil {
			a := t.Describe(ev.Offset, e.Write, e.Data)
			ev.Register, ev.Note, ev.Queue = a.Register, a.Note, a.Queue
		}
	}
	m.cfg.Trace(ev)
	return reason
}

// window is the virtio device at an address, nil if there is none.
func (m *Machine) window(addr uint64) *virtio.MMIO {
	n := (addr - boot.MMIODeviceBase) / boot.MMIODeviceSize
	if addr < boot.MMIODeviceBase || n >= uint64(len(m.virtio)) {
		return nil
	}
	return m.virtio[n]
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
