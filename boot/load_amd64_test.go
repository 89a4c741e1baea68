package boot

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/stretchr/testify/require"
)

const testRAM = 32 << 20

func TestLoad_ELF(t *testing.T) {
	mem := newMem(t, testRAM)
	p := params(testELF())
	p.RNGSeed = []byte("seed")
	s, err := Load(mem, p)
	require.NoError(t, err)

	require.Equal(t, pattern(0x1234, 1), guestBytes(t, mem, testText, 0x1234))
	require.Equal(t, pattern(0x800, 2), guestBytes(t, mem, testText+0x4000, 0x800))
	require.Equal(t, make([]byte, 0x4801), guestBytes(t, mem, testText+0x4800, 0x4801), "BSS")
	require.Equal(t, "console=ttyS0\x00", string(guestBytes(t, mem, addrCmdline, 14)))
	require.Equal(t, mpTable(2), guestBytes(t, mem, addrMPTable, len(mpTable(2))))
	require.Equal(t, mpPointer(), guestBytes(t, mem, addrMPPointer, 16))
	require.Equal(t, acpiTables(2), guestBytes(t, mem, addrACPI, len(acpiTables(2))))
	require.Equal(t, seedData(p.RNGSeed), guestBytes(t, mem, addrSetupData, 20))
	require.Equal(t, identityMap(), guestBytes(t, mem, addrPML4, sizePageTable))
	require.Equal(t, gdt(s), guestBytes(t, mem, addrGDT, sizeGDT))

	zp := guestBytes(t, mem, addrZeroPage, sizeZeroPage)
	require.Equal(t, uint32(addrCmdline), le.Uint32(zp[hdrCmdLinePtr:]))
	require.Equal(t, uint64(addrSetupData), le.Uint64(zp[hdrSetupData:]))
	require.Equal(t, byte(4), zp[zpE820Entries])
	require.Equal(t, make([]byte, 16), guestBytes(t, mem, addrPVHInfo, 16), "no PVH start info")
}

// The state at entry, as boot.rst "64-bit Boot Protocol" demands it.
func TestLoad_EntryState64(t *testing.T) {
	for name, kernel := range map[string][]byte{"ELF": testELF(), "bzImage": testBzImage(nil)} {
		s, err := Load(newMem(t, testRAM), params(kernel))
		require.NoError(t, err, name)
		entry := uint64(testText)
		if name == "bzImage" {
			entry += 0x200
		}
		require.Equal(t, entry, s.RIP)
		require.Equal(t, uint64(addrZeroPage), s.RSI)
		require.Equal(t, uint64(2), s.RFLAGS, "interrupts off")
		require.Equal(t, uint16(0x10), s.CS.Selector, "__BOOT_CS")
		require.Equal(t, uint8(1), s.CS.L)
		require.Zero(t, s.CS.DB)
		for _, seg := range []Segment{s.DS, s.ES, s.SS} {
			require.Equal(t, uint16(0x18), seg.Selector, "__BOOT_DS")
			require.Equal(t, Segment{Limit: 0xffff_ffff, Selector: 0x18, Type: 3, Present: 1, DB: 1, S: 1, G: 1}, seg)
		}
		require.Equal(t, uint64(1<<31|1<<4|1), s.CR0)
		require.Equal(t, uint64(addrPML4), s.CR3)
		require.Equal(t, uint64(1<<5), s.CR4)
		require.Equal(t, uint64(1<<8|1<<10), s.EFER)
		require.Equal(t, Table{uint64(addrGDT), sizeGDT - 1}, s.GDT)
		require.Zero(t, s.IDT)
	}
}

