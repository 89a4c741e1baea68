package boot

import (
	"fmt"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

// Every guest-physical address, I/O port and interrupt line of the machine.
//
//	above all RAM    persistent memory devices, on multiples of 1 GiB
//	0x1_0000_0000 …  RAM beyond 3 GiB
//	┌─────────────┐ 0x1_0000_0000  4 GiB
//	│ KVM's own   │ 0xfffb_c000    identity-map page, then three TSS pages
//	│ local APIC  │ 0xfee0_0000
//	│ I/O APIC    │ 0xfec0_0000
//	│ virtio-mmio │ 0xd000_0000    window n at + n × 4 KiB
//	│  (nothing)  │
//	├─────────────┤ 0xc000_0000    3 GiB: start of the MMIO gap
//	│ initramfs   │                as high as RAM and the kernel allow
//	│  …  RAM     │
//	│ kernel      │                where the image says, usually 16 MiB
//	│  …  RAM     │
//	├─────────────┤ 0x0010_0000    1 MiB
//	│ ACPI tables │ 0x000e_0000    where a BIOS has them (ACPI 6.5 §5.2.5.1)
//	│ reserved    │ 0x000a_0000    where a PC has video memory and its BIOS
//	│ MP pointer  │ 0x0009_fc00    last KiB of base memory (MP 1.4 §4)
//	│ MP table    │ 0x0009_c000    reserved in the e820 map from here up
//	│  …  RAM     │
//	│ cmdline     │ 0x0002_0000
//	│  …  RAM     │
//	│ page tables │ 0x0000_9000    PML4, PDPT, four page directories
//	│ boot stack  │ 0x0000_8000    one page, grows down from 0x8ff0
//	│ zero page   │ 0x0000_7000    struct boot_params
//	│ setup_data  │ 0x0000_2000    SETUP_RNG_SEED
//	│ PVH info    │ 0x0000_1000    hvm_start_info, module list, memory map
//	│ GDT         │ 0x0000_0500
//	└─────────────┘ 0
//
// Below 1 MiB everything up to the MP table is the guest's to reuse once it has
// read it.
const (
	addrGDT       guestmem.GPA = 0x500
	sizeGDT                    = 0x30
	addrPVHInfo   guestmem.GPA = 0x1000
	addrPVHMods   guestmem.GPA = 0x1040
	addrPVHMap    guestmem.GPA = 0x1080
	sizePVHArea                = 0x1000
	addrSetupData guestmem.GPA = 0x2000
	sizeSetupData              = 0x1000
	addrZeroPage  guestmem.GPA = 0x7000
	sizeZeroPage               = 0x1000
	addrStack     guestmem.GPA = 0x8000
	sizeStack                  = 0x1000
	addrPML4      guestmem.GPA = 0x9000
	addrPDPT      guestmem.GPA = 0xa000
	addrPD        guestmem.GPA = 0xb000
	identityGiB                = 4 // one page directory each
	sizePageTable              = (2 + identityGiB) * pageSize
	addrCmdline   guestmem.GPA = 0x20000
	sizeCmdline                = 0x10000
	addrMPTable   guestmem.GPA = 0x9c000
	sizeMPTable                = 0x3c00
	addrMPPointer guestmem.GPA = 0x9fc00
	sizeMPPointer              = 16
	addrACPI      guestmem.GPA = 0xe0000 // the RSDP
	addrXSDT      guestmem.GPA = 0xe0040
	addrMADT      guestmem.GPA = 0xe0080
	sizeACPI                   = 0x1000

	// endLowRAM is where usable RAM below 1 MiB ends.
	endLowRAM = uint64(addrMPTable)
	// HighMemory is 1 MiB: no kernel may be loaded below it.
	HighMemory = 0x10_0000

	pageSize = 0x1000
)

// The MMIO gap and what lies in it.
const (
	MMIOGapStart = 0xc000_0000   // RAM below 4 GiB ends here
	MMIOGapEnd   = 0x1_0000_0000 // RAM beyond 3 GiB continues here

	MMIODeviceBase = 0xd000_0000 // first virtio-mmio window
	MMIODeviceSize = 0x1000      // of one window
	MaxMMIODevices = 18          // windows: interrupt lines 5 to 23 without 8

	IOAPICBase     = 0xfec0_0000
	LocalAPICBase  = 0xfee0_0000
	KVMIdentityMap = 0xfffb_c000 // one page, for KVM_SET_IDENTITY_MAP_ADDR
	KVMTSS         = 0xfffb_d000 // three pages, for KVM_SET_TSS_ADDR
	kvmPagesSize   = 4 * pageSize
)

// I/O ports.
const (
	I8042Port      = 0x60 // to 0x64
	I8042PortSize  = 5
	RTCPort        = 0x70 // index and data
	RTCPortSize    = 2
	SerialPort     = 0x3f8 // COM1
	SerialPortSize = 8
	ExitPort       = 0x500 // one byte: the guest's exit code
	ExitPortSize   = 1
)

// Interrupt lines, which are I/O APIC pins and KVM's GSIs too.
const (
	SerialIRQ = 4
	RTCIRQ    = 8
	irqVirtio = 5  // of the first virtio-mmio window
	irqLines  = 24 // pins of the I/O APIC
)

// MaxCPUs is the number of xAPIC identifiers, 0 to 254; 255 is the broadcast.
const MaxCPUs = 255

// Ranges returns where memBytes of guest RAM go: up to 3 GiB from address 0,
// the rest from 4 GiB. A part of a page at the end is dropped.
func Ranges(memBytes uint64) []guestmem.Range {
	memBytes &^= pageSize - 1
	low := min(memBytes, MMIOGapStart)
	if low == 0 {
		return nil
	}
	r := []guestmem.Range{{Base: 0, Size: low}}
	if rest := memBytes - low; rest > 0 {
		r = append(r, guestmem.Range{Base: MMIOGapEnd, Size: rest})
	}
	return r
}

// PMemAlign is what a persistent memory device's range is aligned to: whole
// entries of the kernel's direct map.
const PMemAlign = 1 << 30

// PMem returns where persistent memory devices of the given sizes, in bytes, go:
// above all RAM and the MMIO gap.
func PMem(ram []guestmem.Range, sizes ...uint64) []guestmem.Range {
	next := uint64(MMIOGapEnd)
	for _, r := range ram {
		next = max(next, uint64(r.End()))
	}
	var out []guestmem.Range
	for _, size := range sizes {
		next = (next + PMemAlign - 1) &^ (PMemAlign - 1)
		out = append(out, guestmem.Range{Base: guestmem.GPA(next), Size: size})
		next += size
	}
	return out
}

// MMIODevice returns the base address and interrupt line of virtio-mmio window
// n, from 0 to MaxMMIODevices-1. For any other n, the line is -1.
func MMIODevice(n int) (base uint64, irq int) {
	if n < 0 || n >= MaxMMIODevices {
		return 0, -1
	}
	irq = irqVirtio + n
	if irq >= RTCIRQ {
		irq++ // the clock's, even though ours never interrupts
	}
	return MMIODeviceBase + uint64(n)*MMIODeviceSize, irq
}

// MMIODeviceArg returns the kernel parameter that announces a virtio-mmio
// window, such as "virtio_mmio.device=4K@0xd0000000:5" (Linux
// Documentation/admin-guide/kernel-parameters.txt; the guest needs
// CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES).
func MMIODeviceArg(base, size uint64, irq int) string {
	unit := ""
	if size != 0 && size%1024 == 0 {
		size, unit = size/1024, "K"
	}
	return fmt.Sprintf("virtio_mmio.device=%d%s@%#x:%d", size, unit, base, irq)
}
