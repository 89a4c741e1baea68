package boot

import (
	"bytes"
	"errors"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/stretchr/testify/require"
)

// edited returns a copy of b with one field changed.
func edited(b []byte, edit func(b []byte)) []byte {
	b = bytes.Clone(b)
	edit(b)
	return b
}

const ph0 = elfHeaderSize // the first program header

func put16(at int, v uint16) func([]byte) { return func(b []byte) { le.PutUint16(b[at:], v) } }
func put32(at int, v uint32) func([]byte) { return func(b []byte) { le.PutUint32(b[at:], v) } }
func put64(at int, v uint64) func([]byte) { return func(b []byte) { le.PutUint64(b[at:], v) } }

// Every kernel that cannot be loaded says why, and what would help.
func TestLoad_BadKernels(t *testing.T) {
	elf, bz := testELF(), testBzImage(nil)
	badNote := func(desc []byte) []byte {
		return makeELF(testText, testSegment{kind: ptLoad, addr: testText, data: pattern(64, 1)},
			testSegment{kind: ptNote, data: note("Xen\x00", xenPhys32Entry, desc, 4)})
	}
	for _, c := range []struct {
		name   string
		kernel []byte
		format Format
		err    error
		says   string
	}{
		{"empty", nil, Auto, ErrNoKernel, "give a 64-bit vmlinux or a bzImage"},
		{"text file", []byte("#!/bin/sh\nexit 0\n"), Auto, ErrNotKernel, "17 bytes"},
		{"zeros", make([]byte, 4096), Auto, ErrNotKernel, "has to be unpacked first"},
		{"gzip", append([]byte{0x1f, 0x8b}, make([]byte, 2000)...), Auto, ErrNotKernel, "unpacked"},
		{"32-bit ELF", edited(elf, func(b []byte) { b[4] = 1 }), Auto, ErrUnsupported, "32-bit"},
		{"arm64 ELF", edited(elf, put16(18, 183)), Auto, ErrUnsupported, "not x86-64"},
		{"big-endian ELF", edited(elf, func(b []byte) { b[5] = 2 }), Auto, ErrUnsupported, "not x86-64"},
		{"module", edited(elf, put16(16, 1)), Auto, ErrNotKernel, "module"},
		{"program", edited(elf, put32(ph0, ptInterp)), Auto, ErrNotKernel, "interpreter"},
		{"ELF as bzImage", elf, BzImage, ErrNotKernel, "Auto"},
		{"bzImage as ELF", bz, ELF, ErrNotKernel, "ELF magic"},
		{"bzImage as PVH", bz, PVH, ErrNotKernel, "ELF magic"},
		{"unknown format", elf, 99, ErrUnsupported, "Format(99)"},
		{"phentsize", edited(elf, put16(54, 32)), Auto, ErrMalformed, "32 bytes instead of 56"},
		{"no phdrs", edited(elf, put16(56, 0)), Auto, ErrMalformed, "0 ELF program headers"},
		{"too many phdrs", edited(elf, put16(56, 0xffff)), Auto, ErrMalformed, "65535"},
		{"phdrs beyond file", edited(elf, put64(32, math.MaxUint64)), Auto, ErrTruncated, "program header table"},
		{"no segments", makeELF(testText, testSegment{kind: ptNote}), Auto, ErrMalformed, "no ELF segment"},
		{"empty segment only", makeELF(testText, testSegment{kind: ptLoad, addr: testText}), Auto, ErrMalformed, "no ELF segment"},
		{"segment beyond file", edited(elf, put64(ph0+8, uint64(len(elf)))), Auto, ErrTruncated, "copy it again"},
		{"segment offset wraps", edited(elf, put64(ph0+8, math.MaxUint64-8)), Auto, ErrTruncated, "segment"},
		{"filesz > memsz", edited(elf, put64(ph0+40, 1)), Auto, ErrMalformed, "in memory"},
		{"segment below 1 MiB", edited(elf, put64(ph0+24, 0x9_f000)), Auto, ErrOutsideMemory, "below 1 MiB"},
		{"segment in the gap", edited(elf, put64(ph0+24, MMIOGapStart)), Auto, ErrOutsideMemory, "below 0xc0000000"},
		{"segment reaches the gap", edited(elf, put64(ph0+40, MMIOGapStart)), Auto, ErrOutsideMemory, "below 0xc0000000"},
		{"segment wraps", edited(elf, put64(ph0+40, math.MaxUint64)), Auto, ErrOutsideMemory, "below 0xc0000000"},
		{"segment very high", edited(elf, put64(ph0+24, math.MaxUint64-1)), Auto, ErrOutsideMemory, "below 0xc0000000"},
		{"segments overlap", edited(elf, put64(ph0+24, testText+0x4010)), Auto, ErrMalformed, "overlaps"},
		{"entry nowhere", edited(elf, put64(24, 0xffff_ffff_8100_0000)), Auto, ErrMalformed, "lies in no segment"},
		{"entry in BSS", edited(elf, put64(24, testText+0x5000)), Auto, ErrMalformed, "lies in no segment"},
		{"no PVH note", makeELF(testText, testSegment{kind: ptLoad, addr: testText, data: pattern(64, 1)}), PVH, ErrUnsupported, "CONFIG_PVH"},
		{"PVH note of 2 bytes", badNote([]byte{1, 2}), PVH, ErrMalformed, "of 2 bytes"},
		{"PVH entry nowhere", badNote(le.AppendUint32(nil, 0x1234)), PVH, ErrMalformed, "lies in no segment"},
		{"PVH entry beyond 4 GiB", badNote(le.AppendUint64(nil, 1<<32)), PVH, ErrMalformed, "beyond 4 GiB"},
		{"note too long", edited(badNote(make([]byte, 8)), put32(ph0+2*elfPhdrSize+64+4, math.MaxUint32)), PVH, ErrMalformed, "segment that has 24 left"},
		{"notes beyond file", edited(badNote(make([]byte, 8)), put64(ph0+elfPhdrSize+32, 1<<40)), PVH, ErrTruncated, "notes"},
		{"notes without end", makeELF(testText, testSegment{kind: ptLoad, addr: testText, data: pattern(64, 1)},
			testSegment{kind: ptNote, data: make([]byte, noteBudget+1)}), PVH, ErrMalformed, "more than 65536"},
		{"protocol 2.11", edited(bz, put16(hdrVersion, 0x20b)), Auto, ErrUnsupported, "protocol 2.11"},
		{"short header", edited(bz, func(b []byte) { b[hdrJump+1] = 0x20 }), Auto, ErrMalformed, "ends at 0x222"},
		{"zImage", edited(bz, func(b []byte) { b[hdrLoadflags] = 0 }), Auto, ErrUnsupported, "zImage"},
		{"32-bit bzImage", edited(bz, put16(hdrXloadflags, 0)), Auto, ErrUnsupported, "XLF_KERNEL_64"},
		{"no code", edited(bz, put32(hdrSyssize, 0)), Auto, ErrMalformed, "0 bytes"},
		{"code beyond file", edited(bz, put32(hdrSyssize, math.MaxUint32)), Auto, ErrTruncated, "code"},
		{"alignment", edited(bz, put32(hdrKernelAlign, 0x30_0000)), Auto, ErrMalformed, "power of two"},
		{"not aligned", edited(bz, put64(hdrPrefAddress, testText+0x1000)), Auto, ErrMalformed, "no multiple"},
		{"pref below 1 MiB", edited(bz, func(b []byte) { put64(hdrPrefAddress, 0x8000)(b); b[hdrRelocatable] = 0 }), Auto, ErrOutsideMemory, "1 MiB"},
		{"pref beyond", edited(bz, put64(hdrPrefAddress, 1<<63)), Auto, ErrOutsideMemory, "0xc0000000"},
		{"init_size beyond", edited(bz, put32(hdrInitSize, math.MaxUint32)), Auto, ErrOutsideMemory, "0xc0000000"},
		{"cmdline_size 0", edited(bz, put32(hdrCmdlineSize, 0)), Auto, ErrCmdline, "this kernel takes 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := params(c.kernel)
			p.Format = c.format
			_, err := Load(newMem(t, 2<<20), p)
			require.ErrorIs(t, err, c.err)
			require.ErrorContains(t, err, c.says)
			var e *Error
			require.ErrorAs(t, err, &e)
			require.True(t, strings.HasPrefix(err.Error(), "boot: "), err)
		})
	}
}

