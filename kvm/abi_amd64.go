package kvm

import (
	"structs"
	"unsafe"
)

//go:generate sh testdata/abi.sh

// The kernel's ABI, as in Linux's include/uapi/linux/kvm.h and
// arch/x86/include/uapi/asm/kvm.h. TestABI compares every structure, field by
// field, and every request number with testdata/abi_amd64.golden, which a C
// program generated from the headers. State that callers see is in
// abi_state_amd64.go.

const (
	_KVMIO           = 0xae
	_KVM_API_VERSION = 12

	iocNone  = 0
	iocWrite = 1
	iocRead  = 2
)

// ioc composes a request number as _IOC of include/uapi/asm-generic/ioctl.h.
// The size is that of the structure without its flexible array.
const (
	iocSizeShift = 16
	iocDirShift  = 30
	ior          = iocRead<<iocDirShift | _KVMIO<<8
	iow          = iocWrite<<iocDirShift | _KVMIO<<8
	iowr         = (iocRead|iocWrite)<<iocDirShift | _KVMIO<<8
	io_          = iocNone<<iocDirShift | _KVMIO<<8
)

// Requests. Those without a structure take a plain number, or nothing.
const (
	// of the system
	_KVM_GET_API_VERSION     = io_ // | 0x00
	_KVM_CREATE_VM           = io_ | 0x01
	_KVM_GET_MSR_INDEX_LIST  = iowr | 0x02 | unsafe.Sizeof(kvmMSRList{})<<iocSizeShift
	_KVM_CHECK_EXTENSION     = io_ | 0x03
	_KVM_GET_VCPU_MMAP_SIZE  = io_ | 0x04
	_KVM_GET_SUPPORTED_CPUID = iowr | 0x05 | unsafe.Sizeof(kvmCPUID2{})<<iocSizeShift

	// of a VM
	_KVM_CREATE_VCPU            = io_ | 0x41
	_KVM_GET_DIRTY_LOG          = iow | 0x42 | unsafe.Sizeof(kvmDirtyLog{})<<iocSizeShift
	_KVM_SET_USER_MEMORY_REGION = iow | 0x46 | unsafe.Sizeof(kvmUserspaceMemoryRegion{})<<iocSizeShift
	_KVM_SET_TSS_ADDR           = io_ | 0x47
	_KVM_SET_IDENTITY_MAP_ADDR  = iow | 0x48 | unsafe.Sizeof(uint64(0))<<iocSizeShift
	_KVM_CREATE_IRQCHIP         = io_ | 0x60
	_KVM_IRQ_LINE               = iow | 0x61 | unsafe.Sizeof(kvmIRQLevel{})<<iocSizeShift
	_KVM_GET_IRQCHIP            = iowr | 0x62 | unsafe.Sizeof(kvmIRQChip{})<<iocSizeShift
	_KVM_SET_IRQCHIP            = ior | 0x63 | unsafe.Sizeof(kvmIRQChip{})<<iocSizeShift
	_KVM_SET_GSI_ROUTING        = iow | 0x6a | unsafe.Sizeof(kvmIRQRouting{})<<iocSizeShift
	_KVM_IRQFD                  = iow | 0x76 | unsafe.Sizeof(kvmIRQFD{})<<iocSizeShift
	_KVM_CREATE_PIT2            = iow | 0x77 | unsafe.Sizeof(kvmPITConfig{})<<iocSizeShift
	_KVM_IOEVENTFD              = iow | 0x79 | unsafe.Sizeof(kvmIOEventFD{})<<iocSizeShift
	_KVM_SET_CLOCK              = iow | 0x7b | unsafe.Sizeof(ClockData{})<<iocSizeShift
	_KVM_GET_CLOCK              = ior | 0x7c | unsafe.Sizeof(ClockData{})<<iocSizeShift
	_KVM_GET_PIT2               = ior | 0x9f | unsafe.Sizeof(PITState{})<<iocSizeShift
	_KVM_SET_PIT2               = iow | 0xa0 | unsafe.Sizeof(PITState{})<<iocSizeShift
	_KVM_ENABLE_CAP             = iow | 0xa3 | unsafe.Sizeof(kvmEnableCap{})<<iocSizeShift
	_KVM_SIGNAL_MSI             = iow | 0xa5 | unsafe.Sizeof(kvmMSI{})<<iocSizeShift

	// of a vCPU
	_KVM_RUN             = io_ | 0x80
	_KVM_GET_REGS        = ior | 0x81 | unsafe.Sizeof(Regs{})<<iocSizeShift
	_KVM_SET_REGS        = iow | 0x82 | unsafe.Sizeof(Regs{})<<iocSizeShift
	_KVM_GET_SREGS       = ior | 0x83 | unsafe.Sizeof(Sregs{})<<iocSizeShift
	_KVM_SET_SREGS       = iow | 0x84 | unsafe.Sizeof(Sregs{})<<iocSizeShift
	_KVM_TRANSLATE       = iowr | 0x85 | unsafe.Sizeof(Translation{})<<iocSizeShift
	_KVM_GET_MSRS        = iowr | 0x88 | unsafe.Sizeof(kvmMSRs{})<<iocSizeShift
	_KVM_SET_MSRS        = iow | 0x89 | unsafe.Sizeof(kvmMSRs{})<<iocSizeShift
	_KVM_GET_FPU         = ior | 0x8c | unsafe.Sizeof(FPU{})<<iocSizeShift
	_KVM_SET_FPU         = iow | 0x8d | unsafe.Sizeof(FPU{})<<iocSizeShift
	_KVM_GET_LAPIC       = ior | 0x8e | unsafe.Sizeof(LAPICState{})<<iocSizeShift
	_KVM_SET_LAPIC       = iow | 0x8f | unsafe.Sizeof(LAPICState{})<<iocSizeShift
	_KVM_SET_CPUID2      = iow | 0x90 | unsafe.Sizeof(kvmCPUID2{})<<iocSizeShift
	_KVM_GET_CPUID2      = iowr | 0x91 | unsafe.Sizeof(kvmCPUID2{})<<iocSizeShift
	_KVM_GET_MP_STATE    = ior | 0x98 | unsafe.Sizeof(kvmMPState{})<<iocSizeShift
	_KVM_SET_MP_STATE    = iow | 0x99 | unsafe.Sizeof(kvmMPState{})<<iocSizeShift
	_KVM_NMI             = io_ | 0x9a
	_KVM_SET_GUEST_DEBUG = iow | 0x9b | unsafe.Sizeof(GuestDebug{})<<iocSizeShift
	_KVM_GET_VCPU_EVENTS = ior | 0x9f | unsafe.Sizeof(VCPUEvents{})<<iocSizeShift
	_KVM_SET_VCPU_EVENTS = iow | 0xa0 | unsafe.Sizeof(VCPUEvents{})<<iocSizeShift
	_KVM_GET_DEBUGREGS   = ior | 0xa1 | unsafe.Sizeof(DebugRegs{})<<iocSizeShift
	_KVM_SET_DEBUGREGS   = iow | 0xa2 | unsafe.Sizeof(DebugRegs{})<<iocSizeShift
	_KVM_SET_TSC_KHZ     = io_ | 0xa2
	_KVM_GET_TSC_KHZ     = io_ | 0xa3
	_KVM_GET_XSAVE       = ior | 0xa4 | unsafe.Sizeof(XSave{})<<iocSizeShift
	_KVM_SET_XSAVE       = iow | 0xa5 | unsafe.Sizeof(XSave{})<<iocSizeShift
	_KVM_GET_XCRS        = ior | 0xa6 | unsafe.Sizeof(XCRS{})<<iocSizeShift
	_KVM_SET_XCRS        = iow | 0xa7 | unsafe.Sizeof(XCRS{})<<iocSizeShift
	_KVM_KVMCLOCK_CTRL   = io_ | 0xad
)

