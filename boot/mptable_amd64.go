package boot

import "encoding/binary"

// The Intel MultiProcessor Specification, version 1.4: how a machine without
// ACPI tells its processors and interrupt wiring.

// Entry types (MP 1.4 §4.3, table 4-3).
const (
	mpProcessor = 0
	mpBus       = 1
	mpIOAPIC    = 2
	mpIntSrc    = 3
	mpLocalInt  = 4
)

const (
	mpHeaderSize = 44 // §4.2
	mpCPUSize    = 20 // §4.3.1
	mpEntrySize  = 8  // §4.3.2 to §4.3.5
	mpSpecRev    = 4  // version 1.4

	mpCPUEnabled = 1 << 0 // §4.3.1, table 4-4
	mpCPUBoot    = 1 << 1
	mpLocalVer   = 0x14 // an integrated local APIC's version
	mpIOVer      = 0x11 // an 82093AA's version
	// Family 6; FPU, CMPXCHG8B and APIC on chip. Kernels use CPUID instead.
	mpSignature = 0x600
	mpFeatures  = 1<<0 | 1<<8 | 1<<9

	mpIOAPICUsable = 1 << 0 // §4.3.3

	// Interrupt types (§4.3.4, table 4-10) and flags (table 4-11).
	mpINT            = 0
	mpNMI            = 1
	mpExtINT         = 3
	mpEdgeActiveHigh = 1<<0 | 1<<2

	mpAllAPICs = 0xff
	mpISABusID = 0
)

// mpTable returns the configuration table of a machine with that many CPUs
// (1 to MaxCPUs): their local APIC identifiers are 0, 1, 2…, the first one
// boots. The interrupt lines 0 to 23 are wired to the I/O APIC's pins of the
// same number, as KVM's default routing does, edge-triggered and active-high.
func mpTable(cpus int) []byte {
	le := binary.LittleEndian
	b := make([]byte, mpHeaderSize, mpHeaderSize+cpus*mpCPUSize+(2+irqLines+2)*mpEntrySize)

	for id := range cpus {
		flags := byte(mpCPUEnabled)
		if id == 0 {
			flags |= mpCPUBoot
		}
		b = append(b, mpProcessor, byte(id), mpLocalVer, flags)
		b = le.AppendUint32(b, mpSignature)
		b = le.AppendUint32(b, mpFeatures)
		b = append(b, make([]byte, 8)...)
	}
	b = append(b, mpBus, mpISABusID)
	b = append(b, "ISA   "...)

	// The identifier after the CPUs'. With 255 CPUs it is 255, "any I/O APIC",
	// which is right as there is one.
	ioapic := byte(cpus)
	b = append(b, mpIOAPIC, ioapic, mpIOVer, mpIOAPICUsable)
	b = le.AppendUint32(b, IOAPICBase)

	for irq := range byte(irqLines) {
		b = append(b, mpIntSrc, mpINT, mpEdgeActiveHigh, 0, mpISABusID, irq, ioapic, irq)
	}
	// The 8259 reaches the boot processor's LINT0; NMI is everybody's LINT1.
	b = append(b, mpLocalInt, mpExtINT, 0, 0, mpISABusID, 0, 0, 0)
	b = append(b, mpLocalInt, mpNMI, 0, 0, mpISABusID, 0, mpAllAPICs, 1)

	copy(b[0:], "PCMP")
	le.PutUint16(b[4:], uint16(len(b)))
	b[6] = mpSpecRev
	copy(b[8:], "SANDPIT ")
	copy(b[16:], "MICROVM     ")
	le.PutUint16(b[34:], uint16(cpus+2+irqLines+2))
	le.PutUint32(b[36:], LocalAPICBase)
	b[7] = checksum(b)
	return b
}

// mpPointer returns the floating pointer structure (§4.1). Feature byte 2 is
// 0: virtual wire mode, no IMCR.
func mpPointer() []byte {
	b := make([]byte, sizeMPPointer)
	copy(b, "_MP_")
	binary.LittleEndian.PutUint32(b[4:], uint32(addrMPTable))
	b[8] = sizeMPPointer / 16
	b[9] = mpSpecRev
	b[10] = checksum(b)
	return b
}

// checksum returns the byte that makes b's sum 0, given that it is 0 in b.
func checksum(b []byte) byte {
	var sum byte
	for _, c := range b {
		sum += c
	}
	return -sum
}
