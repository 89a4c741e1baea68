package boot

import (
	"errors"
	"fmt"
	"io"
)

// Format is the kind of a kernel image and how it is entered.
type Format int

// The formats. Auto looks at the file: an ELF image is entered by the 64-bit
// boot protocol, so PVH has to be asked for.
const (
	Auto Format = iota
	ELF
	BzImage
	PVH
)

func (f Format) String() string {
	switch f {
	case Auto:
		return "auto"
	case ELF:
		return "ELF"
	case BzImage:
		return "bzImage"
	case PVH:
		return "PVH"
	}
	return fmt.Sprintf("Format(%d)", int(f))
}

// Image describes a kernel image. All addresses are guest-physical.
type Image struct {
	Format     Format // never Auto
	Entry      uint64
	Start, End uint64 // what the kernel occupies before it looks at its memory map, BSS included
	CmdlineMax int    // longest command line in bytes, without the final NUL
	Version    string // the kernel's own words; empty unless Format is BzImage

	segments    []segment
	initrdLimit uint64 // the initramfs ends at or below it
	header      []byte // the file from 0 to the setup header's end; nil unless Format is BzImage
}

// segment is a part of the file and where in memory it goes. What lies between
// fileSize and memSize is left as it is, that is zero.
type segment struct {
	addr, memSize    uint64
	offset, fileSize uint64
}

// headroom is the RAM that a kernel needs beyond its image and its initramfs
// before it runs /init with some to spare: page structs, slabs, per-CPU areas,
// page tables. With it, Linux 6.1 and 6.12 had 35 MiB free in a small /init.
const headroom = 24 << 20

// MinMemory estimates the least guest memory, in bytes, with which the kernel
// reaches the init of an uncompressed initramfs of that size: the kernel, the
// initramfs twice (as loaded and as unpacked) and some headroom.
func (img *Image) MinMemory(initramfsSize int64) uint64 {
	const mib = 1 << 20
	initramfs := uint64(min(max(initramfsSize, 0), 1<<50))
	return (img.End + 2*initramfs + headroom + mib - 1) &^ (mib - 1)
}

// Inspect reads a kernel image's headers and checks everything that can be
// checked without guest memory. It reads a few KiB at most.
func Inspect(kernel io.ReaderAt, size int64, format Format) (*Image, error) {
	if kernel == nil || size <= 0 {
		return nil, fail("kernel", ErrNoKernel, "give a 64-bit vmlinux or a bzImage that is not empty")
	}
	f := file{kernel, uint64(size)}
	var magic [4]byte
	if err := f.read(magic[:], 0, "magic number"); err != nil {
		return nil, err
	}
	isELF := string(magic[:]) == elfMagic
	if format == Auto {
		format = BzImage
		if isELF {
			format = ELF
		}
	}
	switch {
	case format == BzImage && isELF:
		return nil, fail("kernel", ErrNotKernel, "asked for a bzImage, but the file is an ELF image; leave the format to Auto")
	case format == BzImage:
		return inspectBzImage(f)
	case format != ELF && format != PVH:
		return nil, fail("kernel", ErrUnsupported, "unknown format %v", format)
	case !isELF:
		return nil, fail("kernel", ErrNotKernel, "asked for %v, but the file does not start with the ELF magic number", format)
	}
	return inspectELF(f, format)
}

// file is a kernel image: untrusted bytes.
type file struct {
	r    io.ReaderAt
	size uint64
}

// has reports whether the n bytes from off are within the file.
func (f file) has(off, n uint64) bool { return off <= f.size && n <= f.size-off }

// read fills b from off.
func (f file) read(b []byte, off uint64, what string) error {
	if !f.has(off, uint64(len(b))) {
		return f.truncated(off, uint64(len(b)), what)
	}
	return readFull(f.r, b, off, "kernel", what)
}

func (f file) truncated(off, n uint64, what string) error {
	return fail("kernel", ErrTruncated, "its %s takes %d bytes from offset %d, but the file has %d bytes; copy it again", what, n, off, f.size)
}

// readFull fills b from off: a short read is an error.
func readFull(r io.ReaderAt, b []byte, off uint64, op, what string) error {
	n, err := r.ReadAt(b, int64(off))
	switch {
	case n == len(b):
		return nil
	case err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return fail(op, ErrTruncated, "its %s ends %d bytes early, at offset %d", what, len(b)-max(n, 0), off+uint64(max(n, 0)))
	}
	return &Error{op, fmt.Errorf("read %s at offset %d: %w", what, off, err)}
}
