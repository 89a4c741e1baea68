package vmm

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/boot"
	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
)

// pmemFile is a file that the guest has as persistent memory.
type pmemFile struct {
	mem  *guestmem.Memory
	name string       // for whoever has to find the file
	last guestmem.GPA // of the file's last byte
}

// mapPMem maps the persistent memory, in slots after RAM's, and adds a device
// for each. A guest that writes to it gets an exit to a window where nothing
// is, and goes on.
func (m *Machine) mapPMem() error {
	if len(m.cfg.PMem) == 0 {
		return nil
	}
	sizes := make([]uint64, len(m.cfg.PMem))
	infos := make([]os.FileInfo, len(m.cfg.PMem))
	for i, p := range m.cfg.PMem {
		info, err := p.File.Stat()
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		switch {
		case !info.Mode().IsRegular():
			return fmt.Errorf("%s: %s is no regular file, and only those can be persistent memory: give it to the guest as a disk", p.Name, p.File.Name())
		case info.Size() == 0:
			return fmt.Errorf("%s: %s is empty: write the image again", p.Name, p.File.Name())
		}
		infos[i] = info
		sizes[i] = (uint64(info.Size()) + virtio.PMemAlign - 1) &^ (virtio.PMemAlign - 1)
	}
	limit, err := m.addressLimit()
	if err != nil {
		return err
	}
	// The caller's list is not ours to add to.
	m.cfg.Virtio = slices.Clone(m.cfg.Virtio)
	for i, r := range boot.PMem(boot.Ranges(m.cfg.Memory), sizes...) {
		p := m.cfg.PMem[i]
		if uint64(r.End()) > limit {
			return fmt.Errorf("%s: %d bytes at %#x: %w", p.Name, r.Size, r.Base, errAddressLimit)
		}
		mem, err := guestmem.NewFile(p.File, r)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		m.pmem = append(m.pmem, pmemFile{mem, p.Name + " (" + p.File.Name() + ")", r.Base + guestmem.GPA(infos[i].Size()-1)})
		slot := uint32(len(m.mem.Regions()) + i)
		if err := m.vm.SetMemory(slot, kvm.MemReadonly, mem.Regions()[0]); err != nil {
			return fmt.Errorf("%s: slot %d at %#x: %w", p.Name, slot, r.Base, err)
		}
		m.cfg.Virtio = append(m.cfg.Virtio, VirtioDevice{Name: p.Name, Device: virtio.NewPMem(uint64(r.Base), r.Size)})
	}
	return nil
}

// whyNotRun adds what KVM cannot tell to the error of a vCPU that cannot run.
// Memory that the host cannot provide is EFAULT; a mapped file that somebody made
// shorter is such memory, and then its last byte cannot be had here either (T53).
func (m *Machine) whyNotRun(err error) error {
	if !errors.Is(err, unix.EFAULT) {
		return err
	}
	for _, p := range m.pmem {
		var b [1]byte
		if virtio.Guard(func() error { return p.mem.ReadAt(b[:], p.last) }) != nil {
			return fmt.Errorf("%s: %w: %w", p.name, ErrTruncated, err)
		}
	}
	return err
}

var errAddressLimit = errors.New("beyond the processor's physical addresses")

// addressLimit is the end of the guest's physical address space (CPUID
// 0x80000008 EAX bits 7-0).
func (m *Machine) addressLimit() (uint64, error) {
	host, err := m.sys.SupportedCPUID()
	if err != nil {
		return 0, err
	}
	for _, e := range host {
		if e.Function == 0x80000008 {
			return 1 << (e.EAX & 0xff), nil
		}
	}
	return 1 << 36, nil // what processors without the leaf have
}
