package boot

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/stretchr/testify/require"
)

// Synthetic kernels: the smallest files that have what the loader looks at.

var le = binary.LittleEndian

// testSegment is a program header with its content.
type testSegment struct {
	kind    uint32
	addr    uint64
	data    []byte
	memSize uint64 // 0: len(data)
	align   uint64
}

// makeELF returns an ELF-64 image with those segments.
func makeELF(entry uint64, segs ...testSegment) []byte {
	b := make([]byte, elfHeaderSize+elfPhdrSize*len(segs))
	copy(b, elfMagic)
	b[4], b[5], b[6] = elfClass64, elfLittle, 1
	le.PutUint16(b[16:], elfExec)
	le.PutUint16(b[18:], elfX86_64)
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[24:], entry)
	le.PutUint64(b[32:], elfHeaderSize)
	le.PutUint16(b[52:], elfHeaderSize)
	le.PutUint16(b[54:], elfPhdrSize)
	le.PutUint16(b[56:], uint16(len(segs)))
	for i, s := range segs {
		h := b[elfHeaderSize+elfPhdrSize*i:]
		le.PutUint32(h[0:], s.kind)
		le.PutUint64(h[8:], uint64(len(b)))
		le.PutUint64(h[16:], s.addr+0xffff_ffff_8000_0000)
		le.PutUint64(h[24:], s.addr)
		le.PutUint64(h[32:], uint64(len(s.data)))
		le.PutUint64(h[40:], max(s.memSize, uint64(len(s.data))))
		le.PutUint64(h[48:], s.align)
		b = append(b, s.data...)
	}
	return b
}

// note returns one ELF note.
func note(name string, kind uint32, desc []byte, align int) []byte {
	pad := func(b []byte) []byte {
		for len(b)%align != 0 {
			b = append(b, 0)
		}
		return b
	}
	b := le.AppendUint32(nil, uint32(len(name)))
	b = le.AppendUint32(b, uint32(len(desc)))
	b = le.AppendUint32(b, kind)
	b = pad(append(b, name...))
	return pad(append(b, desc...))
}

const testText = 0x100_0000 // where Linux's text goes

// testELF is shaped like a vmlinux: text, data with a BSS, notes.
func testELF() []byte {
	notes := append(note("GNU\x00", 3, make([]byte, 20), 4), note("Xen\x00", 6, []byte("linux\x00"), 4)...)
	notes = append(notes, note("Xen\x00", xenPhys32Entry, le.AppendUint64(nil, testText+0x40), 4)...)
	return makeELF(testText,
		testSegment{kind: ptLoad, addr: testText, data: pattern(0x1234, 1), align: 0x20_0000},
		testSegment{kind: ptLoad, addr: testText + 0x4000, data: pattern(0x800, 2), memSize: 0x5001, align: 0x20_0000},
		testSegment{kind: ptNote, addr: testText + 0x200, data: notes, align: 4})
}

// testBzImage is a bzImage of protocol 2.15 with five set-up sectors, which
// edit may change.
func testBzImage(edit func(b []byte)) []byte {
	const sects, code = 4, 0x2000
	b := make([]byte, (sects+1)*sectorSize)
	copy(b, pattern(hdrSetupSects, 9)) // the boot sector: must not reach the zero page
	b[hdrSetupSects] = sects
	le.PutUint32(b[hdrSyssize:], code/16)
	le.PutUint16(b[hdrBootFlag:], bootFlag)
	b[hdrJump], b[hdrJump+1] = 0xeb, 0x6a
	le.PutUint32(b[hdrMagic:], headerMagic)
	le.PutUint16(b[hdrVersion:], 0x20f)
	le.PutUint16(b[hdrKernelVersion:], 0x200)
	b[hdrLoadflags] = loadedHigh
	le.PutUint32(b[hdrCode32Start:], 0x10_0000)
	le.PutUint32(b[hdrInitrdAddrMax:], 0x7fff_ffff)
	le.PutUint32(b[hdrKernelAlign:], 0x20_0000)
	b[hdrRelocatable] = 1
	le.PutUint16(b[hdrXloadflags:], xlfKernel64)
	le.PutUint32(b[hdrCmdlineSize:], 2047)
	le.PutUint64(b[hdrPrefAddress:], testText)
	le.PutUint32(b[hdrInitSize:], 0x8000)
	copy(b[0x400:], "6.1.0-test (someone@somewhere) #1\x00")
	b = append(b, pattern(code, 3)...)
	if edit != nil {
		edit(b)
	}
	return b
}

// pattern returns n bytes that are not zero and not periodic in pages.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7+i>>8)*2 + seed | 1
	}
	return b
}

func newMem(t testing.TB, size uint64) *guestmem.Memory {
	t.Helper()
	mem, err := guestmem.NewHeap(Ranges(size)...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, mem.Close()) })
	return mem
}

func params(kernel []byte) Params {
	return Params{Kernel: bytes.NewReader(kernel), KernelSize: int64(len(kernel)), Cmdline: "console=ttyS0", CPUs: 2}
}

func guestBytes(t testing.TB, mem *guestmem.Memory, at guestmem.GPA, n int) []byte {
	t.Helper()
	b, err := mem.Bytes(at, uint64(n))
	require.NoError(t, err)
	return b
}
