package kvm

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// Two made-up hosts: what SupportedCPUID says of a processor with 64 threads.
func intelHost() []CPUIDEntry {
	return []CPUIDEntry{
		{Function: 0, EAX: 0x20, EBX: 0x756e6547, EDX: 0x49656e69, ECX: 0x6c65746e}, // GenuineIntel
		{Function: 1, EAX: 0x606a6, EBX: 0x05400800, ECX: 0x7ffafbff, EDX: 0xbfebfbff},
		{Function: 4, Index: 0, Flags: 1, EAX: 0xfc004121, EBX: 0x02c0003f, ECX: 63},
		{Function: 4, Index: 1, Flags: 1, EAX: 0xfc004122},
		{Function: 4, Index: 2, Flags: 1, EAX: 0xfc004143},
		{Function: 4, Index: 3, Flags: 1, EAX: 0xfc0fc163},
		{Function: 4, Index: 4, Flags: 1},
		{Function: 7, Index: 0, Flags: 1, EBX: 0xd19f27eb},
		{Function: 0x0b, Index: 0, Flags: 1, EAX: 1, EBX: 2, ECX: 0x100, EDX: 5},
		{Function: 0x0b, Index: 1, Flags: 1, EAX: 6, EBX: 64, ECX: 0x201, EDX: 5},
		{Function: 0x1f, Index: 0, Flags: 1, EAX: 1, EBX: 2, ECX: 0x100, EDX: 5},
		{Function: 0x40000000, EAX: 0x40000001, EBX: 0x4b4d564b, ECX: 0x564b4d56, EDX: 0x4d},
		{Function: 0x40000001, EAX: 0x01007efb},
		{Function: 0x80000000, EAX: 0x80000008},
		{Function: 0x80000001, ECX: 0x121},
		{Function: 0x80000008, EAX: 0x3039, ECX: 0},
	}
}

func amdHost() []CPUIDEntry {
	return []CPUIDEntry{
		{Function: 0, EAX: 0x10, EBX: 0x68747541, EDX: 0x69746e65, ECX: 0x444d4163}, // AuthenticAMD
		{Function: 1, EBX: 0x05400800, ECX: 0xfef83203, EDX: 0x178bfbff},
		{Function: 0x40000000, EAX: 0x40000001, EBX: 0x4b4d564b, ECX: 0x564b4d56, EDX: 0x4d},
		{Function: 0x40000001, EAX: 0x01007efb},
		{Function: 0x80000001, ECX: 0x444031f3},
		{Function: 0x80000008, EAX: 0x3030, EBX: 0x25, ECX: 0x703f},
		{Function: 0x8000001d, Index: 0, Flags: 1, EAX: 0x4121},
		{Function: 0x8000001d, Index: 3, Flags: 1, EAX: 0x3c163},
		{Function: 0x8000001d, Index: 4, Flags: 1},
		{Function: 0x8000001e, EAX: 5, EBX: 0x102, ECX: 0x300},
		{Function: 0x80000026, Index: 0, Flags: 1, EAX: 1, EBX: 2, ECX: 0x100, EDX: 5},
	}
}

func leaf(t *testing.T, entries []CPUIDEntry, function, index uint32) CPUIDEntry {
	t.Helper()
	for _, e := range entries {
		if e.Function == function && e.Index == index {
			return e
		}
	}
	t.Fatalf("no leaf %#x.%d", function, index)
	return CPUIDEntry{}
}

func TestGuestCPUID_Topology(t *testing.T) {
	for _, c := range []struct {
		ncpus int
		width uint32 // bits of APIC ID
	}{{1, 0}, {2, 1}, {3, 2}, {4, 2}, {5, 3}, {8, 3}, {31, 5}, {32, 5}, {128, 7}, {254, 8}} {
		for _, host := range [][]CPUIDEntry{intelHost(), amdHost()} {
			for _, cpu := range []int{0, c.ncpus / 2, c.ncpus - 1} {
				t.Run(fmt.Sprintf("%d of %d", cpu, c.ncpus), func(t *testing.T) {
					checkTopology(t, GuestCPUID(host, cpu, c.ncpus, 2_000_000), uint32(cpu), uint32(c.ncpus), c.width)
				})
			}
		}
	}
}

