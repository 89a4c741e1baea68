package kvm_test

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
)

func guest(t testing.TB, c kvmtest.Config) *kvmtest.Guest {
	t.Helper()
	return kvmtest.NewGuest(t, kvmtest.NeedKVM(t), c)
}

// join puts instructions together.
func join(instructions ...[]byte) []byte {
	var out []byte
	for _, i := range instructions {
		out = append(out, i...)
	}
	return out
}

func TestTenBytes(t *testing.T) {
	for _, heap := range []bool{false, true} {
		g := guest(t, kvmtest.Config{
			Heap: heap,
			Code: []byte{
				0xba, 0xf8, 0x03, // mov dx, 0x3f8
				0x00, 0xd8, // add al, bl
				0x04, '0', // add al, '0'
				0xee, // out dx, al
				0xf4, // hlt
				0x90, // nop
			},
			Regs: kvm.Regs{RAX: 2, RBX: 2},
		})
		e := g.RunTo(kvm.ExitIO)
		require.True(t, e.Write)
		require.EqualValues(t, 0x3f8, e.Addr)
		require.EqualValues(t, 1, e.Size)
		require.EqualValues(t, 1, e.Count)
		require.Equal(t, "4", string(e.Data))
		g.RunTo(kvm.ExitHLT)
		r, err := g.VCPU.Regs()
		require.NoError(t, err)
		require.EqualValues(t, kvmtest.CodeReal+9, r.RIP)
	}
}

func TestPIO_Widths(t *testing.T) {
	g := guest(t, kvmtest.Config{Code: []byte{
		0xba, 0x34, 0x12, // mov dx, 0x1234
		0xb0, 0x11, 0xee, // mov al, 0x11; out dx, al
		0xb8, 0x33, 0x22, 0xef, // mov ax, 0x2233; out dx, ax
		0x66, 0xb8, 0x77, 0x66, 0x55, 0x44, 0x66, 0xef, // mov eax, 0x44556677; out dx, eax
		0xec, 0xa2, 0x00, 0x20, // in al, dx; mov [0x2000], al
		0xed, 0xa3, 0x02, 0x20, // in ax, dx; mov [0x2002], ax
		0x66, 0xed, 0x66, 0xa3, 0x04, 0x20, // in eax, dx; mov [0x2004], eax
		0xf4,
	}})
	for _, want := range [][]byte{{0x11}, {0x33, 0x22}, {0x77, 0x66, 0x55, 0x44}} {
		e := g.RunTo(kvm.ExitIO)
		require.True(t, e.Write)
		require.EqualValues(t, 0x1234, e.Addr)
		require.Equal(t, want, e.Data)
	}
	for _, give := range [][]byte{{0xa1}, {0xb2, 0xa2}, {0xd3, 0xc3, 0xb3, 0xa3}} {
		e := g.RunTo(kvm.ExitIO)
		require.False(t, e.Write)
		require.Len(t, e.Data, len(give))
		copy(e.Data, give)
	}
	g.RunTo(kvm.ExitHLT)
	got, err := g.Mem.Bytes(0x2000, 8)
	require.NoError(t, err)
	require.Equal(t, []byte{0xa1, 0, 0xb2, 0xa2, 0xd3, 0xc3, 0xb3, 0xa3}, got)
}