// The state at entry, as Xen's PVH ABI demands it.
func TestLoad_PVH(t *testing.T) {
	mem := newMem(t, testRAM)
	p := params(testELF())
	p.Format = PVH
	p.Initramfs, p.InitramfsSize = bytes.NewReader(make([]byte, 5000)), 5000
	p.RNGSeed = []byte("has no place")
	s, err := Load(mem, p)
	require.NoError(t, err)
	require.Equal(t, uint64(testText+0x40), s.RIP, "the note's entry point, not the header's")
	require.Equal(t, uint64(addrPVHInfo), s.RBX)
	require.Equal(t, uint64(1<<4|1), s.CR0, "PE, and ET which cannot be cleared")
	require.Zero(t, s.CR4|s.EFER|s.CR3)
	require.Equal(t, Segment{Limit: 0xffff_ffff, Selector: 0x10, Type: 0xb, Present: 1, DB: 1, S: 1, G: 1}, s.CS)
	require.Equal(t, Segment{Limit: 0x67, Selector: selTSS, Type: 0xb, Present: 1}, s.TR, "an active 32-bit TSS")
	require.Equal(t, uint64(2), s.RFLAGS)

	info := guestBytes(t, mem, addrPVHInfo, pvhStartSize)
	require.Equal(t, uint32(0x336ec578), le.Uint32(info))
	require.Equal(t, "console=ttyS0\x00", string(guestBytes(t, mem, guestmem.GPA(le.Uint64(info[24:])), 14)))
	require.Equal(t, uint32(1), le.Uint32(info[12:]), "one module: the initramfs")
	mod := guestBytes(t, mem, guestmem.GPA(le.Uint64(info[16:])), pvhModuleSize)
	require.Equal(t, uint64(testRAM-0x2000), le.Uint64(mod))
	require.Equal(t, uint64(5000), le.Uint64(mod[8:]))
	require.Equal(t, uint32(4), le.Uint32(info[48:]))
	require.Equal(t, make([]byte, 16), guestBytes(t, mem, addrZeroPage, 16), "no zero page")
	require.Equal(t, make([]byte, 16), guestBytes(t, mem, addrPML4, 16), "no page tables")
}

func TestLoad_BzImage(t *testing.T) {
	mem := newMem(t, testRAM)
	kernel := testBzImage(nil)
	_, err := Load(mem, params(kernel))
	require.NoError(t, err)
	require.Equal(t, pattern(0x2000, 3), guestBytes(t, mem, testText, 0x2000))
	zp := guestBytes(t, mem, addrZeroPage, sizeZeroPage)
	require.Equal(t, uint64(addrACPI), le.Uint64(zp[zpACPIRSDP:]))
	require.Equal(t, make([]byte, 0x1e8-0x78), zp[0x78:0x1e8], "the boot sector is not copied")
	require.Zero(t, zp[0x1ef], "sentinel")
	require.Equal(t, kernel[hdrSetupSects:hdrTypeOfLoader], zp[hdrSetupSects:hdrTypeOfLoader], "the header is")
	require.Equal(t, byte(0xff), zp[hdrTypeOfLoader])
	require.Equal(t, uint32(testText), le.Uint32(zp[hdrCode32Start:]))
	require.Equal(t, make([]byte, 0x2d0-0x26c), zp[0x26c:0x2d0], "nothing beyond the header's end")
}

func TestInspect(t *testing.T) {
	img, err := Inspect(bytes.NewReader(testBzImage(nil)), int64(len(testBzImage(nil))), Auto)
	require.NoError(t, err)
	require.Equal(t, BzImage, img.Format)
	require.Equal(t, "6.1.0-test (someone@somewhere) #1", img.Version)
	require.Equal(t, []uint64{testText, testText + 0x8000, testText + 0x200}, []uint64{img.Start, img.End, img.Entry})
	require.Equal(t, 2047, img.CmdlineMax)
	require.Equal(t, uint64(16+24+1)<<20, img.MinMemory(0))
	require.Equal(t, uint64(16+24+1+20)<<20, img.MinMemory(10<<20))
	require.Positive(t, img.MinMemory(1<<62))
	require.Equal(t, img.MinMemory(0), img.MinMemory(-1))

	img, err = Inspect(bytes.NewReader(testELF()), int64(len(testELF())), Auto)
	require.NoError(t, err)
	require.Equal(t, ELF, img.Format)
	require.Equal(t, []uint64{testText, testText + 0x9001, testText}, []uint64{img.Start, img.End, img.Entry})
	for _, f := range []Format{Auto, ELF, BzImage, PVH, 77} {
		require.NotEmpty(t, fmt.Sprint(f))
	}
}

