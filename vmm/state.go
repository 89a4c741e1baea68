package vmm

import (
	"github.com/sandpit-vm/sandpit/boot"
	"github.com/sandpit-vm/sandpit/kvm"
)

// setState puts the first vCPU where the loader wants it. What a CPUState does
// not say keeps KVM's reset value: the registers of the local APIC, its base
// address among them, and those a kernel sets before it reads them.
func (v *vcpu) setState(s *boot.CPUState) error {
	sregs, err := v.vcpu.Sregs()
	if err != nil {
		return err
	}
	sregs.CS, sregs.DS, sregs.ES = segment(s.CS), segment(s.DS), segment(s.ES)
	sregs.FS, sregs.GS, sregs.SS = segment(s.FS), segment(s.GS), segment(s.SS)
	sregs.TR, sregs.LDT = segment(s.TR), segment(s.LDT)
	sregs.GDT, sregs.IDT = table(s.GDT), table(s.IDT)
	sregs.CR0, sregs.CR2, sregs.CR3, sregs.CR4 = s.CR0, s.CR2, s.CR3, s.CR4
	sregs.EFER = s.EFER
	if err := v.vcpu.SetSregs(sregs); err != nil {
		return err
	}
	return v.vcpu.SetRegs(kvm.Regs{
		RAX: s.RAX, RBX: s.RBX, RCX: s.RCX, RDX: s.RDX,
		RSI: s.RSI, RDI: s.RDI, RSP: s.RSP, RBP: s.RBP,
		R8: s.R8, R9: s.R9, R10: s.R10, R11: s.R11,
		R12: s.R12, R13: s.R13, R14: s.R14, R15: s.R15,
		RIP: s.RIP, RFLAGS: s.RFLAGS,
	})
}

func segment(s boot.Segment) kvm.Segment {
	return kvm.Segment{
		Base: s.Base, Limit: s.Limit, Selector: s.Selector, Type: s.Type,
		Present: s.Present, DPL: s.DPL, DB: s.DB, S: s.S, L: s.L, G: s.G,
		AVL: s.AVL, Unusable: s.Unusable,
	}
}

func table(t boot.Table) kvm.DTable { return kvm.DTable{Base: t.Base, Limit: t.Limit} }
