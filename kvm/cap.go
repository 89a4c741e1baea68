package kvm

import "fmt"

// Cap is a capability of KVM: the number after KVM_CAP_.
type Cap uint32

// Capabilities that a VMM asks about. CheckExtension takes any other number too.
const (
	CapIRQChip            Cap = 0
	CapUserMemory         Cap = 3
	CapSetTSSAddr         Cap = 4
	CapExtCPUID           Cap = 7
	CapNrVCPUs            Cap = 9  // how many vCPUs are recommended at most
	CapNrMemslots         Cap = 10 // how many memslots a VM can have
	CapMPState            Cap = 14
	CapIRQRouting         Cap = 25
	CapIRQFD              Cap = 32
	CapPIT2               Cap = 33
	CapIOEventFD          Cap = 36
	CapSetIdentityMapAddr Cap = 37
	CapAdjustClock        Cap = 39
	CapVCPUEvents         Cap = 41
	CapDebugRegs          Cap = 50
	CapXSave              Cap = 55
	CapXCRS               Cap = 56
	CapTSCControl         Cap = 60
	CapGetTSCKHz          Cap = 61
	CapMaxVCPUs           Cap = 66 // how many vCPUs a VM can have
	CapTSCDeadlineTimer   Cap = 72
	CapSignalMSI          Cap = 77
	CapReadonlyMem        Cap = 81
	CapSplitIRQChip       Cap = 121
	CapMaxVCPUID          Cap = 128
	CapX2APICAPI          Cap = 129
	CapImmediateExit      Cap = 136
	CapX86DisableExits    Cap = 143
	CapX86UserSpaceMSR    Cap = 188
	CapDirtyLogRing       Cap = 192
	CapXSave2             Cap = 208
)

// info is the capability's C name and the first Linux that has it.
func (c Cap) info() (name, since string) {
	switch c {
	case CapIRQChip:
		return "IRQCHIP", "2.6.24"
	case CapUserMemory:
		return "USER_MEMORY", "2.6.25"
	case CapSetTSSAddr:
		return "SET_TSS_ADDR", "2.6.25"
	case CapExtCPUID:
		return "EXT_CPUID", "2.6.26"
	case CapNrVCPUs:
		return "NR_VCPUS", "2.6.26"
	case CapNrMemslots:
		return "NR_MEMSLOTS", "2.6.26"
	case CapMPState:
		return "MP_STATE", "2.6.27"
	case CapIRQRouting:
		return "IRQ_ROUTING", "2.6.30"
	case CapIRQFD:
		return "IRQFD", "2.6.32"
	case CapPIT2:
		return "PIT2", "2.6.32"
	case CapIOEventFD:
		return "IOEVENTFD", "2.6.32"
	case CapSetIdentityMapAddr:
		return "SET_IDENTITY_MAP_ADDR", "2.6.32"
	case CapAdjustClock:
		return "ADJUST_CLOCK", "2.6.33"
	case CapVCPUEvents:
		return "VCPU_EVENTS", "2.6.33"
	case CapDebugRegs:
		return "DEBUGREGS", "2.6.35"
	case CapXSave:
		return "XSAVE", "2.6.36"
	case CapXCRS:
		return "XCRS", "2.6.36"
	case CapTSCControl:
		return "TSC_CONTROL", "2.6.39"
	case CapGetTSCKHz:
		return "GET_TSC_KHZ", "2.6.39"
	case CapMaxVCPUs:
		return "MAX_VCPUS", "3.1"
	case CapTSCDeadlineTimer:
		return "TSC_DEADLINE_TIMER", "3.3"
	case CapSignalMSI:
		return "SIGNAL_MSI", "3.5"
	case CapReadonlyMem:
		return "READONLY_MEM", "3.7"
	case CapSplitIRQChip:
		return "SPLIT_IRQCHIP", "4.4"
	case CapMaxVCPUID:
		return "MAX_VCPU_ID", "4.7"
	case CapX2APICAPI:
		return "X2APIC_API", "4.8"
	case CapImmediateExit:
		return "IMMEDIATE_EXIT", "4.11"
	case CapX86DisableExits:
		return "X86_DISABLE_EXITS", "4.17"
	case CapX86UserSpaceMSR:
		return "X86_USER_SPACE_MSR", "5.10"
	case CapDirtyLogRing:
		return "DIRTY_LOG_RING", "5.11"
	case CapXSave2:
		return "XSAVE2", "5.17"
	}
	return "", ""
}

// String is the C name, such as KVM_CAP_IRQFD.
func (c Cap) String() string {
	if name, _ := c.info(); name != "" {
		return "KVM_CAP_" + name
	}
	return fmt.Sprintf("KVM capability %d", uint32(c))
}

// Since is the first Linux that has the capability; empty if not known here.
func (c Cap) Since() string {
	_, since := c.info()
	return since
}
