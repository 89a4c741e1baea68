package kvm

import (
	"structs"
	"unsafe"
)

// kvmRun is the page that a vCPU's descriptor maps: what KVM_RUN reads, and
// what it says about the exit. Only this process and the kernel see it.
type kvmRun struct {
	_                          structs.HostLayout
	requestInterruptWindow     uint8
	immediateExit              uint8
	padding1                   [6]uint8
	exitReason                 uint32
	readyForInterruptInjection uint8
	ifFlag                     uint8
	flags                      uint16
	cr8                        uint64
	apicBase                   uint64
	padding                    [256]byte // the union of the structures below
	kvmValidRegs               uint64
	kvmDirtyRegs               uint64
	s                          [2048]byte
}

// Members of kvm_run's union, by exit reason.
type (
	kvmRunHW struct {
		_                  structs.HostLayout
		hardwareExitReason uint64
	}
	kvmRunFailEntry struct {
		_                          structs.HostLayout
		hardwareEntryFailureReason uint64
		cpu                        uint32
	}
	kvmRunEx struct {
		_         structs.HostLayout
		exception uint32
		errorCode uint32
	}
	kvmRunIO struct {
		_          structs.HostLayout
		direction  uint8
		size       uint8
		port       uint16
		count      uint32
		dataOffset uint64
	}
	kvmRunDebug struct {
		_         structs.HostLayout
		exception uint32
		pad       uint32
		pc        uint64
		dr6       uint64
		dr7       uint64
	}
	kvmRunMMIO struct {
		_        structs.HostLayout
		physAddr uint64
		data     [8]uint8
		len      uint32
		isWrite  uint8
	}
	kvmRunInternal struct {
		_        structs.HostLayout
		suberror uint32
		ndata    uint32
		data     [16]uint64
	}
	kvmRunSystemEvent struct {
		_     structs.HostLayout
		typ   uint32
		ndata uint32
		data  [16]uint64
	}
	kvmRunEOI struct {
		_      structs.HostLayout
		vector uint8
	}
	kvmRunMSR struct {
		_      structs.HostLayout
		error  uint8
		pad    [7]uint8
		reason uint32
		index  uint32
		data   uint64
	}
)

// Where the exit decoder finds its fields, from the start of the mapping.
const (
	runSize       = unsafe.Sizeof(kvmRun{})
	runExitReason = unsafe.Offsetof(kvmRun{}.exitReason)
	runUnion      = unsafe.Offsetof(kvmRun{}.padding)

	runHWReason = runUnion + unsafe.Offsetof(kvmRunHW{}.hardwareExitReason)

	runFailReason = runUnion + unsafe.Offsetof(kvmRunFailEntry{}.hardwareEntryFailureReason)

	runExException = runUnion + unsafe.Offsetof(kvmRunEx{}.exception)

	runIODirection  = runUnion + unsafe.Offsetof(kvmRunIO{}.direction)
	runIOSize       = runUnion + unsafe.Offsetof(kvmRunIO{}.size)
	runIOPort       = runUnion + unsafe.Offsetof(kvmRunIO{}.port)
	runIOCount      = runUnion + unsafe.Offsetof(kvmRunIO{}.count)
	runIODataOffset = runUnion + unsafe.Offsetof(kvmRunIO{}.dataOffset)

	runDebugException = runUnion + unsafe.Offsetof(kvmRunDebug{}.exception)
	runDebugPC        = runUnion + unsafe.Offsetof(kvmRunDebug{}.pc)
	runDebugEnd       = runUnion + unsafe.Sizeof(kvmRunDebug{})

	runMMIOAddr  = runUnion + unsafe.Offsetof(kvmRunMMIO{}.physAddr)
	runMMIOData  = runUnion + unsafe.Offsetof(kvmRunMMIO{}.data)
	runMMIOLen   = runUnion + unsafe.Offsetof(kvmRunMMIO{}.len)
	runMMIOWrite = runUnion + unsafe.Offsetof(kvmRunMMIO{}.isWrite)

	runInternalSuberror = runUnion + unsafe.Offsetof(kvmRunInternal{}.suberror)
	runInternalNData    = runUnion + unsafe.Offsetof(kvmRunInternal{}.ndata)
	runInternalData     = runUnion + unsafe.Offsetof(kvmRunInternal{}.data)

	runEventType  = runUnion + unsafe.Offsetof(kvmRunSystemEvent{}.typ)
	runEventNData = runUnion + unsafe.Offsetof(kvmRunSystemEvent{}.ndata)
	runEventData  = runUnion + unsafe.Offsetof(kvmRunSystemEvent{}.data)

	runEOIVector = runUnion + unsafe.Offsetof(kvmRunEOI{}.vector)

	runMSRError = runUnion + unsafe.Offsetof(kvmRunMSR{}.error)
	runMSRIndex = runUnion + unsafe.Offsetof(kvmRunMSR{}.index)
	runMSRData  = runUnion + unsafe.Offsetof(kvmRunMSR{}.data)
)
