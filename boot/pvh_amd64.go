package boot

import "encoding/binary"

// The ELF note that holds the 32-bit physical entry point (Xen
// include/public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY).
const (
	xenNoteName        = "Xen\x00"
	xenPhys32Entry     = 18
	noteHeaderSize     = 12
	noteBudget         = 64 << 10 // bytes of notes that are looked at, over all segments
	pvhStartMagic      = 0x336ec578
	pvhStartVersion    = 1 // with the memory map
	pvhStartSize       = 56
	pvhModuleSize      = 32
	pvhMapSize         = 24
	pvhMapMax          = (sizePVHArea - int(addrPVHMap-addrPVHInfo)) / pvhMapSize
	pvhEntryLimit      = 1 << 32
	noteAlign8, align4 = 8, 4
)

// noteSearch walks note segments for the PVH entry point.
type noteSearch struct {
	f      file
	budget uint64
	found  bool
	entry  uint64
}

// segment looks through one PT_NOTE segment. Notes consist of a header of three
// words (name size, descriptor size, type), the name and the descriptor, each
// padded to the segment's alignment.
func (s *noteSearch) segment(p phdr) error {
	if !s.f.has(p.offset, p.filesz) {
		return s.f.truncated(p.offset, p.filesz, "ELF notes")
	}
	if p.filesz > s.budget {
		return fail("kernel", ErrMalformed, "more than %d bytes of ELF notes", noteBudget)
	}
	s.budget -= p.filesz
	align := uint64(align4)
	if p.align == noteAlign8 {
		align = noteAlign8
	}
	le := binary.LittleEndian
	for off, end := p.offset, p.offset+p.filesz; !s.found && end-off >= noteHeaderSize; {
		var h [noteHeaderSize + len(xenNoteName)]byte
		if err := s.f.read(h[:noteHeaderSize], off, "ELF note"); err != nil {
			return err
		}
		nameSize, descSize := uint64(le.Uint32(h[0:])), uint64(le.Uint32(h[4:]))
		desc := alignUp(noteHeaderSize+nameSize, align)
		size := alignUp(desc+descSize, align)
		// The last note's padding may be missing.
		if desc+descSize > end-off {
			return fail("kernel", ErrMalformed, "an ELF note of %d bytes in a segment that has %d left", desc+descSize, end-off)
		}
		if le.Uint32(h[8:]) == xenPhys32Entry && nameSize == uint64(len(xenNoteName)) {
			if err := s.f.read(h[noteHeaderSize:], off+noteHeaderSize, "ELF note's name"); err != nil {
				return err
			}
			if string(h[noteHeaderSize:]) == xenNoteName {
				return s.take(off+desc, descSize)
			}
		}
		off += min(size, end-off)
	}
	return nil
}

// take reads the entry point, which a 64-bit kernel gives in 4 or 8 bytes.
func (s *noteSearch) take(off, size uint64) error {
	if size != 4 && size != 8 {
		return fail("kernel", ErrMalformed, "a PVH entry point of %d bytes; 4 or 8 were expected", size)
	}
	var b [8]byte
	if err := s.f.read(b[:size], off, "PVH entry point"); err != nil {
		return err
	}
	s.entry, s.found = binary.LittleEndian.Uint64(b[:]), true
	if s.entry >= pvhEntryLimit {
		return fail("kernel", ErrMalformed, "the PVH entry point %#x is beyond 4 GiB", s.entry)
	}
	return nil
}

// alignUp rounds up; the callers' values are sums of 32-bit numbers.
func alignUp(n, align uint64) uint64 { return (n + align - 1) &^ (align - 1) }

// pvhInfo returns the page with hvm_start_info, the module list and the memory
// map (start_info.h; the layouts are in its opening comment).
func pvhInfo(memmap []e820Entry, initrd, initrdSize uint64) ([]byte, error) {
	if len(memmap) > pvhMapMax {
		return nil, fail("memory", ErrLayout, "%d memory map entries; PVH start info has room for %d", len(memmap), pvhMapMax)
	}
	le := binary.LittleEndian
	b := make([]byte, int(addrPVHMap-addrPVHInfo)+len(memmap)*pvhMapSize)
	le.PutUint32(b[0:], pvhStartMagic)
	le.PutUint32(b[4:], pvhStartVersion)
	if initrdSize > 0 {
		le.PutUint32(b[12:], 1)
		le.PutUint64(b[16:], uint64(addrPVHMods))
		mod := b[addrPVHMods-addrPVHInfo:]
		le.PutUint64(mod[0:], initrd)
		le.PutUint64(mod[8:], initrdSize)
	}
	le.PutUint64(b[24:], uint64(addrCmdline))
	le.PutUint64(b[32:], uint64(addrACPI))
	le.PutUint64(b[40:], uint64(addrPVHMap))
	le.PutUint32(b[48:], uint32(len(memmap)))
	for i, e := range memmap {
		m := b[int(addrPVHMap-addrPVHInfo)+i*pvhMapSize:]
		le.PutUint64(m[0:], e.base)
		le.PutUint64(m[8:], e.size)
		le.PutUint32(m[16:], e.kind)
	}
	return b, nil
}