const (
	_KVM_IRQFD_FLAG_DEASSIGN      = 1 << 0
	_KVM_IOEVENTFD_FLAG_DATAMATCH = 1 << 0
	_KVM_IOEVENTFD_FLAG_PIO       = 1 << 1
	_KVM_IOEVENTFD_FLAG_DEASSIGN  = 1 << 2
	_KVM_PIT_SPEAKER_DUMMY        = 1
	_KVM_IRQ_ROUTING_IRQCHIP      = 1
	_KVM_IRQ_ROUTING_MSI          = 2
	_KVM_EXIT_IO_IN               = 0
	_KVM_EXIT_IO_OUT              = 1

	_KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1 // sic, in the kernel too
)

// How many elements the flexible arrays below have room for. 256 is the
// kernel's own limit for CPUID; MSRs are transferred in batches.
const (
	maxCPUIDEntries = 256
	maxMSRList      = 1024
	msrBatch        = 64
	maxRoutes       = 512
)

type kvmUserspaceMemoryRegion struct {
	_             structs.HostLayout
	slot          uint32
	flags         uint32
	guestPhysAddr uint64
	memorySize    uint64
	userspaceAddr uint64
}

type kvmDirtyLog struct {
	_           structs.HostLayout
	slot        uint32
	padding1    uint32
	dirtyBitmap *uint64
}

