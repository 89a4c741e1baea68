package boot

import (
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// golden compares b with a hex dump in testdata.
func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(dump(b)), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "create it with -update")
	require.Equal(t, string(want), dump(b), "run with -update if the change is meant")
}

// dump is hex.Dump without the lines that repeat the one before.
func dump(b []byte) string {
	var out strings.Builder
	last, skipped := "", false
	for line := range strings.Lines(hex.Dump(b)) {
		if body := line[8:]; body != last {
			out.WriteString(line)
			last, skipped = body, false
		} else if !skipped {
			out.WriteString("*\n")
			skipped = true
		}
	}
	return out.String()
}

// The tables of a fixed configuration, byte by byte: 2 CPUs, 4 GiB, an
// initramfs, a seed.
func TestGolden(t *testing.T) {
	memmap := []e820Entry{
		{0, endLowRAM, e820RAM}, {endLowRAM, HighMemory - endLowRAM, e820Reserved},
		{HighMemory, MMIOGapStart - HighMemory, e820RAM}, kvmPages(), {MMIOGapEnd, 1 << 30, e820RAM},
	}
	elf, err := Inspect(params(testELF()).Kernel, int64(len(testELF())), ELF)
	require.NoError(t, err)
	bz, err := Inspect(params(testBzImage(nil)).Kernel, int64(len(testBzImage(nil))), BzImage)
	require.NoError(t, err)
	const initrd, size = 0xbfff_c000, 0x3210

	golden(t, "zeropage-elf", zeroPage(elf, memmap, initrd, size, uint64(addrSetupData)))
	golden(t, "zeropage-bzimage", zeroPage(bz, memmap, initrd, size, 0))
	golden(t, "mptable-2cpus", mpTable(2))
	golden(t, "mppointer", mpPointer())
	golden(t, "acpi-2cpus", acpiTables(2))
	golden(t, "seed", seedData([]byte("0123456789abcdef0123456789abcdef")))
	golden(t, "gdt-64", gdt(longMode(testText, uint64(addrZeroPage))))
	golden(t, "gdt-pvh", gdt(protectedMode(testText, uint64(addrPVHInfo))))
	golden(t, "pagetables", identityMap())
	info, err := pvhInfo(memmap, initrd, size)
	require.NoError(t, err)
	golden(t, "pvhinfo", info)
}

// The MP table as a guest reads it: walk the entries by type, count, check sums.
func TestMPTable(t *testing.T) {
	for _, cpus := range []int{1, 2, 3, 32, 254, MaxCPUs} {
		p := mpPointer()
		require.Equal(t, "_MP_", string(p[:4]))
		require.Zero(t, sum(p))
		require.Equal(t, uint32(addrMPTable), le.Uint32(p[4:]))

		b := mpTable(cpus)
		require.Equal(t, "PCMP", string(b[:4]))
		require.Equal(t, len(b), int(le.Uint16(b[4:])))
		require.Zero(t, sum(b))
		var kinds [5]int
		apics := map[byte]bool{}
		var ioapic byte
		for e := b[mpHeaderSize:]; len(e) > 0; {
			kind := e[0]
			kinds[kind]++
			switch kind {
			case mpProcessor:
				require.False(t, apics[e[1]])
				apics[e[1]] = true
				require.Equal(t, e[1] == 0, e[3]&mpCPUBoot != 0, "only CPU 0 boots")
				require.NotZero(t, e[3]&mpCPUEnabled)
				e = e[mpCPUSize-mpEntrySize:]
			case mpBus:
				require.Equal(t, "ISA   ", string(e[2:8]))
			case mpIOAPIC:
				ioapic = e[1]
				require.Equal(t, uint32(IOAPICBase), le.Uint32(e[4:]))
			case mpIntSrc:
				require.Equal(t, []byte{mpINT, 5, 0, mpISABusID, byte(kinds[mpIntSrc] - 1), ioapic, byte(kinds[mpIntSrc] - 1)}, e[1:8])
			}
			e = e[mpEntrySize:]
		}
		require.Equal(t, [5]int{cpus, 1, 1, irqLines, 2}, kinds)
		require.Equal(t, cpus+1+1+irqLines+2, int(le.Uint16(b[34:])))
		require.False(t, apics[ioapic], "MP 1.4 §4.3.3: APIC identifiers are unique")
		require.False(t, apics[mpAllAPICs])
	}
}