// A kernel cut off anywhere is refused, whatever its kind.
func TestLoad_TruncatedAnywhere(t *testing.T) {
	for name, c := range map[string]struct {
		kernel []byte
		format Format
	}{"ELF": {testELF(), ELF}, "PVH": {testELF(), PVH}, "bzImage": {testBzImage(nil), BzImage}} {
		mem := newMem(t, testRAM)
		// What follows the last segment of the ELF image is notes, which only PVH reads.
		last := len(c.kernel)
		if c.format == ELF {
			last = ph0 + 3*elfPhdrSize + 0x1234 + 0x800
		}
		for n := range last {
			p := params(c.kernel[:n])
			p.Format = c.format
			_, err := Load(mem, p)
			require.Error(t, err, "%s cut at %d", name, n)
			var e *Error
			require.ErrorAs(t, err, &e)
			if n >= 1 && !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrNotKernel) {
				require.Failf(t, "wrong cause", "%s cut at %d: %v", name, n, err)
			}
			// The size is right but the file ends early: it shrank meanwhile.
			if n%97 == 0 {
				p.KernelSize = int64(len(c.kernel))
				_, err = Load(mem, p)
				require.ErrorIs(t, err, ErrTruncated, "%s shrunk to %d", name, n)
			}
		}
	}
}

