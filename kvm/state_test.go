package kvm_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
)

func TestSystem(t *testing.T) {
	sys := kvmtest.NeedKVM(t)
	version, err := sys.APIVersion()
	require.NoError(t, err)
	require.Equal(t, 12, version)
	n, err := sys.CheckExtension(kvm.CapIRQFD)
	require.NoError(t, err)
	require.NotZero(t, n)
	require.NoError(t, sys.Require(kvm.CapIOEventFD))
	require.ErrorIs(t, sys.Require(60000), kvm.ErrUnavailable)
	most, err := sys.MaxVCPUs()
	require.NoError(t, err)
	require.GreaterOrEqual(t, most, 32)
	msrs, err := sys.MSRIndexList()
	require.NoError(t, err)
	require.Contains(t, msrs, uint32(0x10), "the TSC")
	require.NotNil(t, sys.File())

	vm, err := sys.CreateVM()
	require.NoError(t, err)
	defer vm.Close()
	v0, err := vm.CreateVCPU(0)
	require.NoError(t, err)
	for _, fd := range []uintptr{sys.FD(), vm.FD(), v0.FD()} {
		flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0)
		require.NoError(t, err)
		require.NotZero(t, flags&unix.FD_CLOEXEC, "no child inherits a VM by accident")
	}
	require.NoError(t, v0.Close())
	_, err = v0.Regs()
	require.ErrorIs(t, err, unix.EBADF)
	_, err = vm.CreateVCPU(1 << 20)
	require.Error(t, err)
	require.ErrorContains(t, err, "more vCPUs")
	require.NoError(t, sys.Close())
	require.NoError(t, sys.Close(), "closing twice is harmless")
	require.NoError(t, vm.SetTSSAddr(0xfffbd000), "a VM outlives the System")
	require.NoError(t, vm.Close())
	require.NoError(t, vm.Close())
	require.ErrorIs(t, vm.SetTSSAddr(0xfffbd000), unix.EBADF)
}

// What is set is what is read back.
func TestVCPU_State(t *testing.T) {
	g := guest(t, kvmtest.Config{Mode: kvmtest.Long, IRQChip: true, CPUs: 2, Code: []byte{0xe6, 0x10, 0xf4}})
	g.RunTo(kvm.ExitIO)
	v := g.VCPU

	regs, err := v.Regs()
	require.NoError(t, err)
	regs.RAX, regs.R15 = 0x1111222233334444, 0x5555666677778888
	require.NoError(t, v.SetRegs(regs))
	regs2, err := v.Regs()
	require.NoError(t, err)
	require.Equal(t, regs, regs2)

	sregs, err := v.Sregs()
	require.NoError(t, err)
	require.EqualValues(t, 1<<10|1<<8, sregs.EFER&0x500)
	sregs.CR2 = 0x1000
	sregs.FS.Base = 0x7000
	require.NoError(t, v.SetSregs(sregs))
	sregs2, err := v.Sregs()
	require.NoError(t, err)
	require.Equal(t, sregs, sregs2)

	fpu, err := v.FPU()
	require.NoError(t, err)
	fpu.XMM[3][5], fpu.MXCSR = 0x42, 0x1f80
	require.NoError(t, v.SetFPU(fpu))
	fpu2, err := v.FPU()
	require.NoError(t, err)
	require.EqualValues(t, 0x42, fpu2.XMM[3][5])

	xsave, err := v.XSave()
	require.NoError(t, err)
	require.NoError(t, v.SetXSave(xsave))
	xsave2, err := v.XSave()
	require.NoError(t, err)
	require.Equal(t, xsave, xsave2)

	xcrs, err := v.XCRS()
	require.NoError(t, err)
	// One extended control register, on processors that have XSAVE at all
	// (Intel SDM volume 2, CPUID leaf 1, ECX bit 26).
	sys, err := kvm.Open()
	require.NoError(t, err)
	defer sys.Close()
	supported, err := sys.SupportedCPUID()
	require.NoError(t, err)
	want := 0
	for _, e := range supported {
		if e.Function == 1 && e.ECX&(1<<26) != 0 {
			want = 1
		}
	}
	require.EqualValues(t, want, xcrs.NrXCRS)
	if want == 1 {
		require.NoError(t, v.SetXCRS(xcrs))
	} else {
		require.ErrorIs(t, v.SetXCRS(xcrs), unix.EINVAL, "there is none to set")
	}

	debug, err := v.DebugRegs()
	require.NoError(t, err)
	debug.DB[2] = 0x1234
	require.NoError(t, v.SetDebugRegs(debug))
	debug2, err := v.DebugRegs()
	require.NoError(t, err)
	require.EqualValues(t, 0x1234, debug2.DB[2])

	ev, err := v.Events()
	require.NoError(t, err)
	require.NoError(t, v.SetEvents(ev))

	lapic, err := v.LAPIC()
	require.NoError(t, err)
	require.NoError(t, v.SetLAPIC(lapic))

	mp, err := v.MPState()
	require.NoError(t, err)
	require.Equal(t, kvm.MPRunnable, mp)
	require.NoError(t, g.VCPUs[1].SetMPState(kvm.MPHalted))
	mp, err = g.VCPUs[1].MPState()
	require.NoError(t, err)
	require.Equal(t, kvm.MPHalted, mp)

	khz, err := v.TSCKHz()
	require.NoError(t, err)
	require.Greater(t, khz, uint32(100_000))
	require.NoError(t, v.SetTSCKHz(khz))

	tr, err := v.Translate(0x12345)
	require.NoError(t, err)
	require.EqualValues(t, 1, tr.Valid)
	require.EqualValues(t, 0x12345, tr.PhysicalAddress)
	require.NoError(t, v.NMI())
}

