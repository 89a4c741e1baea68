package kvm_test

import (
	"encoding/binary"
	"testing"

	gokvm "github.com/bobuhiro11/gokvm/kvm"
	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
)

// flat is a structure as the kernel lays it out. Padding counts as zero.
func flat(t *testing.T, v any) []byte {
	b, err := binary.Append(nil, binary.LittleEndian, v)
	require.NoError(t, err)
	return b
}

// same asks both libraries until they agree, a few times: gokvm may lose the
// kernel's answer when the stack moves.
func same(t *testing.T, what string, ours, theirs func() (any, error)) {
	t.Helper()
	var a, b []byte
	for range 5 {
		x, err := ours()
		require.NoError(t, err, what)
		y, err := theirs()
		require.NoError(t, err, what)
		a, b = flat(t, x), flat(t, y)
		if string(a) == string(b) {
			return
		}
	}
	require.Equal(t, b, a, what)
}

func TestGokvm_System(t *testing.T) {
	sys := kvmtest.NeedKVM(t)
	v, err := gokvm.GetAPIVersion(sys.FD())
	require.NoError(t, err)
	ours, err := sys.APIVersion()
	require.NoError(t, err)
	require.EqualValues(t, v, ours)

	for c := range kvm.Cap(230) {
		theirs, err := gokvm.CheckExtension(sys.FD(), gokvm.Capability(c))
		require.NoError(t, err)
		ours, err := sys.CheckExtension(c)
		require.NoError(t, err)
		require.EqualValues(t, theirs, ours, c.String())
	}

	list := new(gokvm.MSRList)
	list.NMSRs = uint32(len(list.Indicies))
	require.NoError(t, gokvm.GetMSRIndexList(sys.FD(), list))
	msrs, err := sys.MSRIndexList()
	require.NoError(t, err)
	require.Equal(t, list.Indicies[:list.NMSRs], msrs)
}

func TestGokvm_CPUID(t *testing.T) {
	sys := kvmtest.NeedKVM(t)
	theirs := &gokvm.CPUID{Nent: 200, Entries: make([]gokvm.CPUIDEntry2, 200)}
	require.NoError(t, gokvm.GetSupportedCPUID(sys.FD(), theirs))
	ours, err := sys.SupportedCPUID()
	require.NoError(t, err)
	require.Len(t, ours, int(theirs.Nent))
	for i, e := range ours {
		w := theirs.Entries[i]
		switch e.Function {
		case 1: // the APIC ID is that of the processor asked; TSC-deadline is ours
			e.EBX, w.Ebx = e.EBX&0xffffff, w.Ebx&0xffffff
			w.Ecx |= 1 << 24
		case 0x0b, 0x1f, 0x8000001e: // topology, likewise
			continue
		}
		require.Equal(t, w, gokvm.CPUIDEntry2{
			Function: e.Function, Index: e.Index, Flags: e.Flags,
			Eax: e.EAX, Ebx: e.EBX, Ecx: e.ECX, Edx: e.EDX, Padding: e.Padding,
		})
	}
}

func TestGokvm_VCPU(t *testing.T) {
	g := guest(t, kvmtest.Config{Mode: kvmtest.Long, IRQChip: true, Code: []byte{0xe6, 0x10, 0xf4}})
	g.RunTo(kvm.ExitIO)
	v, fd := g.VCPU, g.VCPU.FD()

	// What one sets, the other reads.
	regs, err := v.Regs()
	require.NoError(t, err)
	regs.RSI, regs.R13 = 0x1234567890abcdef, 42
	require.NoError(t, v.SetRegs(regs))
	same(t, "regs", func() (any, error) { return v.Regs() },
		func() (any, error) { return gokvm.GetRegs(fd) })
	theirs, err := gokvm.GetRegs(fd)
	require.NoError(t, err)
	theirs.RDI = 99
	require.NoError(t, gokvm.SetRegs(fd, theirs))
	same(t, "regs", func() (any, error) { return v.Regs() },
		func() (any, error) { return gokvm.GetRegs(fd) })

	sregs, err := v.Sregs()
	require.NoError(t, err)
	sregs.GS.Base, sregs.CR2 = 0xffff888000000000, 0x5000
	require.NoError(t, v.SetSregs(sregs))
	same(t, "sregs", func() (any, error) { return v.Sregs() },
		func() (any, error) { return gokvm.GetSregs(fd) })

	same(t, "debug registers", func() (any, error) { return v.DebugRegs() },
		func() (any, error) { d := new(gokvm.DebugRegs); return d, gokvm.GetDebugRegs(fd, d) })
	same(t, "XCRs", func() (any, error) { return v.XCRS() },
		func() (any, error) { x := new(gokvm.XCRS); return x, gokvm.GetXCRS(fd, x) })
	same(t, "events", func() (any, error) { return v.Events() },
		func() (any, error) { e := new(gokvm.VCPUEvents); return e, gokvm.GetVCPUEvents(fd, e) })
	same(t, "MP state", func() (any, error) { return v.MPState() },
		func() (any, error) { s := new(gokvm.MPState); return s.State, gokvm.GetMPState(fd, s) })
	same(t, "local APIC", func() (any, error) {
		l, err := v.LAPIC()
		clear(l.Regs[0x390:0x394]) // the timer's current count moves
		return l, err
	}, func() (any, error) {
		l := new(gokvm.LAPICState)
		err := gokvm.GetLocalAPIC(fd, l)
		clear(l.Regs[0x390:0x394])
		return l, err
	})
	same(t, "TSC frequency", func() (any, error) { return v.TSCKHz() },
		func() (any, error) { k, err := gokvm.GetTSCKHz(fd); return uint32(k), err })
}