// Where a bzImage goes (boot.rst "pref_address", "relocatable_kernel").
func TestInspect_BzImagePlacement(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(b []byte)
		want uint64
	}{
		"relocatable":      {func([]byte) {}, testText},
		"not relocatable":  {func(b []byte) { b[hdrRelocatable] = 0 }, testText},
		"no preference":    {func(b []byte) { le.PutUint64(b[hdrPrefAddress:], 0) }, 0x20_0000},
		"no pref, no need": {func(b []byte) { le.PutUint64(b[hdrPrefAddress:], 0); b[hdrRelocatable] = 0 }, HighMemory},
		"setup_sects 0":    {func(b []byte) { b[hdrSetupSects] = 0 }, testText},
	} {
		b := testBzImage(c.edit)
		img, err := Inspect(bytes.NewReader(b), int64(len(b)), BzImage)
		require.NoError(t, err, name)
		require.Equal(t, c.want, img.Start, name)
	}
}

// The initramfs: page-aligned, whole, as high as RAM and kernel allow, clear of
// the kernel with its BSS.
func TestLoad_InitramfsPlacement(t *testing.T) {
	elf := testELF()
	elfEnd := (testText + 0x9001 + pageSize - 1) &^ (pageSize - 1)
	capped := testBzImage(func(b []byte) { le.PutUint32(b[hdrInitrdAddrMax:], testText+0x1_0fff) })
	above := testBzImage(func(b []byte) {
		le.PutUint32(b[hdrInitrdAddrMax:], testText+0x1_0fff)
		le.PutUint16(b[hdrXloadflags:], xlfKernel64|xlfAbove4G)
	})
	for name, c := range map[string]struct {
		kernel []byte
		size   int
		want   uint64 // 0: too big
	}{
		"one byte":                {elf, 1, testRAM - pageSize},
		"one page":                {elf, pageSize, testRAM - pageSize},
		"a page and a byte":       {elf, pageSize + 1, testRAM - 2*pageSize},
		"all there is":            {elf, testRAM - elfEnd, uint64(elfEnd)},
		"one more":                {elf, testRAM - elfEnd + 1, 0},
		"below initrd_addr_max":   {capped, 0x2001, testText + 0x1_1000 - 0x3000},
		"up to the kernel's end":  {capped, 0x9000, testText + 0x8000},
		"initrd_addr_max exceeds": {capped, 0x9001, 0},
		"above 4 GiB is allowed":  {above, 0x9001, testRAM - 0xa000},
	} {
		mem := newMem(t, testRAM)
		p := params(c.kernel)
		content := pattern(c.size, 5)
		p.Initramfs, p.InitramfsSize = bytes.NewReader(content), int64(c.size)
		_, err := Load(mem, p)
		if c.want == 0 {
			require.ErrorIs(t, err, ErrInitramfsTooBig, name)
			continue
		}
		require.NoError(t, err, name)
		zp := guestBytes(t, mem, addrZeroPage, sizeZeroPage)
		require.Equal(t, uint32(c.want), le.Uint32(zp[hdrRamdiskImage:]), name)
		require.Equal(t, uint32(c.size), le.Uint32(zp[hdrRamdiskSize:]), name)
		require.True(t, bytes.Equal(content, guestBytes(t, mem, guestmem.GPA(c.want), c.size)), name)
		require.NotZero(t, guestBytes(t, mem, testText+0x123, 1)[0], "%s: the kernel is still there", name)
	}
}

// An empty initramfs is none.
func TestLoad_NoInitramfs(t *testing.T) {
	mem := newMem(t, testRAM)
	p := params(testELF())
	p.Initramfs = bytes.NewReader(nil)
	_, err := Load(mem, p)
	require.NoError(t, err)
	zp := guestBytes(t, mem, addrZeroPage, sizeZeroPage)
	require.Zero(t, le.Uint64(zp[hdrRamdiskImage:]))
}