func TestVCPU_MSRs(t *testing.T) {
	g := guest(t, kvmtest.Config{Mode: kvmtest.Long, Code: []byte{0xf4}})
	const (
		star, lstar = 0xc0000081, 0xc0000082
		unknown     = 0x12345678
	)
	require.NoError(t, g.VCPU.SetMSRs([]kvm.MSR{{Index: star, Data: 1 << 32}, {Index: lstar, Data: 0xffffffff80000000}}))
	got, err := g.VCPU.MSRs(lstar, star)
	require.NoError(t, err)
	require.Equal(t, []kvm.MSR{{Index: lstar, Data: 0xffffffff80000000}, {Index: star, Data: 1 << 32}}, got)

	_, err = g.VCPU.MSRs(star, unknown)
	require.ErrorIs(t, err, kvm.ErrInvalid)
	require.ErrorContains(t, err, "0x12345678")
	require.ErrorContains(t, g.VCPU.SetMSRs([]kvm.MSR{{Index: unknown}}), "0x12345678")

	many := make([]uint32, 200) // more than one batch
	for i := range many {
		many[i] = lstar
	}
	got, err = g.VCPU.MSRs(many...)
	require.NoError(t, err)
	require.Len(t, got, 200)
	require.EqualValues(t, uint64(0xffffffff80000000), got[199].Data)
	require.NoError(t, g.VCPU.SetMSRs(got))
}

// A step exits; what a guest asks CPUID is what it was given.
func TestVCPU_StepAndCPUID(t *testing.T) {
	g := guest(t, kvmtest.Config{Mode: kvmtest.Long, CPUs: 3, Code: []byte{
		0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1
		0x0f, 0xa2, // cpuid
		0xf4,
	}})
	v := g.VCPUs[2]
	require.NoError(t, v.SetGuestDebug(kvm.GuestDebug{Control: kvm.GuestDebugEnable | kvm.GuestDebugSingleStep}))
	e := g.RunVCPU(v)
	require.Equal(t, kvm.ExitDebug, e.Kind)
	require.EqualValues(t, kvmtest.CodeLong+5, e.Addr)
	require.NoError(t, v.SetGuestDebug(kvm.GuestDebug{}))
	require.Equal(t, kvm.ExitHLT, g.RunVCPU(v).Kind)
	r, err := v.Regs()
	require.NoError(t, err)
	require.EqualValues(t, 2, r.RBX>>24, "APIC ID")
	require.EqualValues(t, 4, r.RBX>>16&0xff, "three CPUs, as a power of two")
	require.NotZero(t, r.RCX&(1<<31), "hypervisor")
	require.NotZero(t, r.RDX&(1<<28), "more than one logical processor")

	entries, err := v.CPUID()
	require.NoError(t, err)
	require.NotEmpty(t, entries)
	require.ErrorIs(t, v.SetCPUID(make([]kvm.CPUIDEntry, 257)), kvm.ErrInvalid)
}

// An MSR that user space asked for exits, and the answer reaches the guest.
func TestVCPU_MSRExits(t *testing.T) {
	g := guest(t, kvmtest.Config{Mode: kvmtest.Long, Code: []byte{
		0xb9, 0x78, 0x56, 0x34, 0x12, // mov ecx, 0x12345678
		0x0f, 0x30, // wrmsr
		0x0f, 0x32, // rdmsr
		0xf4,
	}, Regs: kvm.Regs{RAX: 7}})
	const unknownMSRs = 1 << 1 // KVM_MSR_EXIT_REASON_UNKNOWN
	require.NoError(t, g.VM.EnableCap(kvm.CapX86UserSpaceMSR, unknownMSRs))
	e := g.RunTo(kvm.ExitWRMSR)
	require.EqualValues(t, 0x12345678, e.Addr)
	require.EqualValues(t, 7, e.Data[0])
	e = g.RunTo(kvm.ExitRDMSR)
	copy(e.Data, []byte{9, 0, 0, 0, 8})
	g.RunTo(kvm.ExitHLT)
	r, err := g.VCPU.Regs()
	require.NoError(t, err)
	require.EqualValues(t, 9, r.RAX)
	require.EqualValues(t, 8, r.RDX)

	require.NoError(t, g.VCPU.SetRegs(kvm.Regs{RIP: uint64(kvmtest.CodeLong), RSP: r.RSP, RFLAGS: 2}))
	g.RunTo(kvm.ExitWRMSR)
	g.VCPU.FailMSR()
	g.RunTo(kvm.ExitShutdown) // #GP without a handler
}

// Twenty thousand answers of the kernel, written to stacks that grow in the midst
// of the call: each one arrives. The same test loses answers with a helper that
// takes the argument's address as a uintptr.
func TestClock_AnswersSurviveMovingStacks(t *testing.T) {
	sys := kvmtest.NeedKVM(t)
	vm, err := sys.CreateVM()
	require.NoError(t, err)
	defer vm.Close()
	require.NoError(t, vm.SetClock(kvm.ClockData{Clock: 1e9}))
	var lost atomic.Int64
	for range 40 {
		var wg sync.WaitGroup
		for n := range 500 {
			wg.Go(func() { // a fresh, small stack each time
				if down(vm, n) < 1e9 {
					lost.Add(1)
				}
			})
		}
		wg.Wait()
	}
	require.Zero(t, lost.Load())
}

// down reads the clock n small frames down, so that with one n or another the
// stack is full, and moves, in each of the calls that lead to the kernel.
//
//go:noinline
func down(vm *kvm.VM, n int) uint64 {
	if n > 0 {
		return down(vm, n-1)
	}
	c, err := vm.Clock()
	if err != nil {
		return 0
	}
	return c.Clock
}
