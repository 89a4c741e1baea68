package boot

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/stretchr/testify/require"
)

// fuzzRAM is small, so that a run takes microseconds; the seeds' addresses are
// moved down to fit.
const fuzzRAM = 0x20_0000

func fuzzSeeds(f *testing.F) {
	f.Add([]byte{}, uint8(Auto), "", []byte(nil))
	f.Add([]byte("\x7fELF"), uint8(ELF), "quiet", []byte{1})
	elf := makeELF(HighMemory,
		testSegment{kind: ptLoad, addr: HighMemory, data: pattern(300, 1), memSize: 0x2000},
		testSegment{kind: ptNote, data: note("Xen\x00", xenPhys32Entry, le.AppendUint32(nil, HighMemory), 4)},
		testSegment{kind: ptNote, align: 8, data: note("Xen\x00", xenPhys32Entry, le.AppendUint64(nil, HighMemory), 8)})
	bz := testBzImage(func(b []byte) {
		le.PutUint64(b[hdrPrefAddress:], HighMemory)
		le.PutUint32(b[hdrKernelAlign:], pageSize)
	})
	for format := range uint8(4) {
		f.Add(elf, format, "console=ttyS0", pattern(5000, 1))
		f.Add(bz, format, "console=ttyS0", pattern(5000, 1))
		f.Add(testELF(), format, "", []byte{})
		f.Add(testBzImage(nil), format, "", []byte{})
	}
}

// FuzzLoad_Row26: any bytes as kernel give a loaded guest or an Error, within a
// second, and a loaded guest's entry point lies in what was loaded.
func FuzzLoad_Row26(f *testing.F) {
	fuzzSeeds(f)
	mem, err := guestmem.NewHeap(Ranges(fuzzRAM)...)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, kernel []byte, format uint8, cmdline string, initramfs []byte) {
		p := Params{Kernel: bytes.NewReader(kernel), KernelSize: int64(len(kernel)), Format: Format(format), Cmdline: cmdline}
		if initramfs != nil {
			p.Initramfs, p.InitramfsSize = bytes.NewReader(initramfs), int64(len(initramfs))
		}
		check(t, mem, p)
	})
}

// FuzzLoad_Row26_Sparse: the same with a file that really has all the bytes
// that its headers announce.
func FuzzLoad_Row26_Sparse(f *testing.F) {
	fuzzSeeds(f)
	mem, err := guestmem.NewHeap(Ranges(fuzzRAM)...)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, head []byte, format uint8, cmdline string, _ []byte) {
		check(t, mem, Params{Kernel: sparse{head}, KernelSize: 1 << 62, Format: Format(format), Cmdline: cmdline})
	})
}

func check(t *testing.T, mem *guestmem.Memory, p Params) {
	start := time.Now()
	s, err := Load(mem, p)
	require.Less(t, time.Since(start), time.Second)
	if err != nil {
		var e *Error
		require.True(t, errors.As(err, &e), "%T", err)
		require.Nil(t, s)
		return
	}
	require.GreaterOrEqual(t, s.RIP, uint64(HighMemory))
	require.Less(t, s.RIP, uint64(fuzzRAM))
	img, err := Inspect(p.Kernel, p.KernelSize, p.Format)
	require.NoError(t, err)
	require.LessOrEqual(t, img.End, uint64(fuzzRAM))
	require.Equal(t, mpPointer(), guestBytes(t, mem, addrMPPointer, sizeMPPointer), "the tables were not overwritten")
	require.Equal(t, gdt(s), guestBytes(t, mem, addrGDT, sizeGDT))
}
