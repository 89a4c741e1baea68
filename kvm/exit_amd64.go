package kvm

import (
	"encoding/binary"
	"fmt"
	"iter"
)

// ExitKind is why a vCPU stopped running: KVM_EXIT_* by number. Kinds that this
// package does not know keep their number, and nothing but Kind is set.
type ExitKind uint32

const (
	// ExitUnknown: the processor gave a reason that KVM does not know; Code has it.
	ExitUnknown ExitKind = 0
	// ExitException is not seen on x86 any more; Code is the vector.
	ExitException ExitKind = 1
	// ExitIO: the guest accessed port Addr; Data, Size, Count and Write say how.
	ExitIO ExitKind = 2
	// ExitDebug: a breakpoint or a step that GuestDebug asked for. Addr is the
	// linear PC, Code the exception, Data is DR6 and DR7.
	ExitDebug ExitKind = 4
	// ExitHLT: the guest halted, and its local APIC is not in the kernel.
	ExitHLT ExitKind = 5
	// ExitMMIO: the guest accessed Addr, where no memory is; Data and Write say how.
	ExitMMIO ExitKind = 6
	// ExitIRQWindowOpen: the guest can take an interrupt again.
	ExitIRQWindowOpen ExitKind = 7
	// ExitShutdown: triple fault.
	ExitShutdown ExitKind = 8
	// ExitFailEntry: the processor refused the vCPU's state; Code is its reason.
	ExitFailEntry ExitKind = 9
	// ExitInterrupted: Kick, or a signal to the thread, whichever; KVM_RUN
	// failed with EINTR. Go's runtime sends signals for its own purposes.
	ExitInterrupted ExitKind = 10
	// ExitInternalError: KVM gave up. Code is the suberror (1: an instruction it
	// cannot emulate), Words the details.
	ExitInternalError ExitKind = 17
	// ExitSystemEvent: a paravirtual shutdown or reset. Code is the type, Words
	// the details.
	ExitSystemEvent ExitKind = 24
	// ExitIOAPICEOI: end of interrupt of vector Code, with a split irqchip.
	ExitIOAPICEOI ExitKind = 26
	// ExitRDMSR: the guest reads MSR Addr; fill Data, or call VCPU.FailMSR.
	ExitRDMSR ExitKind = 29
	// ExitWRMSR: the guest writes Data to MSR Addr.
	ExitWRMSR ExitKind = 30
	// ExitDirtyRingFull: the ring of dirty pages wants to be read.
	ExitDirtyRingFull ExitKind = 31
)

// String is the C name without KVM_EXIT_, or the number.
func (k ExitKind) String() string {
	switch k {
	case ExitUnknown:
		return "UNKNOWN"
	case ExitException:
		return "EXCEPTION"
	case ExitIO:
		return "IO"
	case ExitDebug:
		return "DEBUG"
	case ExitHLT:
		return "HLT"
	case ExitMMIO:
		return "MMIO"
	case ExitIRQWindowOpen:
		return "IRQ_WINDOW_OPEN"
	case ExitShutdown:
		return "SHUTDOWN"
	case ExitFailEntry:
		return "FAIL_ENTRY"
	case ExitInterrupted:
		return "INTR"
	case ExitInternalError:
		return "INTERNAL_ERROR"
	case ExitSystemEvent:
		return "SYSTEM_EVENT"
	case ExitIOAPICEOI:
		return "IOAPIC_EOI"
	case ExitRDMSR:
		return "X86_RDMSR"
	case ExitWRMSR:
		return "X86_WRMSR"
	case ExitDirtyRingFull:
		return "DIRTY_RING_FULL"
	}
	return fmt.Sprintf("exit %d", uint32(k))
}

// Exit is one VM exit. Its slices alias the vCPU's run page: they are valid until
// the next Run, which hands what a read was given to the guest.
type Exit struct {
	Kind ExitKind
	// Write is true if the guest writes (ExitIO, ExitMMIO).
	Write bool
	// Size is the width of one element of an ExitIO or ExitMMIO: 1, 2, 4 or 8
	// bytes as a rule, 1 to 8 in any case.
	Size uint8
	// Count is the number of elements: 1, but for PIO string instructions
	// (REP INS, REP OUTS), where the whole run is one exit. See Elements.
	Count uint32
	// Addr is a GPA, a port, an MSR or a PC.
	Addr uint64
	// Data is the first element: what the guest writes, or where its answer
	// goes. Never longer than 8 bytes for ExitIO and ExitMMIO.
	Data []byte
	// Code is the reason's own number.
	Code uint64

	all []byte // every element of a PIO exit; the words of an error
}

// Elements are the Count elements of a PIO string instruction, in order, each
// Size bytes. For other accesses it is Data alone.
func (e *Exit) Elements() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		if e.Count <= 1 {
			yield(e.Data)
			return
		}
		n := uint64(e.Size)
		for i := range uint64(e.Count) {
			if !yield(e.all[i*n : i*n+n : i*n+n]) {
				return
			}
		}
	}
}