func TestLoad_BadParams(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*Params)
		err  error
		says string
	}{
		{"no kernel", func(p *Params) { p.Kernel = nil }, ErrNoKernel, "give"},
		{"negative size", func(p *Params) { p.KernelSize = -1 }, ErrNoKernel, "give"},
		{"too many CPUs", func(p *Params) { p.CPUs = 256 }, ErrCPUs, "256; 1 to 255 are possible"},
		{"negative CPUs", func(p *Params) { p.CPUs = -1 }, ErrCPUs, "-1"},
		{"long command line", func(p *Params) { p.Cmdline = strings.Repeat("x", 2048) }, ErrCmdline, "2048 bytes long; this kernel takes 2047"},
		{"NUL in command line", func(p *Params) { p.Cmdline = "a\x00b" }, ErrCmdline, "NUL"},
		{"long seed", func(p *Params) { p.RNGSeed = make([]byte, seedMax+1) }, ErrSeed, "4080"},
		{"initramfs size alone", func(p *Params) { p.InitramfsSize = 1 }, nil, "does not suit"},
		{"negative initramfs", func(p *Params) { p.Initramfs, p.InitramfsSize = bytes.NewReader(nil), -1 }, nil, "does not suit"},
		{"short initramfs", func(p *Params) { p.Initramfs, p.InitramfsSize = strings.NewReader("abc"), 4 }, ErrTruncated, "1 bytes early"},
		{"huge initramfs", func(p *Params) { p.Initramfs, p.InitramfsSize = strings.NewReader(""), math.MaxInt64 }, ErrInitramfsTooBig, "make it smaller"},
		{"big initramfs", func(p *Params) { p.Initramfs, p.InitramfsSize = strings.NewReader(""), 100<<20 }, ErrInitramfsTooBig, "at least 241 MiB needed"},
	} {
		p := params(testELF())
		c.edit(&p)
		_, err := Load(newMem(t, testRAM), p)
		require.ErrorContains(t, err, c.says, c.name)
		if c.err != nil {
			require.ErrorIs(t, err, c.err, c.name)
		}
	}
	p := params(testELF())
	p.Cmdline, p.RNGSeed, p.CPUs = strings.Repeat("x", 2047), make([]byte, seedMax), 0
	_, err := Load(newMem(t, testRAM), p)
	require.NoError(t, err, "the limits themselves are fine")
}

func TestLoad_MemoryTooSmall(t *testing.T) {
	for _, c := range []struct{ ram, need uint64 }{
		{pageSize, 25 << 20}, {1 << 20, 25 << 20}, {2 << 20, 41 << 20}, {16 << 20, 41 << 20},
	} {
		_, err := Load(newMem(t, c.ram), params(testELF()))
		var small *MemoryTooSmallError
		require.ErrorAs(t, err, &small, "%#x", c.ram)
		require.Equal(t, MemoryTooSmallError{Have: c.ram, Need: c.need}, *small)
		require.ErrorContains(t, err, "MiB needed")
	}
}

