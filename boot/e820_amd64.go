package boot

import (
	"encoding/binary"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

// Memory map types (zero-page.rst "e820_table"; start_info.h
// XEN_HVM_MEMMAP_TYPE_*: the same numbers).
const (
	e820RAM      = 1
	e820Reserved = 2
)

// e820Max is the room in the zero page (E820_MAX_ENTRIES_ZEROPAGE).
const e820Max = 128

type e820Entry struct {
	base, size uint64
	kind       uint32
}

// memoryMap returns the memory map of mem's regions: RAM but for the reserved
// part of the first MiB, and KVM's own pages below 4 GiB.
func memoryMap(mem *guestmem.Memory) ([]e820Entry, error) {
	var m []e820Entry
	for _, r := range mem.Regions() {
		base, end := uint64(r.Base), uint64(r.Base)+r.Size
		if base < MMIOGapEnd && end > MMIOGapStart {
			return nil, fail("memory", ErrLayout, "RAM %#x to %#x reaches into the MMIO gap; lay memory out with boot.Ranges", base, end)
		}
		if base == 0 {
			m = append(m, e820Entry{0, endLowRAM, e820RAM}, e820Entry{endLowRAM, HighMemory - endLowRAM, e820Reserved})
			base = HighMemory
		}
		if base >= MMIOGapEnd && (len(m) == 0 || m[len(m)-1].base < MMIOGapStart) {
			m = append(m, kvmPages())
		}
		m = append(m, e820Entry{base, end - base, e820RAM})
	}
	if m[len(m)-1].base < MMIOGapStart {
		m = append(m, kvmPages())
	}
	if len(m) > e820Max {
		return nil, fail("memory", ErrLayout, "%d regions; the memory map has room for %d", len(mem.Regions()), e820Max)
	}
	return m, nil
}

func kvmPages() e820Entry { return e820Entry{KVMIdentityMap, kvmPagesSize, e820Reserved} }

// putE820 writes m as packed boot_e820_entry structs of 20 bytes.
func putE820(b []byte, m []e820Entry) {
	for i, e := range m {
		b := b[i*20:]
		binary.LittleEndian.PutUint64(b[0:], e.base)
		binary.LittleEndian.PutUint64(b[8:], e.size)
		binary.LittleEndian.PutUint32(b[16:], e.kind)
	}
}
