package vmm

import (
	"context"
	"fmt"

	"github.com/sandpit-vm/sandpit/kvm"
)

// Registers are where a vCPU is.
type Registers struct {
	kvm.Regs
	kvm.Sregs
	// MPState tells whether it runs, waits in HLT, or was never started.
	MPState kvm.MPState
}

// Running tells whether the vCPU executes instructions.
func (r *Registers) Running() bool { return r.MPState == kvm.MPRunnable }

// Registers stops every vCPU for a moment, between two instructions, and
// returns their registers, in the vCPUs' order. A paused machine stays paused.
// The guest notices nothing but the time.
func (m *Machine) Registers(ctx context.Context) (all []Registers, err error) {
	if !m.started.Load() {
		return nil, &Error{Op: "read registers", Err: errNotRunning}
	}
	m.pausing.Lock()
	defer m.pausing.Unlock()
	if !m.gate.isShut() {
		defer m.gate.open()
	}
	if err := m.stopVCPUs(ctx); err != nil {
		return nil, &Error{Op: "read registers", Err: err}
	}
	for _, v := range m.vcpus {
		r, err := v.registers()
		if err != nil {
			return nil, &Error{Op: fmt.Sprintf("read registers of vCPU %d", v.index), Err: err}
		}
		all = append(all, r)
	}
	return all, nil
}

// registers is for a vCPU outside KVM_RUN: within it, the system call waits.
func (v *vcpu) registers() (r Registers, err error) {
	if r.Regs, err = v.vcpu.Regs(); err != nil {
		return r, err
	}
	if r.Sregs, err = v.vcpu.Sregs(); err != nil {
		return r, err
	}
	r.MPState, err = v.vcpu.MPState()
	return r, err
}
