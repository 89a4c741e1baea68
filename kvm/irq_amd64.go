package kvm

import "fmt"

// CreateIRQChip makes the interrupt controllers in the kernel: two PICs, an
// I/O APIC at 0xfec00000 and a local APIC at 0xfee00000 for every vCPU made
// from then on.
func (vm *VM) CreateIRQChip() error {
	_, err := ioctlVal(vm.fd, "KVM_CREATE_IRQCHIP", _KVM_CREATE_IRQCHIP, 0)
	return err
}

// EnableSplitIRQChip leaves only the local APICs in the kernel. The PICs and the
// I/O APIC with its pins are the VMM's, which delivers through SetGSIRouting and
// irqfds or SignalMSI, and gets ExitIOAPICEOI. Instead of CreateIRQChip.
func (vm *VM) EnableSplitIRQChip(pins int) error {
	n, err := vm.CheckExtension(CapSplitIRQChip)
	if err != nil {
		return err
	}
	if n == 0 {
		return unavailable("KVM_ENABLE_CAP", CapSplitIRQChip)
	}
	return vm.EnableCap(CapSplitIRQChip, uint64(pins))
}

// CreatePIT2 makes the 8254 timer in the kernel, on ports 0x40 to 0x43 and
// 0x61, wired to GSI 0. It needs CreateIRQChip.
func (vm *VM) CreatePIT2() error {
	_, err := ioctlPtr(vm.fd, "KVM_CREATE_PIT2", _KVM_CREATE_PIT2, &kvmPITConfig{flags: _KVM_PIT_SPEAKER_DUMMY})
	return err
}

// PIT2 reads the timer's state.
func (vm *VM) PIT2() (PITState, error) {
	var s PITState
	_, err := ioctlPtr(vm.fd, "KVM_GET_PIT2", _KVM_GET_PIT2, &s)
	return s, err
}

// SetPIT2 sets the timer's state.
func (vm *VM) SetPIT2(s PITState) error {
	_, err := ioctlPtr(vm.fd, "KVM_SET_PIT2", _KVM_SET_PIT2, &s)
	return err
}

// Chip is one of the interrupt controllers that CreateIRQChip makes.
type Chip uint32

// The chips (KVM_IRQCHIP_*).
const (
	PICMaster Chip = iota
	PICSlave
	IOAPIC
)

// IRQChip reads a chip's state, in the kernel's layout.
func (vm *VM) IRQChip(c Chip) ([512]byte, error) {
	arg := kvmIRQChip{chipID: uint32(c)}
	_, err := ioctlPtr(vm.fd, "KVM_GET_IRQCHIP", _KVM_GET_IRQCHIP, &arg)
	return arg.chip, err
}

// SetIRQChip sets a chip's state.
func (vm *VM) SetIRQChip(c Chip, state [512]byte) error {
	_, err := ioctlPtr(vm.fd, "KVM_SET_IRQCHIP", _KVM_SET_IRQCHIP, &kvmIRQChip{chipID: uint32(c), chip: state})
	return err
}

// SetIRQLine drives an interrupt line. An edge is true and then false.
func (vm *VM) SetIRQLine(gsi uint32, level bool) error {
	arg := kvmIRQLevel{irq: gsi}
	if level {
		arg.level = 1
	}
	_, err := ioctlPtr(vm.fd, "KVM_IRQ_LINE", _KVM_IRQ_LINE, &arg)
	return err
}

// SignalMSI delivers a message-signalled interrupt.
func (vm *VM) SignalMSI(addr uint64, data uint32) error {
	arg := kvmMSI{addressLo: uint32(addr), addressHi: uint32(addr >> 32), data: data}
	_, err := ioctlPtr(vm.fd, "KVM_SIGNAL_MSI", _KVM_SIGNAL_MSI, &arg)
	return err
}

// IRQFD makes every write to the eventfd fd an edge on interrupt gsi, without
// this process. KVM holds the eventfd; fd may be closed.
func (vm *VM) IRQFD(gsi uint32, fd int) error {
	return vm.irqfd(gsi, fd, 0)
}

// RemoveIRQFD undoes IRQFD.
func (vm *VM) RemoveIRQFD(gsi uint32, fd int) error {
	return vm.irqfd(gsi, fd, _KVM_IRQFD_FLAG_DEASSIGN)
}

func (vm *VM) irqfd(gsi uint32, fd int, flags uint32) error {
	_, err := ioctlPtr(vm.fd, "KVM_IRQFD", _KVM_IRQFD, &kvmIRQFD{fd: uint32(fd), gsi: gsi, flags: flags})
	return err
}

// IOEvent is a write of the guest that signals an eventfd instead of exiting.
type IOEvent struct {
	Addr      uint64  // GPA, or port
	Len       uint32  // width of the write: 1, 2, 4 or 8; 0 for any
	DataMatch *uint64 // only writes of this value; nil for any; Len must not be 0
	PIO       bool    // Addr is a port
	FD        int     // the eventfd; KVM holds it, so it may be closed
}

// IOEventFD registers e. Reads, and writes of other widths and values, exit as ever.
func (vm *VM) IOEventFD(e IOEvent) error { return vm.ioeventfd(e, 0) }

// RemoveIOEventFD undoes IOEventFD of the same e.
func (vm *VM) RemoveIOEventFD(e IOEvent) error {
	return vm.ioeventfd(e, _KVM_IOEVENTFD_FLAG_DEASSIGN)
}

func (vm *VM) ioeventfd(e IOEvent, flags uint32) error {
	arg := kvmIOEventFD{addr: e.Addr, len: e.Len, fd: int32(e.FD), flags: flags}
	if e.DataMatch != nil {
		arg.datamatch = *e.DataMatch
		arg.flags |= _KVM_IOEVENTFD_FLAG_DATAMATCH
	}
	if e.PIO {
		arg.flags |= _KVM_IOEVENTFD_FLAG_PIO
	}
	_, err := ioctlPtr(vm.fd, "KVM_IOEVENTFD", _KVM_IOEVENTFD, &arg)
	return err
}

// Route says where an interrupt line leads: to a pin of a chip, or into an MSI.
type Route struct {
	GSI  uint32
	MSI  bool
	Chip Chip   // unless MSI
	Pin  uint32 // unless MSI
	Addr uint64 // if MSI
	Data uint32 // if MSI
}

// SetGSIRouting replaces the whole routing table, at most 512 routes.
// CreateIRQChip installs the usual one: GSI 0 to 15 to the PICs, 0 to 23 to
// the I/O APIC.
func (vm *VM) SetGSIRouting(routes []Route) error {
	const op = "KVM_SET_GSI_ROUTING"
	if len(routes) > maxRoutes {
		return &Error{op, fmt.Errorf("%w: %d routes, at most %d", ErrInvalid, len(routes), maxRoutes)}
	}
	buf := new(kvmIRQRoutingBuf)
	buf.head.nr = uint32(len(routes))
	for i, r := range routes {
		e := &buf.entries[i]
		e.gsi = r.GSI
		if r.MSI {
			e.typ = _KVM_IRQ_ROUTING_MSI
			e.u[0], e.u[1], e.u[2] = uint32(r.Addr), uint32(r.Addr>>32), r.Data
		} else {
			e.typ = _KVM_IRQ_ROUTING_IRQCHIP
			e.u[0], e.u[1] = uint32(r.Chip), r.Pin
		}
	}
	_, err := ioctlPtr(vm.fd, op, _KVM_SET_GSI_ROUTING, buf)
	return err
}
