package boot

import (
	"math"
	"testing"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/stretchr/testify/require"
)

// Nothing in the machine's address space overlaps anything else.
func TestLayout_NoOverlap(t *testing.T) {
	type area struct {
		name       string
		base, size uint64
	}
	low := []area{
		{"GDT", uint64(addrGDT), sizeGDT},
		{"PVH start info", uint64(addrPVHInfo), sizePVHArea},
		{"setup_data", uint64(addrSetupData), sizeSetupData},
		{"zero page", uint64(addrZeroPage), sizeZeroPage},
		{"stack", uint64(addrStack), sizeStack},
		{"page tables", uint64(addrPML4), sizePageTable},
		{"command line", uint64(addrCmdline), sizeCmdline},
		{"MP table", uint64(addrMPTable), sizeMPTable},
		{"MP pointer", uint64(addrMPPointer), sizeMPPointer},
		{"video memory", 0xa0000, 0x40000},
		{"ACPI tables", uint64(addrACPI), sizeACPI},
		{"RAM", HighMemory, MMIOGapStart - HighMemory},
	}
	gap := []area{
		{"virtio-mmio", MMIODeviceBase, MaxMMIODevices * MMIODeviceSize},
		{"I/O APIC", IOAPICBase, 0x1000},
		{"local APIC", LocalAPICBase, 0x1000},
		{"identity map", KVMIdentityMap, pageSize},
		{"TSS", KVMTSS, 3 * pageSize},
		{"RAM beyond", MMIOGapEnd, 1 << 40},
	}
	ports := []area{
		{"i8042", I8042Port, I8042PortSize}, {"RTC", RTCPort, RTCPortSize},
		{"serial", SerialPort, SerialPortSize}, {"exit", ExitPort, ExitPortSize},
	}
	for _, list := range [][]area{append(low, gap...), ports} {
		for i := 1; i < len(list); i++ {
			p, a := list[i-1], list[i]
			require.LessOrEqual(t, p.base+p.size, a.base, "%s overlaps %s", p.name, a.name)
		}
	}
	require.LessOrEqual(t, len(mpTable(MaxCPUs)), sizeMPTable)
	require.LessOrEqual(t, len(acpiTables(MaxCPUs)), sizeACPI)
	require.Equal(t, uint64(0x9fc00), uint64(addrMPPointer), "MP 1.4 §4: the last KiB of base memory")
	require.Equal(t, addrPDPT, addrPML4+pageSize)
	require.Equal(t, addrPD, addrPDPT+pageSize)
	require.Equal(t, KVMTSS+3*pageSize, KVMIdentityMap+kvmPagesSize)
}

func TestRanges(t *testing.T) {
	const gib = 1 << 30
	require.Empty(t, Ranges(0))
	require.Empty(t, Ranges(4095))
	require.Equal(t, []guestmem.Range{{Base: 0, Size: 512 << 20}}, Ranges(512<<20))
	require.Equal(t, []guestmem.Range{{Base: 0, Size: 3 * gib}}, Ranges(3*gib))
	require.Equal(t, []guestmem.Range{{Base: 0, Size: 3 * gib}, {Base: 4 * gib, Size: pageSize}}, Ranges(3*gib+pageSize+1))
	require.Equal(t, []guestmem.Range{{Base: 0, Size: 3 * gib}, {Base: 4 * gib, Size: 3 * gib}}, Ranges(6*gib))
	var sum uint64
	for _, r := range Ranges(math.MaxUint64) {
		sum += r.Size
	}
	require.Equal(t, uint64(math.MaxUint64)&^(pageSize-1), sum)
}

func TestMMIODevice(t *testing.T) {
	seen := map[int]bool{SerialIRQ: true, RTCIRQ: true}
	for n := range MaxMMIODevices {
		base, irq := MMIODevice(n)
		require.Equal(t, uint64(MMIODeviceBase+n*MMIODeviceSize), base)
		require.False(t, seen[irq], "line %d twice", irq)
		require.Less(t, irq, irqLines)
		seen[irq] = true
	}
	for _, n := range []int{-1, MaxMMIODevices, math.MaxInt} {
		_, irq := MMIODevice(n)
		require.Equal(t, -1, irq)
	}
	base, irq := MMIODevice(0)
	require.Equal(t, "virtio_mmio.device=4K@0xd0000000:5", MMIODeviceArg(base, MMIODeviceSize, irq))
	require.Equal(t, "virtio_mmio.device=512@0xd0001000:6", MMIODeviceArg(0xd0001000, 512, 6))
	require.Equal(t, "virtio_mmio.device=0@0x0:9", MMIODeviceArg(0, 0, 9))
}

func TestPMem_LiesAboveAllRAM(t *testing.T) {
	const gib = 1 << 30
	for _, tt := range []struct{ memory, first uint64 }{
		{512 << 20, 4 * gib},
		{3 * gib, 4 * gib},
		{3*gib + 4096, 5 * gib},
		{8 * gib, 9 * gib},
	} {
		got := PMem(Ranges(tt.memory), 2<<20, gib+(2<<20), 2<<20)
		require.Equal(t, []guestmem.Range{
			{Base: guestmem.GPA(tt.first), Size: 2 << 20},
			{Base: guestmem.GPA(tt.first + gib), Size: gib + 2<<20},
			{Base: guestmem.GPA(tt.first + 3*gib), Size: 2 << 20},
		}, got)
	}
	require.Empty(t, PMem(Ranges(gib)))
}
