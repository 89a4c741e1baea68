package boot

import (
	"encoding/binary"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

// CPUState is the state in which vCPU 0 enters the kernel. What is not in it
// (FPU, MSRs, the local APIC) is as after a processor's reset. The other vCPUs
// are not touched: they wait for the kernel's start-up IPI.
type CPUState struct {
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFLAGS                            uint64

	CS, DS, ES, FS, GS, SS Segment
	TR, LDT                Segment
	GDT, IDT               Table

	CR0, CR2, CR3, CR4 uint64
	EFER               uint64
}

// Segment is a segment register with its hidden part. The fields are those of
// a descriptor (Intel SDM volume 3 §3.4.5) and of KVM's struct kvm_segment.
type Segment struct {
	Base     uint64
	Limit    uint32 // in bytes, whatever G says
	Selector uint16
	Type     uint8 // 4 bits
	Present  uint8
	DPL      uint8
	DB       uint8 // 1: 32-bit
	S        uint8 // 1: code or data, 0: system
	L        uint8 // 1: 64-bit code
	G        uint8 // 1: the descriptor's limit counts pages
	AVL      uint8
	Unusable uint8 // 1: the register holds nothing
}

// Table is a descriptor table register.
type Table struct {
	Base  uint64
	Limit uint16
}

// Control register and EFER bits (Intel SDM volume 3 §2.5, AMD APM volume 2 §3.1).
const (
	cr0PE   = 1 << 0
	cr0ET   = 1 << 4 // hard-wired to 1
	cr0PG   = 1 << 31
	cr4PAE  = 1 << 5
	eferLME = 1 << 8
	eferLMA = 1 << 10

	rflagsFixed = 1 << 1 // always 1; IF, TF, VM and DF clear
)

// Selectors that the Linux boot protocols prescribe (boot.rst, "64-bit Boot
// Protocol": __BOOT_CS and __BOOT_DS), and one of ours for the task register,
// which VM entry demands to be present.
const (
	selCode = 0x10
	selData = 0x18
	selTSS  = 0x20
)

const (
	typeDataRW   = 0x3 // read, write, accessed
	typeCodeRX   = 0xb // execute, read, accessed
	typeTSSBusy  = 0xb // 32-bit or, in long mode, 64-bit TSS, busy
	typeLDT      = 0x2
	tssLimit     = 0x67
	flatLimit    = 0xffff_ffff
	pteP         = 1 << 0
	pteRW        = 1 << 1
	ptePS        = 1 << 7
	hugePageSize = 2 << 20
)

// longMode returns the state of the 64-bit boot protocol: flat segments, an
// identity map, interrupts off.
func longMode(entry, zeroPage uint64) *CPUState {
	s := flat()
	s.CS.L = 1
	s.RIP, s.RSI = entry, zeroPage
	s.RSP = uint64(addrStack) + sizeStack - 16
	s.CR0 = cr0PE | cr0ET | cr0PG
	s.CR3 = uint64(addrPML4)
	s.CR4 = cr4PAE
	s.EFER = eferLME | eferLMA
	return s
}

// protectedMode returns the state of a PVH entry (Xen docs/misc/pvh.pandoc,
// "State"): 32-bit flat segments, no paging, EBX → hvm_start_info.
func protectedMode(entry, startInfo uint64) *CPUState {
	s := flat()
	s.CS.DB = 1
	s.RIP, s.RBX = entry, startInfo
	s.CR0 = cr0PE | cr0ET
	return s
}

func flat() *CPUState {
	data := Segment{Limit: flatLimit, Selector: selData, Type: typeDataRW, Present: 1, DB: 1, S: 1, G: 1}
	return &CPUState{
		RFLAGS: rflagsFixed,
		CS:     Segment{Limit: flatLimit, Selector: selCode, Type: typeCodeRX, Present: 1, S: 1, G: 1},
		DS:     data, ES: data, FS: data, GS: data, SS: data,
		TR:  Segment{Limit: tssLimit, Selector: selTSS, Type: typeTSSBusy, Present: 1},
		LDT: Segment{Type: typeLDT, Unusable: 1},
		GDT: Table{Base: uint64(addrGDT), Limit: sizeGDT - 1},
		// No IDT: a fault before the kernel has one of its own is a triple fault.
	}
}

// writeCPUTables writes what CPUState refers to: the GDT, and the page tables
// if paging is on.
func writeCPUTables(mem *guestmem.Memory, s *CPUState) error {
	if err := mem.WriteAt(gdt(s), addrGDT); err != nil {
		return &Error{"GDT", err}
	}
	if s.CR0&cr0PG == 0 {
		return nil
	}
	if err := mem.WriteAt(identityMap(), addrPML4); err != nil {
		return &Error{"page tables", err}
	}
	return nil
}

// gdt returns the global descriptor table that holds s's segments. The task
// state segment's descriptor takes 16 bytes in long mode; its upper half is 0.
func gdt(s *CPUState) []byte {
	b := make([]byte, sizeGDT)
	for _, seg := range []Segment{s.CS, s.DS, s.TR} {
		binary.LittleEndian.PutUint64(b[seg.Selector:], seg.descriptor())
	}
	return b
}

// descriptor encodes a segment as Intel SDM volume 3 figure 3-8 shows it.
func (s Segment) descriptor() uint64 {
	limit := uint64(s.Limit)
	if s.G != 0 {
		limit >>= 12
	}
	d := limit&0xffff | limit>>16&0xf<<48
	d |= s.Base&0xff_ffff<<16 | s.Base>>24&0xff<<56
	d |= uint64(s.Type&0xf)<<40 | uint64(s.S&1)<<44 | uint64(s.DPL&3)<<45 | uint64(s.Present&1)<<47
	return d | uint64(s.AVL&1)<<52 | uint64(s.L&1)<<53 | uint64(s.DB&1)<<54 | uint64(s.G&1)<<55
}

// identityMap returns PML4, PDPT and page directories that map the first
// identityGiB GiB to themselves with 2 MiB pages, which every x86-64 has.
func identityMap() []byte {
	b := make([]byte, sizePageTable)
	put := func(a guestmem.GPA, i int, v uint64) {
		binary.LittleEndian.PutUint64(b[int(a-addrPML4)+8*i:], v)
	}
	put(addrPML4, 0, uint64(addrPDPT)|pteP|pteRW)
	for g := range identityGiB {
		put(addrPDPT, g, uint64(addrPD)+uint64(g)*pageSize|pteP|pteRW)
	}
	for i := range identityGiB * 512 {
		put(addrPD, i, uint64(i)*hugePageSize|pteP|pteRW|ptePS)
	}
	return b
}
