package vmm

import (
	"bytes"
	"sync/atomic"
	"time"

	"github.com/sandpit-vm/sandpit/kvm"
)

// A kernel that knows no way to switch the power off ends reboot(2) in a loop
// of HLT with interrupts disabled, on every vCPU: nothing will ever wake it,
// and with an in-kernel interrupt controller KVM never says so. The line that
// Linux prints first is the occasion to look at the vCPUs; the vCPUs decide.

// haltMarkers are what Linux prints before it halts (kernel/reboot.c; the last
// without an end of line). They have the highest priority: a quiet kernel
// prints them too.
var haltMarkers = [][]byte{
	[]byte("reboot: System halted"),
	[]byte("reboot: Power down"),
	[]byte("reboot: Power off not available: System halted instead"),
}

const (
	haltPoll = 10 * time.Millisecond
	// haltPatience bounds how long the vCPUs are looked at after such a line:
	// a guest may print it without meaning it.
	haltPatience = 5 * time.Second
	// haltRest follows a look that found a machine alive.
	haltRest = 30 * time.Second
)

// haltWatch notices a machine that has halted for good.
type haltWatch struct {
	// asked has room for one: more lines ask for nothing more.
	asked  chan struct{}
	active atomic.Bool
}

// line is told every line of the serial console, as it grows.
func (w *haltWatch) line(text []byte) {
	for _, marker := range haltMarkers {
		if bytes.HasSuffix(text, marker) {
			select {
			case w.asked <- struct{}{}:
			default:
			}
		}
	}
}

// watchHalt ends the machine once all its vCPUs have halted for good. It is
// the goroutine of a running machine and ends with it.
func (m *Machine) watchHalt() {
	for {
		select {
		case <-m.ending:
			return
		case <-m.halt.asked:
		}
		// What an earlier look saw says nothing now.
		for _, v := range m.vcpus {
			v.dead.Store(false)
		}
		m.halt.active.Store(true)
		for deadline := time.Now().Add(haltPatience); time.Now().Before(deadline); {
			for _, v := range m.vcpus {
				v.vcpu.Kick()
			}
			select {
			case <-m.ending:
				return
			case <-time.After(haltPoll):
			}
			if m.allDead() {
				m.end(Shutdown{}, nil)
				return
			}
		}
		m.halt.active.Store(false)
		// A guest that prints such lines for fun is not looked at all the time.
		select {
		case <-m.ending:
			return
		case <-time.After(haltRest):
		}
	}
}

func (m *Machine) allDead() bool {
	for _, v := range m.vcpus {
		if !v.dead.Load() {
			return false
		}
	}
	return true
}

// lookDead notes whether the vCPU waits, in HLT, for an interrupt that it has
// disabled, or was never started. Called on the vCPU's own thread, outside
// KVM_RUN.
func (v *vcpu) lookDead() {
	state, err := v.vcpu.MPState()
	if err != nil {
		v.m.log.Warn("vCPU cannot be looked at", "cpu", v.index, "err", err)
		return
	}
	dead := state == kvm.MPUninitialized
	if state == kvm.MPHalted {
		regs, err := v.vcpu.Regs()
		if err != nil {
			v.m.log.Warn("vCPU cannot be looked at", "cpu", v.index, "err", err)
			return
		}
		const interruptFlag = 1 << 9 // RFLAGS.IF
		dead = regs.RFLAGS&interruptFlag == 0
	}
	v.dead.Store(dead)
}
