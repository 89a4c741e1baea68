package boot

import "encoding/binary"

// The least ACPI (ACPI 6.5 §5.2): RSDP, XSDT and MADT, for distribution kernels,
// which are built without MP table support (CONFIG_X86_MPPARSE): without a MADT
// they use one processor and the 8259. It says what the MP table says. There is
// no FADT and no DSDT, as there is no ACPI hardware: Linux takes processors and
// interrupts from the MADT, finds nothing to enable, and turns its interpreter
// off ("ACPI: Interpreter disabled."). The bundled kernel has no ACPI at all.

const (
	acpiRSDPSize   = 36 // §5.2.5.3
	acpiHeaderSize = 36 // §5.2.6

	madtPCAT       = 1 << 0 // §5.2.12, table 5.20: there are 8259s too
	madtLocalAPIC  = 0      // §5.2.12.2
	madtIOAPIC     = 1      // §5.2.12.3
	madtLocalNMI   = 4      // §5.2.12.7
	madtCPUEnabled = 1 << 0
	madtAllCPUs    = 0xff
)

// acpiTables returns RSDP, XSDT and MADT as they lie from addrACPI on.
func acpiTables(cpus int) []byte {
	le := binary.LittleEndian
	var m []byte
	m = le.AppendUint32(m, LocalAPICBase)
	m = le.AppendUint32(m, madtPCAT)
	for id := range cpus {
		m = append(m, madtLocalAPIC, 8, byte(id), byte(id), madtCPUEnabled, 0, 0, 0)
	}
	m = append(m, madtIOAPIC, 12, byte(cpus), 0)
	m = le.AppendUint32(m, IOAPICBase)
	m = le.AppendUint32(m, 0) // its first global interrupt
	m = append(m, madtLocalNMI, 6, madtAllCPUs, 0, 0, 1)
	madt := acpiTable("APIC", 5, m)
	xsdt := acpiTable("XSDT", 1, le.AppendUint64(nil, uint64(addrMADT)))

	b := make([]byte, int(addrMADT-addrACPI), int(addrMADT-addrACPI)+len(madt))
	copy(b, "RSD PTR ")
	copy(b[9:], "SANDPT")
	b[15] = 2 // revision: with the XSDT
	le.PutUint32(b[20:], acpiRSDPSize)
	le.PutUint64(b[24:], uint64(addrXSDT))
	b[8] = checksum(b[:20]) // of ACPI 1.0's part
	b[32] = checksum(b[:acpiRSDPSize])
	copy(b[addrXSDT-addrACPI:], xsdt)
	return append(b, madt...)
}

// acpiTable puts the common header before a table's body.
func acpiTable(signature string, revision byte, body []byte) []byte {
	le := binary.LittleEndian
	b := make([]byte, acpiHeaderSize, acpiHeaderSize+len(body))
	copy(b[0:], signature)
	le.PutUint32(b[4:], uint32(acpiHeaderSize+len(body)))
	b[8] = revision
	copy(b[10:], "SANDPT")
	copy(b[16:], "MICROVM ")
	le.PutUint32(b[24:], 1) // OEM revision
	copy(b[28:], "SAND")    // creator
	le.PutUint32(b[32:], 1)
	b = append(b, body...)
	b[9] = checksum(b)
	return b
}
