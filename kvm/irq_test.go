package kvm_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
)

func eventfd(t *testing.T) int {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Close(fd)) })
	return fd
}

// events reads and clears an eventfd's counter.
func events(t *testing.T, fd int) uint64 {
	b := make([]byte, 8)
	_, err := unix.Read(fd, b)
	if err == unix.EAGAIN {
		return 0
	}
	require.NoError(t, err)
	return binary.NativeEndian.Uint64(b)
}

func signalEvent(t *testing.T, fd int) {
	_, err := unix.Write(fd, binary.NativeEndian.AppendUint64(nil, 1))
	require.NoError(t, err)
}

func TestIOEventFD(t *testing.T) {
	g := guest(t, kvmtest.Config{Mode: kvmtest.Long, Code: []byte{
		0xbb, 0x50, 0x00, 0x00, 0xd0, // mov ebx, 0xd0000050
		0xc7, 0x03, 0x00, 0x00, 0x00, 0x00, // 1: mov dword [rbx], 0
		0xc7, 0x03, 0x01, 0x00, 0x00, 0x00, // mov dword [rbx], 1
		0xc7, 0x03, 0x02, 0x00, 0x00, 0x00, // mov dword [rbx], 2
		0xe6, 0x20, // out 0x20, al
		0xe6, 0x10, // out 0x10, al
		0xeb, 0xe8, // jmp 1b
	}})
	q0, q1, port := eventfd(t), eventfd(t), eventfd(t)
	e0 := kvm.IOEvent{Addr: 0xd0000050, Len: 4, DataMatch: new(uint64(0)), FD: q0}
	e1 := kvm.IOEvent{Addr: 0xd0000050, Len: 4, DataMatch: new(uint64(1)), FD: q1}
	p := kvm.IOEvent{Addr: 0x20, Len: 1, PIO: true, FD: port}
	for _, e := range []kvm.IOEvent{e0, e1, p} {
		require.NoError(t, g.VM.IOEventFD(e))
	}
	require.ErrorIs(t, g.VM.IOEventFD(e0), unix.EEXIST)

	e := g.RunTo(kvm.ExitMMIO)
	require.Equal(t, []byte{2, 0, 0, 0}, e.Data, "the value that nobody waits for exits")
	e = g.RunTo(kvm.ExitIO)
	require.EqualValues(t, 0x10, e.Addr)
	require.EqualValues(t, 1, events(t, q0))
	require.EqualValues(t, 1, events(t, q1))
	require.EqualValues(t, 1, events(t, port))

	require.NoError(t, g.VM.RemoveIOEventFD(e0))
	e = g.RunTo(kvm.ExitMMIO)
	require.Equal(t, []byte{0, 0, 0, 0}, e.Data)
	require.Zero(t, events(t, q0))
	require.NoError(t, g.VM.RemoveIOEventFD(e1))
	require.NoError(t, g.VM.RemoveIOEventFD(p))
	require.ErrorIs(t, g.VM.RemoveIOEventFD(p), unix.ENOENT)
}

// irqGuest programs its I/O APIC's pin 5 as vector 0x31, says so on port 0x11,
// and halts; its handler reports on port 0x10.
func irqGuest(t *testing.T) *kvmtest.Guest {
	const handler = 0x100
	code := make([]byte, handler, handler+32)
	copy(code, []byte{
		0xb0, 0xff, 0xe6, 0x21, 0xe6, 0xa1, // mov al, 0xff; out 0x21, al; out 0xa1, al: the PICs share the lines
		0xbb, 0x00, 0x00, 0xe0, 0xfe, // mov ebx, 0xfee00000
		0xc7, 0x83, 0xf0, 0x00, 0x00, 0x00, 0xff, 0x01, 0x00, 0x00, // mov dword [rbx+0xf0], 0x1ff: APIC on
		0xb9, 0x00, 0x00, 0xc0, 0xfe, // mov ecx, 0xfec00000
		0xc7, 0x01, 0x1b, 0x00, 0x00, 0x00, // mov dword [rcx], 0x10+2*5+1
		0xc7, 0x41, 0x10, 0x00, 0x00, 0x00, 0x00, // mov dword [rcx+0x10], 0: to APIC ID 0
		0xc7, 0x01, 0x1a, 0x00, 0x00, 0x00, // mov dword [rcx], 0x10+2*5
		0xc7, 0x41, 0x10, 0x31, 0x00, 0x00, 0x00, // mov dword [rcx+0x10], 0x31: edge, unmasked
		0xe6, 0x11, // out 0x11, al
		0xfb,       // sti
		0xf4,       // 1: hlt
		0xeb, 0xfd, // jmp 1b
	})
	code = append(code,
		0xe6, 0x10, // out 0x10, al
		0xc7, 0x83, 0xb0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // mov dword [rbx+0xb0], 0: end of interrupt
		0x48, 0xcf, // iretq
	)
	g := guest(t, kvmtest.Config{Mode: kvmtest.Long, IRQChip: true, Code: code})
	g.SetGate(0x31, kvmtest.CodeLong+handler)
	e := g.RunTo(kvm.ExitIO)
	require.EqualValues(t, 0x11, e.Addr)
	return g
}

