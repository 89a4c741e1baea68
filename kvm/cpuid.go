package kvm

import (
	"math/bits"
	"slices"
)

// Bits of CPUID leaf 1.
const (
	leaf1TSCDeadline = 1 << 24 // ECX
	leaf1Hypervisor  = 1 << 31 // ECX
	leaf1HTT         = 1 << 28 // EDX: EBX[23:16] is valid
)

const (
	leafKVMSignature = 0x40000000
	leafKVMFeatures  = 0x40000001
	leafTiming       = 0x40000010
	// apicBusKHz: KVM's local APIC timer counts nanoseconds.
	apicBusKHz = 1_000_000
)

// GuestCPUID is what CPUID answers on vCPU cpu of ncpus: the host's features, as
// [System.SupportedCPUID] returned them, with a topology of the guest's own (one
// package of ncpus cores with one thread each, APIC IDs from 0, one last-level
// cache), the hypervisor bit, and the frequency of the time stamp counter. A
// tskKHz of 0 leaves the frequency out. The host's entries are not changed.
//
// Sources: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E; Linux
// Documentation/virt/kvm/x86/cpuid.rst.
func GuestCPUID(host []CPUIDEntry, cpu, ncpus int, tscKHz uint32) []CPUIDEntry {
	g := topology{
		id:    uint32(cpu),
		cpus:  uint32(ncpus),
		width: uint32(bits.Len(uint(ncpus - 1))),
		amd:   isAMD(host),
	}
	out := make([]CPUIDEntry, 0, len(host)+8)
	for _, e := range host {
		switch {
		case e.Function == 0x0b, e.Function == 0x1f: // made anew below
		case e.Function == 0x80000026: // without it, guests fall back on 0xb
		case e.Function >= leafKVMSignature && e.Function <= leafTiming &&
			e.Function != leafKVMFeatures:
		default:
			g.adjust(&e)
			out = append(out, e)
		}
	}
	out = append(out, g.extended(0x0b)...)
	if maxLeaf(host) >= 0x1f {
		out = append(out, g.extended(0x1f)...)
	}
	// "KVMKVMKVM\0\0\0", and the last leaf of KVM's range.
	last := uint32(leafKVMFeatures)
	if tscKHz != 0 {
		last = leafTiming
		out = append(out, CPUIDEntry{Function: leafTiming, EAX: tscKHz, EBX: apicBusKHz})
	}
	out = append(out, CPUIDEntry{Function: leafKVMSignature, EAX: last, EBX: 0x4b4d564b, ECX: 0x564b4d56, EDX: 0x4d})
	slices.SortStableFunc(out, func(a, b CPUIDEntry) int {
		if a.Function != b.Function {
			return int(int64(a.Function) - int64(b.Function))
		}
		return int(int64(a.Index) - int64(b.Index))
	})
	return out
}

// topology is one vCPU's place in the guest.
type topology struct {
	id    uint32 // APIC ID
	cpus  uint32
	width uint32 // bits of the APIC ID within the package
	amd   bool
}

// sharing is "logical processors that share this", as Intel counts: the number of
// APIC IDs, which is a power of two, less one.
func (g topology) sharing() uint32 { return 1<<g.width - 1 }

// adjust replaces what an entry of the host says about topology.
func (g topology) adjust(e *CPUIDEntry) {
	switch e.Function {
	case 0:
		e.EAX = max(e.EAX, 0x0b)
	case 1:
		e.EBX = e.EBX&0xffff | min(g.sharing()+1, 255)<<16 | g.id<<24
		e.ECX |= leaf1Hypervisor
		e.EDX &^= leaf1HTT
		if g.cpus > 1 {
			e.EDX |= leaf1HTT
		}
	case 4, 0x8000001d: // caches, one per index: Intel's and AMD's
		if e.EAX&0x1f == 0 {
			return // no more caches
		}
		e.EAX &= 0x3fff
		if level := e.EAX >> 5 & 7; level >= 3 {
			e.EAX |= min(g.sharing(), 0xfff) << 14
		}
		if e.Function == 4 {
			e.EAX |= min(g.sharing(), 0x3f) << 26
		}
	case 0x80000001:
		if g.amd {
			const cmpLegacy = 1 << 1
			e.ECX &^= cmpLegacy
			if g.cpus > 1 {
				e.ECX |= cmpLegacy
			}
		}
	case 0x80000008:
		if g.amd {
			e.ECX = e.ECX&^0xf0ff | g.width<<12 | min(g.cpus-1, 255)
		}
	case 0x8000001e: // APIC ID; core, with one thread; node 0 of 1
		e.EAX, e.EBX, e.ECX = g.id, g.id&0xff, 0
	}
}

// extended is leaf 0xb or 0x1f: one thread in a core, cpus cores in the package.
func (g topology) extended(leaf uint32) []CPUIDEntry {
	const smt, core = 1 << 8, 2 << 8
	level := func(index, shift, count, kind uint32) CPUIDEntry {
		return CPUIDEntry{
			Function: leaf, Index: index, Flags: _KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			EAX: shift, EBX: count, ECX: kind | index, EDX: g.id,
		}
	}
	return []CPUIDEntry{level(0, 0, 1, smt), level(1, g.width, g.cpus, core), level(2, 0, 0, 0)}
}

func isAMD(host []CPUIDEntry) bool {
	for _, e := range host {
		if e.Function == 0 {
			vendor := [3]uint32{e.EBX, e.EDX, e.ECX}
			return vendor == [3]uint32{0x68747541, 0x69746e65, 0x444d4163} || // AuthenticAMD
				vendor == [3]uint32{0x6f677948, 0x6e65476e, 0x656e6975} // HygonGenuine
		}
	}
	return false
}

func maxLeaf(host []CPUIDEntry) uint32 {
	for _, e := range host {
		if e.Function == 0 {
			return e.EAX
		}
	}
	return 0
}
