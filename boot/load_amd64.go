package boot

import (
	"fmt"
	"io"
	"strings"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

// Params says what to boot.
type Params struct {
	// Kernel is the kernel image, KernelSize its size in bytes. It is read
	// straight into guest memory.
	Kernel     io.ReaderAt
	KernelSize int64
	// Format is how to enter the kernel. The zero value, Auto, looks at the file.
	Format Format
	// Initramfs is the initial RAM file system, InitramfsSize its size in
	// bytes. Nil: none.
	Initramfs     io.ReaderAt
	InitramfsSize int64
	// Cmdline is the kernel command line, passed as it is.
	Cmdline string
	// CPUs is the number of processors in the MP table, 1 to MaxCPUs. Zero: 1.
	CPUs int
	// RNGSeed goes into the kernel's random pool (SETUP_RNG_SEED, Linux 6.0
	// and later). Empty: none. A PVH kernel does not get it: its start info
	// has no place for one.
	RNGSeed []byte
}

// seedMax is the longest RNGSeed.
const seedMax = sizeSetupData - setupDataHeader

// Load writes everything that the guest needs into mem, which must be fresh
// (all zero) and laid out by [Ranges], and returns the state in which vCPU 0
// starts. After an error, what mem holds is undefined.
func Load(mem *guestmem.Memory, p Params) (*CPUState, error) {
	img, err := Inspect(p.Kernel, p.KernelSize, p.Format)
	if err != nil {
		return nil, err
	}
	return img.Load(mem, p)
}

// Load is the function Load for a kernel that Inspect has seen: p.Kernel must
// be the same file; p.Format is not looked at.
func (img *Image) Load(mem *guestmem.Memory, p Params) (*CPUState, error) {
	if p.CPUs == 0 {
		p.CPUs = 1
	}
	if err := img.check(p); err != nil {
		return nil, err
	}
	low, err := lowRAM(mem)
	if err != nil {
		return nil, err
	}
	memmap, err := memoryMap(mem)
	if err != nil {
		return nil, err
	}
	initrd, err := img.place(low, p)
	if err != nil {
		return nil, err
	}
	for _, s := range img.segments {
		if err := readInto(mem, s.addr, s.fileSize, p.Kernel, s.offset, "kernel", "code"); err != nil {
			return nil, err
		}
	}
	var initrdSize uint64
	if p.Initramfs != nil {
		initrdSize = uint64(p.InitramfsSize)
		if err := readInto(mem, initrd, initrdSize, p.Initramfs, 0, "initramfs", "content"); err != nil {
			return nil, err
		}
	}
	if err := write(mem, "command line", addrCmdline, append([]byte(p.Cmdline), 0)); err != nil {
		return nil, err
	}
	if err := write(mem, "MP table", addrMPTable, mpTable(p.CPUs)); err != nil {
		return nil, err
	}
	if err := write(mem, "MP table", addrMPPointer, mpPointer()); err != nil {
		return nil, err
	}
	if err := write(mem, "ACPI tables", addrACPI, acpiTables(p.CPUs)); err != nil {
		return nil, err
	}
	var s *CPUState
	if img.Format == PVH {
		s, err = img.pvh(mem, memmap, initrd, initrdSize)
	} else {
		s, err = img.linux64(mem, memmap, initrd, initrdSize, p.RNGSeed)
	}
	if err != nil {
		return nil, err
	}
	if err := writeCPUTables(mem, s); err != nil {
		return nil, err
	}
	return s, nil
}

func (img *Image) linux64(mem *guestmem.Memory, memmap []e820Entry, initrd, initrdSize uint64, seed []byte) (*CPUState, error) {
	var setupData uint64
	if len(seed) > 0 {
		setupData = uint64(addrSetupData)
		if err := write(mem, "random seed", addrSetupData, seedData(seed)); err != nil {
			return nil, err
		}
	}
	zp := zeroPage(img, memmap, initrd, initrdSize, setupData)
	return longMode(img.Entry, uint64(addrZeroPage)), write(mem, "zero page", addrZeroPage, zp)
}

func (img *Image) pvh(mem *guestmem.Memory, memmap []e820Entry, initrd, initrdSize uint64) (*CPUState, error) {
	info, err := pvhInfo(memmap, initrd, initrdSize)
	if err != nil {
		return nil, err
	}
	return protectedMode(img.Entry, uint64(addrPVHInfo)), write(mem, "PVH start info", addrPVHInfo, info)
}

// check checks what does not depend on guest memory.
func (img *Image) check(p Params) error {
	switch {
	case p.CPUs < 1 || p.CPUs > MaxCPUs:
		return fail("CPUs", ErrCPUs, "%d; 1 to %d are possible", p.CPUs, MaxCPUs)
	case len(p.Cmdline) > img.CmdlineMax:
		return fail("command line", ErrCmdline, "%d bytes long; this kernel takes %d", len(p.Cmdline), img.CmdlineMax)
	case strings.IndexByte(p.Cmdline, 0) >= 0:
		return fail("command line", ErrCmdline, "it holds a NUL byte")
	case len(p.RNGSeed) > seedMax:
		return fail("random seed", ErrSeed, "%d bytes; at most %d fit", len(p.RNGSeed), seedMax)
	case p.Initramfs != nil && p.InitramfsSize < 0, p.Initramfs == nil && p.InitramfsSize != 0:
		return &Error{"initramfs", fmt.Errorf("size %d does not suit the reader given", p.InitramfsSize)}
	}
	return nil
}

// place checks that the kernel fits into RAM, which ends at low below the MMIO
// gap, and returns the initramfs' address: as high as RAM and the kernel
// permit, on a page boundary, above the kernel and its BSS.
func (img *Image) place(low uint64, p Params) (initrd uint64, err error) {
	tooSmall := &MemoryTooSmallError{Have: low, Need: img.MinMemory(p.InitramfsSize)}
	if img.End > low {
		return 0, &Error{"kernel", tooSmall}
	}
	if p.Initramfs == nil || p.InitramfsSize == 0 {
		return 0, nil
	}
	size, limit := uint64(p.InitramfsSize), min(low, img.initrdLimit)
	if room := limit - min(limit, alignUp(img.End, pageSize)); size <= room {
		if at := (limit - size) &^ (pageSize - 1); at >= img.End {
			return at, nil
		}
	}
	if tooSmall.Need > low && tooSmall.Need <= img.initrdLimit {
		return 0, &Error{"initramfs", fmt.Errorf("%w: %d bytes do not fit beside the kernel: %w", ErrInitramfsTooBig, size, tooSmall)}
	}
	return 0, fail("initramfs", ErrInitramfsTooBig, "%d bytes do not fit between the kernel's end %#x and %#x; make it smaller", size, img.End, limit)
}

// lowRAM returns the size of the RAM that starts at address 0.
func lowRAM(mem *guestmem.Memory) (uint64, error) {
	for _, r := range mem.Regions() {
		if r.Base != 0 {
			continue
		}
		if r.Size <= HighMemory {
			return 0, &Error{"memory", &MemoryTooSmallError{Have: r.Size, Need: HighMemory + headroom}}
		}
		return r.Size, nil
	}
	return 0, fail("memory", ErrLayout, "no RAM at address 0; lay memory out with boot.Ranges")
}

// readInto reads n bytes of a file straight into guest memory.
func readInto(mem *guestmem.Memory, at, n uint64, r io.ReaderAt, off uint64, op, what string) error {
	if n == 0 {
		return nil
	}
	b, err := mem.Bytes(guestmem.GPA(at), n)
	if err != nil {
		return &Error{op, err}
	}
	return readFull(r, b, off, op, what)
}

func write(mem *guestmem.Memory, op string, at guestmem.GPA, b []byte) error {
	if err := mem.WriteAt(b, at); err != nil {
		return &Error{op, err}
	}
	return nil
}