// The memory map: sorted, without overlap, RAM exactly where RAM is.
func TestMemoryMap(t *testing.T) {
	mem := newMem(t, testRAM)
	m, err := memoryMap(mem)
	require.NoError(t, err)
	require.Equal(t, []e820Entry{
		{0, 0x9c000, e820RAM}, {0x9c000, 0x64000, e820Reserved}, {0x10_0000, testRAM - 0x10_0000, e820RAM},
		{0xfffb_c000, 0x4000, e820Reserved},
	}, m)

	split, err := guestmem.NewHeap(guestmem.Range{Base: 0, Size: 2 << 20}, guestmem.Range{Base: 4 << 20, Size: 1 << 20},
		guestmem.Range{Base: MMIOGapEnd, Size: 1 << 20}, guestmem.Range{Base: 2 * MMIOGapEnd, Size: 1 << 20})
	require.NoError(t, err)
	m, err = memoryMap(split)
	require.NoError(t, err)
	require.Equal(t, []e820Entry{
		{0, 0x9c000, e820RAM}, {0x9c000, 0x64000, e820Reserved}, {0x10_0000, 0x10_0000, e820RAM},
		{4 << 20, 1 << 20, e820RAM}, {0xfffb_c000, 0x4000, e820Reserved},
		{MMIOGapEnd, 1 << 20, e820RAM}, {2 * MMIOGapEnd, 1 << 20, e820RAM},
	}, m)
}

// The same input gives the same bytes.
func TestLoad_Deterministic(t *testing.T) {
	sums := map[string]bool{}
	for range 3 {
		mem := newMem(t, testRAM)
		p := params(testELF())
		p.Initramfs, p.InitramfsSize, p.RNGSeed = bytes.NewReader(pattern(9999, 1)), 9999, pattern(64, 1)
		s, err := Load(mem, p)
		require.NoError(t, err)
		h := sha256.Sum256(guestBytes(t, mem, 0, testRAM))
		sums[fmt.Sprintf("%x %+v", h, *s)] = true
	}
	require.Len(t, sums, 1)
}

// aliasCheck is a kernel file that notes whether large reads go straight to
// guest memory.
type aliasCheck struct {
	*bytes.Reader
	mem    []byte
	direct int
	copied int
}

func (a *aliasCheck) ReadAt(p []byte, off int64) (int, error) {
	inGuest := false
	for _, at := range []int{testText, testText + 0x4000, testRAM - 0x3000} {
		inGuest = inGuest || len(p) > 0 && &p[0] == &a.mem[at]
	}
	if inGuest {
		a.direct += len(p)
	} else {
		a.copied += len(p)
	}
	return a.Reader.ReadAt(p, off)
}

func TestLoad_ReadsStraightIntoGuestMemory(t *testing.T) {
	mem := newMem(t, testRAM)
	all := guestBytes(t, mem, 0, testRAM)
	kernel := testELF()
	k := &aliasCheck{Reader: bytes.NewReader(kernel), mem: all}
	i := &aliasCheck{Reader: bytes.NewReader(pattern(0x3000, 1)), mem: all}
	_, err := Load(mem, Params{Kernel: k, KernelSize: int64(len(kernel)), Initramfs: i, InitramfsSize: 0x3000})
	require.NoError(t, err)
	require.Equal(t, 0x1234+0x800, k.direct)
	require.Less(t, k.copied, 512, "headers only")
	require.Equal(t, 0x3000, i.direct)
	require.Zero(t, i.copied)
}

// A guest with RAM beyond the gap, and the most CPUs there can be.
func TestLoad_HighMemoryAndMaxCPUs(t *testing.T) {
	mem, err := guestmem.NewHeap(guestmem.Range{Base: 0, Size: testRAM}, guestmem.Range{Base: MMIOGapEnd, Size: 1 << 20})
	require.NoError(t, err)
	p := params(testELF())
	p.CPUs = MaxCPUs
	_, err = Load(mem, p)
	require.NoError(t, err)
	zp := guestBytes(t, mem, addrZeroPage, sizeZeroPage)
	require.Equal(t, byte(5), zp[zpE820Entries])
	require.Equal(t, uint64(MMIOGapEnd), le.Uint64(zp[zpE820Table+4*20:]))
}
