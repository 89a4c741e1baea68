package vmm

import (
	"fmt"
	"sync/atomic"

	"github.com/sandpit-vm/sandpit/kvm"
)

// exitKinds bounds the kinds that are counted apart; KVM knows some forty.
const exitKinds = 64

// vcpu is one virtual CPU and the goroutine that runs it.
type vcpu struct {
	m     *Machine
	index int
	vcpu  *kvm.VCPU
	// exits counts VM exits by kind. Written by the vCPU's goroutine, read by
	// Stats.
	exits [exitKinds]atomic.Uint64
	// clock is of the thread.
	clock threadClock
	// dead: nothing can wake it. Written by its goroutine (halt.go).
	dead atomic.Bool
}

func (m *Machine) createVCPUs() error {
	host, err := m.sys.SupportedCPUID()
	if err != nil {
		return err
	}
	for i := range m.cfg.CPUs {
		kv, err := m.vm.CreateVCPU(i)
		if err != nil {
			return fmt.Errorf("vCPU %d: %w", i, err)
		}
		v := &vcpu{m: m, index: i, vcpu: kv}
		m.vcpus = append(m.vcpus, v)
		if i == 0 {
			// Not every host can tell (older AMD, some nested ones): the guest
			// then calibrates.
			if khz, err := kv.TSCKHz(); err == nil {
				m.tscKHz = khz
			}
		}
		if err := kv.SetCPUID(kvm.GuestCPUID(host, i, m.cfg.CPUs, m.tscKHz)); err != nil {
			return fmt.Errorf("vCPU %d: %w", i, err)
		}
	}
	return nil
}

// loop runs the vCPU until the machine ends. The thread stays this vCPU's.
func (v *vcpu) loop() {
	v.vcpu.Bind()
	defer v.vcpu.Unbind()
	v.clock.begin()
	defer v.clock.end()
	m := v.m
	// One for all: it escapes to whoever traces, and a new one for each exit
	// would be an allocation for each.
	var (
		exit kvm.Exit
		err  error
	)
	for m.gate.pass() {
		if exit, err = v.vcpu.Run(); err != nil {
			m.end(nil, &Error{Op: fmt.Sprintf("run vCPU %d", v.index), Err: m.whyNotRun(err)})
			return
		}
		v.exits[min(exit.Kind, exitKinds-1)].Add(1)
		var reason Reason
		if m.cfg.Trace == nil {
			reason = v.handle(&exit)
		} else {
			reason = v.traced(&exit)
		}
		if reason != nil {
			m.end(reason, nil)
			return
		}
	}
}

// handle does what the exit asks for. A Reason ends the machine.
func (v *vcpu) handle(e *kvm.Exit) Reason {
	switch e.Kind {
	case kvm.ExitIO:
		v.handlePIO(e)
	case kvm.ExitMMIO:
		if e.Write {
			v.m.mmio.Write(e.Addr, e.Data)
		} else {
			v.m.mmio.Read(e.Addr, e.Data)
		}
	case kvm.ExitInterrupted:
		// Kicked: the loop looks at the gate.
		if v.m.halt.active.Load() {
			v.lookDead()
		}
	case kvm.ExitShutdown:
		return TripleFault{CPU: v.index, Regs: v.regs()}
	case kvm.ExitInternalError, kvm.ExitFailEntry:
		return InternalError{CPU: v.index, Detail: e.String(), Regs: v.regs()}
	case kvm.ExitHLT:
		// Only without an in-kernel interrupt controller: nothing can wake it.
		return UnknownExit{CPU: v.index, Exit: e.String()}
	default:
		return UnknownExit{CPU: v.index, Exit: e.String()}
	}
	return nil
}

// handlePIO walks the elements of a port access: one, or many for the string
// instructions (rep ins, rep outs).
func (v *vcpu) handlePIO(e *kvm.Exit) {
	for p := range e.Elements() {
		if e.Write {
			v.m.pio.Write(e.Addr, p)
		} else {
			v.m.pio.Read(e.Addr, p)
		}
	}
}

// regs are the registers for a report; zero if they cannot be read any more.
func (v *vcpu) regs() kvm.Regs {
	r, err := v.vcpu.Regs()
	if err != nil {
		v.m.log.Warn("registers of a failed vCPU cannot be read", "cpu", v.index, "err", err)
	}
	return r
}
