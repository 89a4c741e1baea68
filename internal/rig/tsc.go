package rig

import (
	"time"

	"golang.org/x/sys/unix"
)

// tscKHz returns the frequency of the host's time-stamp counter, which under
// emulation is L1's too. L1's kernel must be told: without ACPI it calibrates
// against the PIT, which under emulation fails in some boots, and KVM without a
// TSC frequency spins for ever in KVM_RUN without one exit.
//
// The kernel's own number is best, then the processor's. Either is checked
// against a short measurement, which is the last resort too: it cannot be wrong
// by more than some parts per hundred thousand, where a hypervisor may well
// misreport the others.
func tscKHz() uint32 {
	measured := measureTSC(20 * time.Millisecond)
	for _, source := range []func() uint32{kvmTSCKHz, cpuidTSCKHz} {
		khz := source()
		if d := int64(khz) - int64(measured); khz != 0 && max(d, -d) < int64(measured)/500 {
			return khz
		}
	}
	return measured
}

// cpuidTSCKHz reads leaf 0x15 (crystal clock and ratio), then the hypervisors'
// timing leaf 0x40000010. Leaf 0x16 is the base frequency in MHz, too coarse.
func cpuidTSCKHz() uint32 {
	highest, _, _, _ := cpuid(0, 0)
	if highest >= 0x15 {
		den, num, hz, _ := cpuid(0x15, 0)
		if den != 0 && num != 0 && hz != 0 {
			return uint32(uint64(hz) * uint64(num) / uint64(den) / 1000)
		}
	}
	if _, _, c, _ := cpuid(1, 0); c>>31 != 0 { // a hypervisor is present
		if highest, _, _, _ := cpuid(0x40000000, 0); highest >= 0x40000010 && highest < 0x40010000 {
			khz, _, _, _ := cpuid(0x40000010, 0)
			return khz
		}
	}
	return 0
}

// measureTSC compares the counter with CLOCK_MONOTONIC_RAW over d.
func measureTSC(d time.Duration) uint32 {
	t0, c0 := tscPoint()
	time.Sleep(d)
	t1, c1 := tscPoint()
	if t1 <= t0 || c1 <= c0 {
		return 0
	}
	return uint32(float64(c1-c0) / float64(t1-t0) * 1e6)
}

// tscPoint returns a time and the counter at that time: of several attempts the
// one whose two clock readings are closest, so that an interruption does not
// spoil it.
func tscPoint() (ns int64, count uint64) {
	best := int64(1) << 62
	for range 16 {
		var a, b unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &a)
		c := rdtsc()
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &b)
		if width := b.Nano() - a.Nano(); width < best {
			best, ns, count = width, a.Nano()+width/2, c
		}
	}
	return ns, count
}

// rdtsc reads the time-stamp counter.
func rdtsc() uint64

// cpuid executes CPUID.
func cpuid(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32)