func TestLoad_BadLayout(t *testing.T) {
	for name, r := range map[string][]guestmem.Range{
		"nothing at 0": {{Base: MMIOGapEnd, Size: 1 << 20}},
		"in the gap":   {{Base: 0, Size: testRAM}, {Base: 0xd000_0000, Size: 1 << 20}},
		"into the gap": {{Base: 0, Size: testRAM}, {Base: MMIOGapStart - pageSize, Size: 2 * pageSize}},
	} {
		mem, err := guestmem.NewHeap(r...)
		require.NoError(t, err)
		_, err = Load(mem, params(testELF()))
		require.ErrorIs(t, err, ErrLayout, name)
		require.ErrorContains(t, err, "boot.Ranges", name)
	}
	var many []guestmem.Range
	for i := range uint64(e820Max) {
		many = append(many, guestmem.Range{Base: guestmem.GPA(i * testRAM), Size: testRAM / 16})
	}
	many[0].Size = testRAM - pageSize
	many = append(many[:90], func() (r []guestmem.Range) {
		for i := range uint64(60) {
			r = append(r, guestmem.Range{Base: guestmem.GPA(MMIOGapEnd + 2*i*pageSize), Size: pageSize})
		}
		return r
	}()...)
	mem, err := guestmem.NewHeap(many...)
	require.NoError(t, err)
	_, err = Load(mem, params(testELF()))
	require.ErrorIs(t, err, ErrLayout)
	require.ErrorContains(t, err, "has room for 128")
}

// failing is a file whose device breaks.
type failing struct {
	*bytes.Reader
	from int64
}

var errDisk = errors.New("disk on fire")

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		return 0, errDisk
	}
	return f.Reader.ReadAt(p, off)
}

func TestLoad_ReadErrors(t *testing.T) {
	for _, kernel := range [][]byte{testELF(), testBzImage(nil)} {
		for _, from := range []int64{0, 60, 70, 1000, 3000, int64(len(kernel)) - 400} {
			p := params(kernel)
			p.Kernel = failing{bytes.NewReader(kernel), from}
			_, err := Load(newMem(t, testRAM), p)
			require.ErrorIs(t, err, errDisk, "from %d", from)
			require.ErrorContains(t, err, "kernel")
		}
	}
}

// sparse is a file of any size whose bytes beyond its start are zero: a hostile
// header can announce anything without being truncated.
type sparse struct{ head []byte }

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(s.head)) {
		copy(p, s.head[off:])
	}
	return len(p), nil
}

// A file that announces giant sizes, and has them, costs no memory of ours.
func TestLoad_Row26_NoAllocationByFile(t *testing.T) {
	elf, bz := testELF(), testBzImage(nil)
	kernels := [][]byte{
		edited(elf, func(b []byte) { put64(ph0+32, 1<<40)(b); put64(ph0+40, 1<<40)(b) }),
		edited(elf, put64(ph0+2*elfPhdrSize+32, 1<<40)),
		edited(elf, put16(56, elfPhdrMax)),
		edited(bz, put32(hdrSyssize, math.MaxUint32)),
		edited(bz, func(b []byte) { put16(hdrKernelVersion, 0xffff)(b); put32(hdrCmdlineSize, math.MaxUint32)(b) }),
		edited(bz, put32(hdrInitSize, math.MaxUint32)),
	}
	mem := newMem(t, 2<<20)
	for i, k := range kernels {
		for _, f := range []Format{Auto, PVH} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, _ = Load(mem, Params{Kernel: sparse{k}, KernelSize: 1 << 50, Format: f})
			runtime.ReadMemStats(&after)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(256<<10), "kernel %d as %v", i, f)
		}
	}
}

// Notes and headers of the worst shapes end soon (rust-vmm's loader looped).
func TestLoad_Row26_BoundedTime(t *testing.T) {
	segs := []testSegment{{kind: ptLoad, addr: testText, data: pattern(64, 1)}}
	for range elfPhdrMax - 1 {
		segs = append(segs, testSegment{kind: ptNote, data: bytes.Repeat(note("", 0, nil, 4), noteBudget/12/elfPhdrMax)})
	}
	kernel := makeELF(testText, segs...)
	p := params(kernel)
	p.Format = PVH
	start := time.Now()
	_, err := Load(newMem(t, testRAM), p)
	require.ErrorIs(t, err, ErrUnsupported)
	require.Less(t, time.Since(start), time.Second)
}