func TestMMIO_Widths(t *testing.T) {
	const base = 0xd0000000
	g := guest(t, kvmtest.Config{Mode: kvmtest.Long, Code: []byte{
		0xbb, 0x00, 0x00, 0x00, 0xd0, // mov ebx, 0xd0000000
		0xc6, 0x03, 0x11, // mov byte [rbx], 0x11
		0x66, 0xc7, 0x43, 0x02, 0x33, 0x22, // mov word [rbx+2], 0x2233
		0xc7, 0x43, 0x04, 0x77, 0x66, 0x55, 0x44, // mov dword [rbx+4], 0x44556677
		0x48, 0xb8, 8, 7, 6, 5, 4, 3, 2, 1, // mov rax, 0x0102030405060708
		0x48, 0x89, 0x43, 0x08, // mov [rbx+8], rax
		0x0f, 0xb6, 0x0b, // movzx ecx, byte [rbx]
		0x0f, 0xb7, 0x53, 0x02, // movzx edx, word [rbx+2]
		0x8b, 0x73, 0x04, // mov esi, [rbx+4]
		0x48, 0x8b, 0x7b, 0x08, // mov rdi, [rbx+8]
		0xf4,
	}})
	for _, w := range []struct {
		off  uint64
		data []byte
	}{
		{0, []byte{0x11}}, {2, []byte{0x33, 0x22}},
		{4, []byte{0x77, 0x66, 0x55, 0x44}}, {8, []byte{8, 7, 6, 5, 4, 3, 2, 1}},
	} {
		e := g.RunTo(kvm.ExitMMIO)
		require.True(t, e.Write)
		require.EqualValues(t, base+w.off, e.Addr)
		require.Equal(t, w.data, e.Data)
	}
	for _, r := range []struct {
		off  uint64
		give []byte
	}{
		{0, []byte{0xa1}}, {2, []byte{0xb2, 0xa2}},
		{4, []byte{0xd3, 0xc3, 0xb3, 0xa3}}, {8, []byte{1, 2, 3, 4, 5, 6, 7, 8}},
	} {
		e := g.RunTo(kvm.ExitMMIO)
		require.False(t, e.Write)
		require.EqualValues(t, base+r.off, e.Addr)
		require.Len(t, e.Data, len(r.give))
		copy(e.Data, r.give)
	}
	g.RunTo(kvm.ExitHLT)
	r, err := g.VCPU.Regs()
	require.NoError(t, err)
	require.Equal(t, []uint64{0xa1, 0xa2b2, 0xa3b3c3d3, 0x0807060504030201}, []uint64{r.RCX, r.RDX, r.RSI, r.RDI})
}

func TestPIO_Strings(t *testing.T) {
	g := guest(t, kvmtest.Config{Code: []byte{
		0xba, 0x00, 0x05, // mov dx, 0x500
		0xbf, 0x00, 0x20, // mov di, 0x2000
		0xb9, 0x40, 0x00, // mov cx, 64
		0xf3, 0x6c, // rep insb
		0xbe, 0x00, 0x20, // mov si, 0x2000
		0xb9, 0x20, 0x00, // mov cx, 32
		0xf3, 0x6f, // rep outsw
		0xf4,
	}})
	var given, taken []byte
	most := uint32(0)
	for {
		e := g.Run()
		if e.Kind == kvm.ExitHLT {
			break
		}
		require.Equal(t, kvm.ExitIO, e.Kind)
		require.EqualValues(t, 0x500, e.Addr)
		most = max(most, e.Count)
		for d := range e.Elements() {
			require.Len(t, d, int(e.Size))
			if e.Write {
				require.Len(t, d, 2)
				taken = append(taken, d...)
			} else {
				require.Len(t, d, 1)
				d[0] = byte(len(given) + 1)
				given = append(given, d[0])
			}
		}
	}
	require.Len(t, given, 64)
	require.Equal(t, given, taken, "what the guest read it wrote back")
	require.Greater(t, most, uint32(1), "KVM reads ahead for string instructions")
}

func TestTripleFault(t *testing.T) {
	g := guest(t, kvmtest.Config{Mode: kvmtest.Long, Code: []byte{
		0x0f, 0x0b, // ud2, and no gate in the IDT is present
	}})
	g.RunTo(kvm.ExitShutdown)
}

func TestFailEntryOrInternalError_IsAnExit(t *testing.T) {
	g := guest(t, kvmtest.Config{Mode: kvmtest.Long, Code: []byte{0xf4}, Regs: kvm.Regs{RIP: 0xd0000000}})
	e := g.Run() // fetching an instruction where no memory is
	require.NotEqual(t, kvm.ExitHLT, e.Kind)
	require.NotEqual(t, kvm.ExitIO, e.Kind)
	t.Log(e)
}