func checkTopology(t *testing.T, out []CPUIDEntry, cpu, ncpus, width uint32) {
	one := leaf(t, out, 1, 0)
	require.Equal(t, cpu, one.EBX>>24, "initial APIC ID")
	require.Equal(t, min(uint32(1)<<width, 255), one.EBX>>16&0xff)
	require.EqualValues(t, 0x0800, one.EBX&0xffff, "the rest is the host's")
	require.Equal(t, ncpus > 1, one.EDX&(1<<28) != 0)
	require.NotZero(t, one.ECX&(1<<31), "hypervisor")

	smt, core, end := leaf(t, out, 0xb, 0), leaf(t, out, 0xb, 1), leaf(t, out, 0xb, 2)
	require.Equal(t, []uint32{0, 1, 0x100, cpu}, []uint32{smt.EAX, smt.EBX, smt.ECX, smt.EDX})
	require.Equal(t, []uint32{width, ncpus, 0x201, cpu}, []uint32{core.EAX, core.EBX, core.ECX, core.EDX})
	require.Equal(t, []uint32{0, 0, 2, cpu}, []uint32{end.EAX, end.EBX, end.ECX, end.EDX})
	require.EqualValues(t, 1, core.Flags)

	sharing := uint32(1<<width - 1)
	for _, e := range out {
		switch e.Function {
		case 4:
			if e.EAX&0x1f == 0 {
				require.Zero(t, e.EAX)
				break
			}
			require.Equal(t, min(sharing, 63), e.EAX>>26, "cores in the package")
			fallthrough
		case 0x8000001d:
			if e.EAX&0x1f == 0 {
				break
			}
			want := uint32(0) // level 1 and 2 belong to one core
			if e.Index == 3 {
				want = sharing
			}
			require.Equal(t, want, e.EAX>>14&0xfff, "leaf %#x.%d", e.Function, e.Index)
		case 0x1f:
			require.Equal(t, cpu, e.EDX)
		case 0x80000026:
			t.Error("AMD's extended topology of the host is still there")
		case 0x8000001e:
			require.Equal(t, []uint32{cpu, cpu & 0xff, 0}, []uint32{e.EAX, e.EBX, e.ECX})
		case 0x80000008:
			if e.EBX != 0 { // AMD
				require.Equal(t, width<<12|(ncpus-1), e.ECX)
			} else {
				require.Zero(t, e.ECX)
			}
		}
	}
}

func TestGuestCPUID_Hypervisor(t *testing.T) {
	out := GuestCPUID(intelHost(), 0, 1, 2_400_000)
	sig := leaf(t, out, 0x40000000, 0)
	require.Equal(t, CPUIDEntry{Function: 0x40000000, EAX: 0x40000010, EBX: 0x4b4d564b, ECX: 0x564b4d56, EDX: 0x4d}, sig)
	require.EqualValues(t, 0x01007efb, leaf(t, out, 0x40000001, 0).EAX)
	timing := leaf(t, out, 0x40000010, 0)
	require.EqualValues(t, 2_400_000, timing.EAX)
	require.EqualValues(t, 1_000_000, timing.EBX)

	out = GuestCPUID(intelHost(), 0, 1, 0)
	require.EqualValues(t, 0x40000001, leaf(t, out, 0x40000000, 0).EAX)
	for _, e := range out {
		require.NotEqualValues(t, 0x40000010, e.Function)
	}
}

func TestGuestCPUID_Pure(t *testing.T) {
	host := intelHost()
	out := GuestCPUID(host, 1, 2, 1)
	require.Equal(t, intelHost(), host, "the host's entries are not changed")
	require.Equal(t, out, GuestCPUID(host, 1, 2, 1))
	seen := map[[2]uint32]bool{}
	last := uint64(0)
	for _, e := range out {
		k := [2]uint32{e.Function, e.Index}
		require.False(t, seen[k], "leaf %#x.%d twice", e.Function, e.Index)
		seen[k] = true
		require.GreaterOrEqual(t, uint64(e.Function)<<32|uint64(e.Index), last, "in order")
		last = uint64(e.Function)<<32 | uint64(e.Index)
	}
	require.EqualValues(t, 0xd19f27eb, leaf(t, out, 7, 0).EBX, "features are the host's")
	require.EqualValues(t, 0x20, leaf(t, out, 0, 0).EAX)
	require.NotZero(t, leaf(t, GuestCPUID(amdHost(), 1, 2, 1), 0x80000001, 0).ECX&2, "CmpLegacy")
	require.EqualValues(t, 0x10, leaf(t, GuestCPUID(amdHost(), 0, 1, 1), 0, 0).EAX)
}
