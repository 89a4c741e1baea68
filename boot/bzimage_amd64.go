package boot

import (
	"bytes"
	"encoding/binary"
)

// Fields of the setup header, as offsets into the bzImage file and into the
// zero page alike (boot.rst, "The Real-Mode Kernel Header").
const (
	hdrSetupSects     = 0x1f1
	hdrSyssize        = 0x1f4
	hdrBootFlag       = 0x1fe
	hdrJump           = 0x200 // the byte after it gives the header's end
	hdrMagic          = 0x202
	hdrVersion        = 0x206
	hdrKernelVersion  = 0x20e
	hdrTypeOfLoader   = 0x210
	hdrLoadflags      = 0x211
	hdrCode32Start    = 0x214
	hdrRamdiskImage   = 0x218
	hdrRamdiskSize    = 0x21c
	hdrCmdLinePtr     = 0x228
	hdrInitrdAddrMax  = 0x22c
	hdrKernelAlign    = 0x230
	hdrRelocatable    = 0x234
	hdrXloadflags     = 0x236
	hdrCmdlineSize    = 0x238
	hdrSetupData      = 0x250
	hdrPrefAddress    = 0x258
	hdrInitSize       = 0x260
	hdrEndMin         = 0x264 // of protocol 2.12, without the EFI field
	hdrEndMax         = 0x290 // where the zero page goes on with other things
	bootFlag          = 0xaa55
	headerMagic       = 0x53726448 // "HdrS"
	protocol64        = 0x20c      // 2.12: the first with xloadflags
	loadedHigh        = 1 << 0
	xlfKernel64       = 1 << 0
	xlfAbove4G        = 1 << 1
	sectorSize        = 512
	setupSectsDefault = 4
	entry64           = 0x200 // boot.rst, "64-bit Boot Protocol"
	versionMax        = 128
)

// inspectBzImage reads the setup header of a bzImage.
func inspectBzImage(f file) (*Image, error) {
	le := binary.LittleEndian
	h := make([]byte, hdrEndMax)
	n := min(f.size, hdrEndMax)
	if n < hdrMagic+4 {
		return nil, fail("kernel", ErrNotKernel, "%d bytes, neither an ELF image nor a bzImage", f.size)
	}
	if err := f.read(h[:n], 0, "setup header"); err != nil {
		return nil, err
	}
	if le.Uint16(h[hdrBootFlag:]) != bootFlag || le.Uint32(h[hdrMagic:]) != headerMagic {
		return nil, fail("kernel", ErrNotKernel, "neither an ELF image nor a bzImage; a compressed vmlinux has to be unpacked first")
	}
	end := uint64(hdrMagic) + uint64(h[hdrJump+1])
	version := le.Uint16(h[hdrVersion:])
	switch {
	case n < min(max(end, hdrEndMin), hdrEndMax):
		return nil, f.truncated(0, min(max(end, hdrEndMin), hdrEndMax), "setup header")
	case version < protocol64:
		return nil, fail("kernel", ErrUnsupported, "boot protocol %d.%02d; 2.12 is needed (Linux 3.8 or later)", version>>8, version&0xff)
	case end < hdrEndMin:
		return nil, fail("kernel", ErrMalformed, "the setup header ends at %#x; protocol 2.12 needs %#x", end, hdrEndMin)
	case h[hdrLoadflags]&loadedHigh == 0:
		return nil, fail("kernel", ErrUnsupported, "a zImage, which loads low; build a bzImage")
	case le.Uint16(h[hdrXloadflags:])&xlfKernel64 == 0:
		return nil, fail("kernel", ErrUnsupported, "no 64-bit entry point (XLF_KERNEL_64); give an x86-64 kernel")
	}
	img := &Image{
		Format:      BzImage,
		CmdlineMax:  int(min(le.Uint32(h[hdrCmdlineSize:]), sizeCmdline-1)),
		Version:     kernelVersion(f, h),
		initrdLimit: min(uint64(le.Uint32(h[hdrInitrdAddrMax:]))+1, MMIOGapStart),
		header:      h[:min(end, hdrEndMax)],
	}
	if le.Uint16(h[hdrXloadflags:])&xlfAbove4G != 0 {
		img.initrdLimit = MMIOGapStart
	}
	return img, img.placeBzImage(f, h)
}

// placeBzImage decides where the protected-mode part goes: to the address that
// the kernel prefers. Loaded there, neither a relocatable kernel nor one that
// is not has to move itself (boot.rst, "pref_address", "init_size").
func (img *Image) placeBzImage(f file, h []byte) error {
	le := binary.LittleEndian
	sects := uint64(h[hdrSetupSects])
	if sects == 0 {
		sects = setupSectsDefault
	}
	off, size := (sects+1)*sectorSize, uint64(le.Uint32(h[hdrSyssize:]))*16
	switch {
	case size <= entry64:
		return fail("kernel", ErrMalformed, "its code has %d bytes (syssize)", size)
	case !f.has(off, size):
		return f.truncated(off, size, "code")
	}
	align := uint64(le.Uint32(h[hdrKernelAlign:]))
	if h[hdrRelocatable] == 0 || align == 0 {
		align = 1
	}
	if align&(align-1) != 0 {
		return fail("kernel", ErrMalformed, "kernel_alignment %#x is not a power of two", align)
	}
	load := le.Uint64(h[hdrPrefAddress:])
	if load == 0 {
		load = max(HighMemory, align)
	}
	window := max(uint64(le.Uint32(h[hdrInitSize:])), size)
	switch {
	case load&(align-1) != 0:
		return fail("kernel", ErrMalformed, "pref_address %#x is no multiple of kernel_alignment %#x", load, align)
	case load < HighMemory || load >= MMIOGapStart || window > MMIOGapStart-load:
		return fail("kernel", ErrOutsideMemory, "it wants %d bytes from %#x; a kernel must lie between 1 MiB and %#x", window, load, uint64(MMIOGapStart))
	}
	img.segments = []segment{{load, window, off, size}}
	img.Start, img.End = load, load+window
	img.Entry = load + entry64
	return nil
}

// kernelVersion returns the version string that the header points to, or "".
func kernelVersion(f file, h []byte) string {
	off := uint64(binary.LittleEndian.Uint16(h[hdrKernelVersion:]))
	if off == 0 || !f.has(off+0x200, 1) {
		return ""
	}
	b := make([]byte, min(versionMax, f.size-off-0x200))
	if f.read(b, off+0x200, "version") != nil {
		return ""
	}
	b, _, _ = bytes.Cut(b, []byte{0})
	for _, c := range b {
		if c < ' ' || c > '~' {
			return ""
		}
	}
	return string(b)
}