func TestMemory_Above4GiB(t *testing.T) {
	const high = 4 << 30
	g := guest(t, kvmtest.Config{
		Mode: kvmtest.Long,
		More: []guestmem.Range{{Base: high, Size: 2 << 20}},
		Code: []byte{
			0x48, 0xbb, 0, 0, 0, 0, 1, 0, 0, 0, // mov rbx, 0x100000000
			0x48, 0x8b, 0x03, // mov rax, [rbx]
			0x48, 0xff, 0xc0, // inc rax
			0x48, 0x89, 0x83, 0xf8, 0xff, 0x1f, 0x00, // mov [rbx+0x1ffff8], rax
			0xf4,
		},
	})
	require.NoError(t, g.Mem.StoreUint64(high, 0x1122334455667788))
	g.RunTo(kvm.ExitHLT)
	v, err := g.Mem.LoadUint64(high + 2<<20 - 8)
	require.NoError(t, err)
	require.EqualValues(t, 0x1122334455667789, v)
}

// A slot that is deleted becomes MMIO, one that is read-only exits on writes, and
// the dirty log names the pages written.
func TestMemory_Slots(t *testing.T) {
	const at = 0x40000000
	g := guest(t, kvmtest.Config{
		Mode: kvmtest.Long,
		Code: []byte{
			0xbb, 0x00, 0x00, 0x00, 0x40, // mov ebx, 0x40000000
			0xc6, 0x83, 0x00, 0x10, 0x00, 0x00, 0x07, // 1: mov byte [rbx+0x1000], 7
			0xe6, 0x10, // out 0x10, al
			0xeb, 0xf5, // jmp 1b
		},
	})
	mem, err := guestmem.NewMemfd("slot", guestmem.Range{Base: at, Size: 130 * guestmem.PageSize})
	require.NoError(t, err)
	defer mem.Close()
	region := mem.Regions()[0]
	const slot = 7
	require.NoError(t, g.VM.SetMemory(slot, kvm.MemLogDirtyPages, region))
	g.RunTo(kvm.ExitIO)
	require.EqualValues(t, 7, region.Bytes()[0x1000])

	bitmap := make([]uint64, kvm.DirtyWords(region.Size))
	require.Len(t, bitmap, 3)
	require.NoError(t, g.VM.DirtyLog(slot, bitmap))
	require.Equal(t, []uint64{1 << 1, 0, 0}, bitmap)
	require.NoError(t, g.VM.DirtyLog(slot, bitmap))
	require.Equal(t, []uint64{0, 0, 0}, bitmap, "starts anew")
	require.ErrorIs(t, g.VM.DirtyLog(slot, bitmap[:2]), kvm.ErrInvalid, "never written past the end")
	require.ErrorIs(t, g.VM.DirtyLog(slot+1, bitmap), kvm.ErrInvalid)

	require.NoError(t, g.VM.DeleteMemory(slot))
	e := g.RunTo(kvm.ExitMMIO)
	require.EqualValues(t, at+0x1000, e.Addr)
	g.RunTo(kvm.ExitIO)

	region.Bytes()[0x1000] = 1
	require.NoError(t, g.VM.SetMemory(slot, kvm.MemReadonly, region))
	e = g.RunTo(kvm.ExitMMIO)
	require.True(t, e.Write)
	require.Equal(t, []byte{7}, e.Data)
	require.EqualValues(t, 1, region.Bytes()[0x1000], "not written")

	require.ErrorIs(t, g.VM.SetMemory(9, 0, guestmem.Region{}), kvm.ErrInvalid)
	require.Error(t, g.VM.SetMemory(9, 0, region), "overlaps slot 7")
	require.NoError(t, g.VM.DeleteMemory(slot))
}

func TestTwoVCPUs(t *testing.T) {
	const turns = 20_000
	g := guest(t, kvmtest.Config{
		Mode: kvmtest.Long, CPUs: 2,
		Regs: kvm.Regs{RCX: turns},
		Code: join(
			[]byte{0xf0, 0x48, 0xff, 0x04, 0x25}, // 1: lock inc qword [Free]
			binary.LittleEndian.AppendUint32(nil, uint32(kvmtest.Free)),
			[]byte{
				0x48, 0xff, 0xc9, // dec rcx
				0x75, 0xf2, // jnz 1b
				0xe6, 0x10, // out 0x10, al
			},
		),
	})
	errs := make(chan error, 2)
	for _, v := range g.VCPUs {
		go func() { errs <- runToExit(v, kvm.ExitIO) }()
	}
	for range g.VCPUs {
		require.NoError(t, <-errs)
	}
	n, err := g.Mem.LoadUint64(kvmtest.Free)
	require.NoError(t, err)
	require.EqualValues(t, 2*turns, n)
}