// The ACPI tables as a guest reads them: RSDP to XSDT to MADT, and its entries.
func TestACPITables(t *testing.T) {
	for _, cpus := range []int{1, 2, 32, MaxCPUs} {
		mem := newMem(t, 2<<20)
		require.NoError(t, mem.WriteAt(acpiTables(cpus), addrACPI))
		rsdp := guestBytes(t, mem, addrACPI, acpiRSDPSize)
		require.Equal(t, "RSD PTR ", string(rsdp[:8]))
		require.Zero(t, sum(rsdp[:20]))
		require.Zero(t, sum(rsdp))
		table := func(at uint64, signature string) []byte {
			b := guestBytes(t, mem, guestmem.GPA(at), acpiHeaderSize)
			require.Equal(t, signature, string(b[:4]))
			b = guestBytes(t, mem, guestmem.GPA(at), int(le.Uint32(b[4:])))
			require.Zero(t, sum(b), "checksum of %s", signature)
			return b[acpiHeaderSize:]
		}
		xsdt := table(le.Uint64(rsdp[24:]), "XSDT")
		require.Len(t, xsdt, 8)
		madt := table(le.Uint64(xsdt), "APIC")
		require.Equal(t, uint32(LocalAPICBase), le.Uint32(madt))
		var kinds [5]int
		for e := madt[8:]; len(e) > 0; e = e[e[1]:] {
			switch kinds[e[0]]++; e[0] {
			case madtLocalAPIC:
				require.Equal(t, byte(kinds[0]-1), e[3])
				require.Equal(t, uint32(madtCPUEnabled), le.Uint32(e[4:]))
			case madtIOAPIC:
				require.Equal(t, uint32(IOAPICBase), le.Uint32(e[4:]))
				require.Zero(t, le.Uint32(e[8:]))
			}
		}
		require.Equal(t, [5]int{cpus, 1, 0, 0, 1}, kinds)
	}
}

func sum(b []byte) (s byte) {
	for _, c := range b {
		s += c
	}
	return s
}

// Descriptors against values that the SDM's layout gives by hand.
func TestDescriptor(t *testing.T) {
	s := longMode(0, 0)
	require.Equal(t, uint64(0x00af_9b00_0000_ffff), s.CS.descriptor())
	require.Equal(t, uint64(0x00cf_9300_0000_ffff), s.DS.descriptor())
	require.Equal(t, uint64(0x0000_8b00_0000_0067), s.TR.descriptor())
	require.Equal(t, uint64(0x00cf_9b00_0000_ffff), protectedMode(0, 0).CS.descriptor())
	odd := Segment{Base: 0x1234_5678, Limit: 0xf_fffe, DPL: 3, AVL: 1, Type: 2, S: 1, Present: 1}
	require.Equal(t, uint64(0x121f_f234_5678_fffe), odd.descriptor())
}

// The page tables map every address to itself: walk them as a processor does.
func TestIdentityMap(t *testing.T) {
	mem := newMem(t, 2<<20)
	require.NoError(t, writeCPUTables(mem, longMode(0, 0)))
	entry := func(table, index uint64) uint64 {
		return le.Uint64(guestBytes(t, mem, addrGDT*0, 1<<20)[table&^0xfff+index*8:])
	}
	for _, a := range []uint64{0, 0x1000, 0x1f_ffff, 0x20_0000, testText, MMIOGapStart - 1, LocalAPICBase, MMIOGapEnd - 1} {
		pdpt := entry(uint64(addrPML4), a>>39&511)
		require.Equal(t, uint64(pteP|pteRW), pdpt&0xfff)
		pd := entry(pdpt, a>>30&511)
		require.Equal(t, uint64(pteP|pteRW), pd&0xfff)
		pde := entry(pd, a>>21&511)
		require.Equal(t, uint64(pteP|pteRW|ptePS), pde&0xfff)
		require.Equal(t, a, pde&^0xfff|a&0x1f_ffff)
	}
	require.Zero(t, entry(uint64(addrPML4), 1))
}
