package boot

import "encoding/binary"

// ELF-64 as the generic and x86-64 ABI define it. debug/elf is not used: it
// allocates by sizes that the file chooses.
const (
	elfMagic      = "\x7fELF"
	elfHeaderSize = 64
	elfPhdrSize   = 56
	elfPhdrMax    = 128 // a Linux kernel has five

	elfClass64 = 2
	elfLittle  = 1
	elfExec    = 2 // ET_EXEC
	elfDyn     = 3 // ET_DYN
	elfX86_64  = 62

	ptLoad   = 1
	ptInterp = 3
	ptNote   = 4
)

// A Linux kernel's COMMAND_LINE_SIZE on x86, less the NUL. An ELF image has no
// header that says so.
const elfCmdlineMax = 2047

// phdr is a program header: what is used of it, and its place in the table.
type phdr struct {
	kind          uint32
	offset, paddr uint64
	filesz, memsz uint64
	align, number uint64
}

// inspectELF reads the headers of an ELF kernel; format is ELF or PVH.
func inspectELF(f file, format Format) (*Image, error) {
	var h [elfHeaderSize]byte
	if err := f.read(h[:], 0, "ELF header"); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	switch {
	case h[4] != elfClass64:
		return nil, fail("kernel", ErrUnsupported, "a 32-bit ELF image; give a 64-bit x86 kernel")
	case h[5] != elfLittle || le.Uint16(h[18:]) != elfX86_64:
		return nil, fail("kernel", ErrUnsupported, "ELF machine %d is not x86-64 (%d)", le.Uint16(h[18:]), elfX86_64)
	case le.Uint16(h[16:]) != elfExec && le.Uint16(h[16:]) != elfDyn:
		return nil, fail("kernel", ErrNotKernel, "ELF type %d is not executable; give the vmlinux, not an object or a module", le.Uint16(h[16:]))
	}
	entry, phoff := le.Uint64(h[24:]), le.Uint64(h[32:])
	phnum := uint64(le.Uint16(h[56:]))
	switch {
	case le.Uint16(h[54:]) != elfPhdrSize:
		return nil, fail("kernel", ErrMalformed, "ELF program headers of %d bytes instead of %d", le.Uint16(h[54:]), elfPhdrSize)
	case phnum == 0 || phnum > elfPhdrMax:
		return nil, fail("kernel", ErrMalformed, "%d ELF program headers; 1 to %d are accepted", phnum, elfPhdrMax)
	case !f.has(phoff, phnum*elfPhdrSize):
		return nil, f.truncated(phoff, phnum*elfPhdrSize, "ELF program header table")
	}

	img := &Image{Format: format, Entry: entry, CmdlineMax: elfCmdlineMax, initrdLimit: MMIOGapStart}
	notes := noteSearch{f: f, budget: noteBudget}
	for i := range phnum {
		p, err := readPhdr(f, phoff+i*elfPhdrSize, i)
		if err != nil {
			return nil, err
		}
		switch p.kind {
		case ptInterp:
			return nil, fail("kernel", ErrNotKernel, "an ELF program that asks for an interpreter; give a vmlinux")
		case ptLoad:
			err = img.addSegment(f, p)
		case ptNote:
			if format == PVH {
				err = notes.segment(p)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	if len(img.segments) == 0 {
		return nil, fail("kernel", ErrMalformed, "no ELF segment is to be loaded")
	}
	if format == PVH {
		if !notes.found {
			return nil, fail("kernel", ErrUnsupported, "no PVH entry point (ELF note XEN_ELFNOTE_PHYS32_ENTRY); build the kernel with CONFIG_PVH or choose the ELF format")
		}
		img.Entry = notes.entry
	}
	if !img.holds(img.Entry) {
		return nil, fail("kernel", ErrMalformed, "the entry point %#x lies in no segment of the file", img.Entry)
	}
	return img, nil
}

func readPhdr(f file, off, number uint64) (phdr, error) {
	var b [elfPhdrSize]byte
	if err := f.read(b[:], off, "ELF program header"); err != nil {
		return phdr{}, err
	}
	le := binary.LittleEndian
	return phdr{
		kind:   le.Uint32(b[0:]),
		offset: le.Uint64(b[8:]),
		paddr:  le.Uint64(b[24:]),
		filesz: le.Uint64(b[32:]),
		memsz:  le.Uint64(b[40:]),
		align:  le.Uint64(b[48:]),
		number: number,
	}, nil
}

// addSegment checks a PT_LOAD header and adds its segment to img.
func (img *Image) addSegment(f file, p phdr) error {
	switch {
	case p.memsz == 0:
		return nil
	case p.filesz > p.memsz:
		return fail("kernel", ErrMalformed, "ELF segment %d has %d bytes in the file but %d in memory", p.number, p.filesz, p.memsz)
	case !f.has(p.offset, p.filesz):
		return f.truncated(p.offset, p.filesz, "ELF segment")
	case p.paddr < HighMemory:
		return fail("kernel", ErrOutsideMemory, "ELF segment %d is to be loaded at %#x, below 1 MiB, where the boot tables are", p.number, p.paddr)
	case p.paddr >= MMIOGapStart || p.memsz > MMIOGapStart-p.paddr:
		return fail("kernel", ErrOutsideMemory, "ELF segment %d takes %d bytes from %#x; a kernel must lie below %#x", p.number, p.memsz, p.paddr, uint64(MMIOGapStart))
	}
	for _, s := range img.segments {
		if p.paddr < s.addr+s.memSize && s.addr < p.paddr+p.memsz {
			return fail("kernel", ErrMalformed, "ELF segment %d at %#x overlaps the one at %#x", p.number, p.paddr, s.addr)
		}
	}
	if len(img.segments) == 0 {
		img.Start = p.paddr
	}
	img.Start = min(img.Start, p.paddr)
	img.End = max(img.End, p.paddr+p.memsz)
	img.segments = append(img.segments, segment{p.paddr, p.memsz, p.offset, p.filesz})
	return nil
}

// holds reports whether a segment's file part covers the address.
func (img *Image) holds(a uint64) bool {
	for _, s := range img.segments {
		if a >= s.addr && a-s.addr < s.fileSize {
			return true
		}
	}
	return false
}
