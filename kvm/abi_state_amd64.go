package kvm

import "structs"

// Regs are the general registers (struct kvm_regs).
type Regs struct {
	_                                      structs.HostLayout
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFLAGS                            uint64
}

// Segment is a segment register with its hidden part (struct kvm_segment).
type Segment struct {
	_        structs.HostLayout
	Base     uint64
	Limit    uint32 // in bytes, whatever G says
	Selector uint16
	Type     uint8
	Present  uint8
	DPL      uint8
	DB       uint8
	S        uint8
	L        uint8
	G        uint8
	AVL      uint8
	Unusable uint8
	Padding  uint8
}

// DTable is a descriptor table register (struct kvm_dtable).
type DTable struct {
	_       structs.HostLayout
	Base    uint64
	Limit   uint16
	Padding [3]uint16
}

// Sregs are the special registers (struct kvm_sregs).
type Sregs struct {
	_                       structs.HostLayout
	CS, DS, ES, FS, GS, SS  Segment
	TR, LDT                 Segment
	GDT, IDT                DTable
	CR0, CR2, CR3, CR4, CR8 uint64
	EFER                    uint64
	APICBase                uint64
	InterruptBitmap         [4]uint64
}

// FPU is the x87 and SSE state (struct kvm_fpu).
type FPU struct {
	_          structs.HostLayout
	FPR        [8][16]uint8
	FCW        uint16
	FSW        uint16
	FTWX       uint8 // in FXSAVE's format
	Pad1       uint8
	LastOpcode uint16
	LastIP     uint64
	LastDP     uint64
	XMM        [16][16]uint8
	MXCSR      uint32
	Pad2       uint32
}

// LAPICState is the local APIC's register page (struct kvm_lapic_state).
type LAPICState struct {
	_    structs.HostLayout
	Regs [0x400]byte
}

// XSave is the extended state in XSAVE's layout (struct kvm_xsave).
type XSave struct {
	_      structs.HostLayout
	Region [1024]uint32
}

// XCR is one extended control register (struct kvm_xcr).
type XCR struct {
	_        structs.HostLayout
	XCR      uint32 // its number
	Reserved uint32
	Value    uint64
}

// XCRS are the extended control registers (struct kvm_xcrs).
type XCRS struct {
	_       structs.HostLayout
	NrXCRS  uint32
	Flags   uint32
	XCRS    [16]XCR
	Padding [16]uint64
}

// MSR is a model-specific register (struct kvm_msr_entry).
type MSR struct {
	_        structs.HostLayout
	Index    uint32
	Reserved uint32
	Data     uint64
}

// CPUIDEntry is what one CPUID leaf answers (struct kvm_cpuid_entry2).
type CPUIDEntry struct {
	_        structs.HostLayout
	Function uint32 // EAX of the question
	Index    uint32 // ECX of the question, if Flags has bit 0
	Flags    uint32
	EAX      uint32
	EBX      uint32
	ECX      uint32
	EDX      uint32
	Padding  [3]uint32
}

// VCPUEvents are pending exceptions, interrupts and NMIs (struct kvm_vcpu_events).
type VCPUEvents struct {
	_         structs.HostLayout
	Exception struct {
		Injected     uint8
		Nr           uint8
		HasErrorCode uint8
		Pending      uint8
		ErrorCode    uint32
	}
	Interrupt struct {
		Injected uint8
		Nr       uint8
		Soft     uint8
		Shadow   uint8
	}
	NMI struct {
		Injected uint8
		Pending  uint8
		Masked   uint8
		Pad      uint8
	}
	SIPIVector uint32
	Flags      uint32
	SMI        struct {
		SMM          uint8
		Pending      uint8
		SMMInsideNMI uint8
		LatchedInit  uint8
	}
	TripleFault struct {
		Pending uint8
	}
	Reserved            [26]uint8
	ExceptionHasPayload uint8
	ExceptionPayload    uint64
}

// DebugRegs are the debug registers (struct kvm_debugregs).
type DebugRegs struct {
	_        structs.HostLayout
	DB       [4]uint64 // DR0 to DR3
	DR6      uint64
	DR7      uint64
	Flags    uint64
	Reserved [9]uint64
}

// GuestDebug asks for debug exits (struct kvm_guest_debug).
type GuestDebug struct {
	_       structs.HostLayout
	Control uint32 // GuestDebugEnable, GuestDebugSingleStep, …
	Pad     uint32
	Arch    [8]uint64 // DR0 to DR7, for hardware breakpoints
}

// Bits of GuestDebug.Control (KVM_GUESTDBG_*).
const (
	GuestDebugEnable     = 1 << 0
	GuestDebugSingleStep = 1 << 1
	GuestDebugSWBP       = 1 << 16
	GuestDebugHWBP       = 1 << 17
)

// Translation is the answer of a walk of the guest's page tables
// (struct kvm_translation).
type Translation struct {
	_               structs.HostLayout
	LinearAddress   uint64
	PhysicalAddress uint64
	Valid           uint8
	Writeable       uint8
	Usermode        uint8
	Pad             [5]uint8
}

// ClockData is the VM's clock (struct kvm_clock_data).
type ClockData struct {
	_        structs.HostLayout
	Clock    uint64 // kvmclock, nanoseconds
	Flags    uint32 // ClockTSCStable, ClockRealtime, ClockHostTSC
	Pad0     uint32
	Realtime uint64 // host's wall clock at that moment, nanoseconds, if ClockRealtime
	HostTSC  uint64 // host's TSC at that moment, if ClockHostTSC
	Pad      [4]uint32
}

// Bits of ClockData.Flags (KVM_CLOCK_*).
const (
	ClockTSCStable = 1 << 1
	ClockRealtime  = 1 << 2
	ClockHostTSC   = 1 << 3
)

// PITChannel is one counter of the timer (struct kvm_pit_channel_state).
type PITChannel struct {
	_             structs.HostLayout
	Count         uint32
	LatchedCount  uint16
	CountLatched  uint8
	StatusLatched uint8
	Status        uint8
	ReadState     uint8
	WriteState    uint8
	WriteLatch    uint8
	RWMode        uint8
	Mode          uint8
	BCD           uint8
	Gate          uint8
	CountLoadTime int64
}

// PITState is the in-kernel timer's state (struct kvm_pit_state2).
type PITState struct {
	_        structs.HostLayout
	Channels [3]PITChannel
	Flags    uint32
	Reserved [9]uint32
}

// MPState is whether a vCPU runs, waits or was never started.
type MPState uint32

// The states of an x86 vCPU (KVM_MP_STATE_*).
const (
	MPRunnable MPState = iota
	MPUninitialized
	MPInitReceived
	MPHalted
	MPSIPIReceived
)
