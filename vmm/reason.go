package vmm

import (
	"fmt"

	"github.com/sandpit-vm/sandpit/kvm"
)

// Reason says why a guest ended. The types are [Shutdown], [Reset], [Panic],
// [TripleFault], [InternalError], [UnknownExit] and [Stopped]; a type switch
// tells them apart.
type Reason interface {
	fmt.Stringer
	reason()
}

// Shutdown is the guest's own orderly end: it wrote Code to the exit device,
// or its kernel said that it halts and halted, with Code 0.
type Shutdown struct{ Code uint8 }

// Reset is a request to restart, through the keyboard controller (port 0x64,
// command 0xfe). A Machine does not restart; its owner may build another.
type Reset struct{}

// Panic is a Reset that followed a Linux kernel panic on the serial console.
// Message is the panic's own line, which the guest wrote: treat it as
// untrusted text.
type Panic struct{ Message string }

// TripleFault is a vCPU that could not deliver an exception (KVM_EXIT_SHUTDOWN).
type TripleFault struct {
	CPU  int
	Regs kvm.Regs
}

// InternalError is a failure of KVM to run the guest: an instruction it cannot
// emulate, or a state it cannot enter (KVM_EXIT_INTERNAL_ERROR,
// KVM_EXIT_FAIL_ENTRY).
type InternalError struct {
	CPU    int
	Detail string
	Regs   kvm.Regs
}

// UnknownExit is an exit that this VMM does not handle.
type UnknownExit struct {
	CPU  int
	Exit string
}

// Stopped is the host's doing: the context of Run ended, or Close was called.
type Stopped struct{}

func (Shutdown) reason()      {}
func (Reset) reason()         {}
func (Panic) reason()         {}
func (TripleFault) reason()   {}
func (InternalError) reason() {}
func (UnknownExit) reason()   {}
func (Stopped) reason()       {}

func (r Shutdown) String() string { return fmt.Sprintf("guest shut down with code %d", r.Code) }
func (Reset) String() string      { return "guest reset" }
func (r Panic) String() string    { return fmt.Sprintf("guest kernel panic: %s", r.Message) }
func (r TripleFault) String() string {
	return fmt.Sprintf("triple fault on vCPU %d at rip %#x", r.CPU, r.Regs.RIP)
}
func (r InternalError) String() string {
	return fmt.Sprintf("KVM could not run vCPU %d at rip %#x: %s", r.CPU, r.Regs.RIP, r.Detail)
}
func (r UnknownExit) String() string {
	return fmt.Sprintf("vCPU %d: unhandled exit %s", r.CPU, r.Exit)
}
func (Stopped) String() string { return "stopped by the host" }