// Words are the details of an ExitInternalError or ExitSystemEvent, at most 16.
func (e *Exit) Words() []uint64 {
	if e.Kind != ExitInternalError && e.Kind != ExitSystemEvent {
		return nil
	}
	w := make([]uint64, len(e.all)/8)
	for i := range w {
		w[i] = binary.LittleEndian.Uint64(e.all[8*i:])
	}
	return w
}

// String describes the exit for people.
func (e Exit) String() string {
	dir := "read"
	if e.Write {
		dir = "write"
	}
	switch e.Kind {
	case ExitIO, ExitMMIO:
		s := fmt.Sprintf("%v %s %#x/%d", e.Kind, dir, e.Addr, e.Size)
		if e.Count > 1 {
			s += fmt.Sprintf(" x%d", e.Count)
		}
		if e.Write {
			s += fmt.Sprintf(" %x", e.Data)
		}
		return s
	case ExitRDMSR, ExitWRMSR:
		return fmt.Sprintf("%v %#x", e.Kind, e.Addr)
	case ExitInternalError, ExitSystemEvent:
		return fmt.Sprintf("%v %d %#x", e.Kind, e.Code, e.Words())
	case ExitUnknown, ExitException, ExitFailEntry, ExitIOAPICEOI:
		return fmt.Sprintf("%v %#x", e.Kind, e.Code)
	case ExitDebug:
		return fmt.Sprintf("%v at %#x", e.Kind, e.Addr)
	}
	return e.Kind.String()
}

// decodeExit reads the exit that KVM_RUN left in page, the mapping of a vCPU.
// The page is the kernel's word; lengths and offsets in it are checked all the
// same, because the guest's instruction chose them.
func decodeExit(page []byte) (Exit, error) {
	le := binary.LittleEndian
	e := Exit{Kind: ExitKind(le.Uint32(page[runExitReason:]))}
	switch e.Kind {
	case ExitIO:
		return decodeIO(page)
	case ExitMMIO:
		n := le.Uint32(page[runMMIOLen:])
		if n < 1 || n > 8 {
			return e, malformed("MMIO of %d bytes", n)
		}
		e.Addr = le.Uint64(page[runMMIOAddr:])
		e.Write = page[runMMIOWrite] != 0
		e.Size, e.Count = uint8(n), 1
		e.Data = page[runMMIOData : runMMIOData+uintptr(n) : runMMIOData+uintptr(n)]
	case ExitUnknown:
		e.Code = le.Uint64(page[runHWReason:])
	case ExitException:
		e.Code = uint64(le.Uint32(page[runExException:]))
	case ExitDebug:
		e.Code = uint64(le.Uint32(page[runDebugException:]))
		e.Addr = le.Uint64(page[runDebugPC:])
		e.Data = page[runDebugPC+8 : runDebugEnd : runDebugEnd]
	case ExitFailEntry:
		e.Code = le.Uint64(page[runFailReason:])
	case ExitInternalError:
		e.Code = uint64(le.Uint32(page[runInternalSuberror:]))
		e.all = words(page, runInternalData, le.Uint32(page[runInternalNData:]))
	case ExitSystemEvent:
		e.Code = uint64(le.Uint32(page[runEventType:]))
		e.all = words(page, runEventData, le.Uint32(page[runEventNData:]))
	case ExitIOAPICEOI:
		e.Code = uint64(page[runEOIVector])
	case ExitRDMSR, ExitWRMSR:
		e.Write = e.Kind == ExitWRMSR
		e.Addr = uint64(le.Uint32(page[runMSRIndex:]))
		e.Size, e.Count = 8, 1
		e.Data = page[runMSRData : runMSRData+8 : runMSRData+8]
	}
	return e, nil
}

func decodeIO(page []byte) (Exit, error) {
	le := binary.LittleEndian
	e := Exit{
		Kind:  ExitIO,
		Write: page[runIODirection] == _KVM_EXIT_IO_OUT,
		Size:  page[runIOSize],
		Count: le.Uint32(page[runIOCount:]),
		Addr:  uint64(le.Uint16(page[runIOPort:])),
	}
	if e.Size < 1 || e.Size > 8 || e.Count < 1 {
		return e, malformed("PIO of %d times %d bytes", e.Count, e.Size)
	}
	// The data must lie behind kvm_run itself: were it to overlap, a device's
	// answer would become the next exit's reason.
	off, n := le.Uint64(page[runIODataOffset:]), uint64(e.Size)*uint64(e.Count)
	if size := uint64(len(page)); off < uint64(runSize) || off > size || n > size-off {
		return e, malformed("PIO data of %d bytes at %#x", n, off)
	}
	e.all = page[off : off+n : off+n]
	e.Data = e.all[:e.Size:e.Size]
	return e, nil
}

// words is n words at off in the union, of which there are at most 16.
func words(page []byte, off uintptr, n uint32) []byte {
	end := off + 8*uintptr(min(n, 16))
	return page[off:end:end]
}

func malformed(format string, args ...any) error {
	return &Error{"KVM_RUN", fmt.Errorf("%w: %s", ErrMalformedExit, fmt.Sprintf(format, args...))}
}
