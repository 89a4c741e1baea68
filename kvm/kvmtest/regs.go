package kvmtest

import (
	"fmt"

	"github.com/sandpit-vm/sandpit/kvm"
)

// fmtRegs prints general registers, as a failed test shows them.
func fmtRegs(r kvm.Regs) string {
	return fmt.Sprintf(""+
		"RIP %016x RFLAGS %08x\n"+
		"RAX %016x RBX %016x RCX %016x RDX %016x\n"+
		"RSI %016x RDI %016x RBP %016x RSP %016x\n"+
		"R8  %016x R9  %016x R10 %016x R11 %016x\n"+
		"R12 %016x R13 %016x R14 %016x R15 %016x",
		r.RIP, r.RFLAGS, r.RAX, r.RBX, r.RCX, r.RDX, r.RSI, r.RDI, r.RBP, r.RSP,
		r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15)
}