func TestIRQFD(t *testing.T) {
	g := irqGuest(t)
	fd := eventfd(t)
	require.NoError(t, g.VM.IRQFD(5, fd))
	for range 3 {
		signalEvent(t, fd)
		require.EqualValues(t, 0x10, g.RunTo(kvm.ExitIO).Addr)
	}
	// While the guest sleeps in the kernel, too.
	time.AfterFunc(5*time.Millisecond, func() { signalEvent(t, fd) })
	require.EqualValues(t, 0x10, g.RunTo(kvm.ExitIO).Addr)

	require.NoError(t, g.VM.RemoveIRQFD(5, fd))
	signalEvent(t, fd)
	time.AfterFunc(20*time.Millisecond, g.VCPU.Kick)
	e, err := g.VCPU.Run()
	require.NoError(t, err)
	require.Equal(t, kvm.ExitInterrupted, e.Kind, "HLT is the kernel's with an irqchip, and a kick gets out of it")
}

func TestSetIRQLineAndMSI(t *testing.T) {
	g := irqGuest(t)
	require.NoError(t, g.VM.SetIRQLine(5, true))
	require.NoError(t, g.VM.SetIRQLine(5, false))
	require.EqualValues(t, 0x10, g.RunTo(kvm.ExitIO).Addr)
	require.NoError(t, g.VM.SignalMSI(0xfee00000, 0x31))
	require.EqualValues(t, 0x10, g.RunTo(kvm.ExitIO).Addr)
}

func TestGSIRouting(t *testing.T) {
	g := irqGuest(t)
	fd := eventfd(t)
	require.NoError(t, g.VM.SetGSIRouting([]kvm.Route{
		{GSI: 40, MSI: true, Addr: 0xfee00000, Data: 0x31},
		{GSI: 41, Chip: kvm.IOAPIC, Pin: 5},
	}))
	require.NoError(t, g.VM.IRQFD(40, fd))
	signalEvent(t, fd)
	require.EqualValues(t, 0x10, g.RunTo(kvm.ExitIO).Addr)
	require.NoError(t, g.VM.SetIRQLine(41, true))
	require.NoError(t, g.VM.SetIRQLine(41, false))
	require.EqualValues(t, 0x10, g.RunTo(kvm.ExitIO).Addr)
	require.ErrorIs(t, g.VM.SetGSIRouting(make([]kvm.Route, 513)), kvm.ErrInvalid)
}

func TestChipState(t *testing.T) {
	g := irqGuest(t)
	before, err := g.VM.IRQChip(kvm.IOAPIC)
	require.NoError(t, err)
	require.EqualValues(t, 0xfec00000, binary.LittleEndian.Uint64(before[:]))
	changed := before
	binary.LittleEndian.PutUint64(changed[24+8*5:], 1<<16|0x31) // masked
	require.NoError(t, g.VM.SetIRQChip(kvm.IOAPIC, changed))
	after, err := g.VM.IRQChip(kvm.IOAPIC)
	require.NoError(t, err)
	require.Equal(t, changed, after)
	for _, c := range []kvm.Chip{kvm.PICMaster, kvm.PICSlave} {
		s, err := g.VM.IRQChip(c)
		require.NoError(t, err)
		require.NoError(t, g.VM.SetIRQChip(c, s))
	}

	lapic, err := g.VCPU.LAPIC()
	require.NoError(t, err)
	require.EqualValues(t, 0x1ff, binary.LittleEndian.Uint32(lapic.Regs[0xf0:]))
	require.NoError(t, g.VCPU.SetLAPIC(lapic))

	require.NoError(t, g.VM.CreatePIT2())
	pit, err := g.VM.PIT2()
	require.NoError(t, err)
	pit.Channels[0].Count, pit.Channels[0].Mode = 1234, 2
	require.NoError(t, g.VM.SetPIT2(pit))
	again, err := g.VM.PIT2()
	require.NoError(t, err)
	require.EqualValues(t, 1234, again.Channels[0].Count)
}

func TestSplitIRQChip(t *testing.T) {
	sys := kvmtest.NeedKVM(t)
	vm, err := sys.CreateVM()
	require.NoError(t, err)
	defer vm.Close()
	require.NoError(t, vm.EnableSplitIRQChip(24))
	v, err := vm.CreateVCPU(0)
	require.NoError(t, err)
	defer v.Close()
	_, err = v.LAPIC()
	require.NoError(t, err, "the local APIC is in the kernel")
	_, err = vm.IRQChip(kvm.IOAPIC)
	require.Error(t, err, "the I/O APIC is not")
	require.ErrorIs(t, vm.EnableCap(kvm.CapSplitIRQChip, 1, 2, 3, 4, 5), kvm.ErrInvalid)
}