type kvmIRQLevel struct {
	_     structs.HostLayout
	irq   uint32
	level uint32
}

type kvmIRQChip struct {
	_      structs.HostLayout
	chipID uint32
	pad    uint32
	chip   [512]byte
}

type kvmIRQRouting struct {
	_     structs.HostLayout
	nr    uint32
	flags uint32
}

type kvmIRQRoutingEntry struct {
	_     structs.HostLayout
	gsi   uint32
	typ   uint32
	flags uint32
	pad   uint32
	u     [8]uint32 // irqchip: chip, pin; MSI: address low, high, data
}

type kvmIRQRoutingBuf struct {
	_       structs.HostLayout
	head    kvmIRQRouting
	entries [maxRoutes]kvmIRQRoutingEntry
}

type kvmIRQFD struct {
	_          structs.HostLayout
	fd         uint32
	gsi        uint32
	flags      uint32
	resamplefd uint32
	pad        [16]uint8
}

type kvmPITConfig struct {
	_     structs.HostLayout
	flags uint32
	pad   [15]uint32
}

type kvmIOEventFD struct {
	_         structs.HostLayout
	datamatch uint64
	addr      uint64
	len       uint32
	fd        int32
	flags     uint32
	pad       [36]uint8
}

type kvmEnableCap struct {
	_     structs.HostLayout
	cap   uint32
	flags uint32
	args  [4]uint64
	pad   [64]uint8
}

type kvmMSI struct {
	_         structs.HostLayout
	addressLo uint32
	addressHi uint32
	data      uint32
	flags     uint32
	devid     uint32
	pad       [12]uint8
}

type kvmMSRList struct {
	_     structs.HostLayout
	nmsrs uint32
}

type kvmMSRListBuf struct {
	_       structs.HostLayout
	head    kvmMSRList
	indices [maxMSRList]uint32
}

type kvmMSRs struct {
	_     structs.HostLayout
	nmsrs uint32
	pad   uint32
}

type kvmMSRsBuf struct {
	_       structs.HostLayout
	head    kvmMSRs
	entries [msrBatch]MSR
}

type kvmCPUID2 struct {
	_       structs.HostLayout
	nent    uint32
	padding uint32
}

type kvmCPUID2Buf struct {
	_       structs.HostLayout
	head    kvmCPUID2
	entries [maxCPUIDEntries]CPUIDEntry
}

type kvmMPState struct {
	_       structs.HostLayout
	mpState uint32
}
