package vmm

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/sandpit-vm/sandpit/boot"
	"github.com/sandpit-vm/sandpit/devices"
	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
)

// Defaults of a zero Config.
const (
	DefaultCPUs   = 1
	DefaultMemory = 512 << 20
)

// MaxCPUs is the largest number of vCPUs a Machine is built with: what fits
// the 8-bit APIC IDs of the MP table (Intel MultiProcessor Specification 1.4
// §4.3.1), one ID being the IOAPIC's and one the broadcast.
const MaxCPUs = 254

// Config describes a Machine. It is read once, by New.
type Config struct {
	// CPUs is the number of vCPUs. Default 1.
	CPUs int
	// Memory is the size of guest RAM in bytes, a multiple of 4096.
	// Default 512 MiB.
	Memory uint64

	// Kernel is a 64-bit ELF vmlinux, a bzImage or a PVH ELF image; the format
	// is found by looking, unless Format names one. Initramfs may be nil.
	// Both are read by New and not kept.
	Kernel    *os.File
	Initramfs *os.File
	Format    boot.Format
	// Cmdline is the kernel's command line. A virtio_mmio.device= argument is
	// added for each entry of Virtio, and tsc_early_khz= when the host's
	// frequency is known.
	Cmdline string
	// RNGSeed, when not empty, seeds the guest's random pool (setup_data
	// SETUP_RNG_SEED), so that its first read of randomness does not wait.
	RNGSeed []byte
	// Load replaces all of the above for guests that are not kernels: it
	// writes what it likes into guest memory and returns the state the first
	// vCPU starts from.
	Load func(*guestmem.Memory) (*boot.CPUState, error)

	// Virtio are the virtio devices, in the order of their MMIO windows.
	Virtio []VirtioDevice
	// PMem are files that the guest has as read-only persistent memory
	// (/dev/pmem0 and so on): it reads them without exits, from the host's page
	// cache. They come after Virtio, each with an MMIO window of its own, and
	// must not be made shorter while the machine runs: a guest that then reads
	// what is gone ends with ErrTruncated. New does not keep the descriptors.
	PMem []PMemFile
	// PIO and MMIO are further devices of the caller's own.
	PIO, MMIO []Window

	// Serial receives what the guest writes to its first serial port; nil
	// discards it. Its Write runs on a vCPU's thread and stops that vCPU for
	// as long as it takes.
	Serial io.Writer
	// PIT adds the i8254 timer. Our kernel does without; others calibrate
	// their clocks with it.
	PIT bool

	// KVM is an open /dev/kvm; nil opens it. Close does not close a KVM that
	// was passed in.
	KVM *kvm.System
	// Trace, when set, is called with everything that happens: each step of New,
	// each exit once it was served, on the vCPU's own goroutine, and the virtio
	// devices' activity, on theirs. Calls run at the same time, and what they
	// take the guest waits for.
	Trace func(Event)
	// Log receives what the host should know about the guest's misbehaviour.
	// nil discards it.
	Log *slog.Logger
}

// PMemFile is a file for PMem and the name it has in traces and logs.
type PMemFile struct {
	Name string
	File *os.File
}

// VirtioDevice is a virtio device and the name it has in traces and logs.
type VirtioDevice struct {
	Name   string
	Device virtio.Device
}

// Window is a device of the caller's own at a range of one of the buses.
type Window struct {
	Name    string
	Base    uint64
	Size    uint64
	Handler devices.Handler
}

// withDefaults returns c with its zero fields filled in, or every reason why
// it cannot be built.
func (c Config) withDefaults() (Config, error) {
	if c.CPUs == 0 {
		c.CPUs = DefaultCPUs
	}
	if c.Memory == 0 {
		c.Memory = DefaultMemory
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Serial == nil {
		c.Serial = io.Discard
	}
	var errs []error
	if c.CPUs < 0 || c.CPUs > MaxCPUs {
		errs = append(errs, fmt.Errorf("CPUs is %d: want 1 to %d", c.CPUs, MaxCPUs))
	}
	if c.Memory%4096 != 0 {
		errs = append(errs, fmt.Errorf("Memory is %d bytes: want a multiple of 4096", c.Memory))
	}
	if c.Kernel == nil && c.Load == nil {
		errs = append(errs, errors.New("neither Kernel nor Load is set: there is nothing to run"))
	}
	if n := len(c.Virtio) + len(c.PMem); n > boot.MaxMMIODevices {
		errs = append(errs, fmt.Errorf("%d virtio devices: at most %d have an interrupt line", n, boot.MaxMMIODevices))
	}
	for i, d := range c.Virtio {
		if d.Device == nil {
			errs = append(errs, fmt.Errorf("virtio device %d (%q) has no Device", i, d.Name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return c, &Error{Op: "config", Err: err}
	}
	return c, nil
}
