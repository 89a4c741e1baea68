package vmm

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sandpit-vm/sandpit/boot"
	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
)

// mapPMem maps the persistent memory, in slots after RAM's, and adds a device
// for each. A guest that writes to it gets an exit to a window where nothing
// is, and goes on.
func (m *Machine) mapPMem() error {
	if len(m.cfg.PMem) == 0 {
		return nil
	}
	sizes := make([]uint64, len(m.cfg.PMem))
	for i, p := range m.cfg.PMem {
		info, err := p.File.Stat()
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		if !info.Mode().IsRegular() || info.Size() == 0 {
			return fmt.Errorf("%s: not a regular file, or empty", p.Name)
		}
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
		m.pmem = append(m.pmem, mem)
		slot := uint32(len(m.mem.Regions()) + i)
		if err := m.vm.SetMemory(slot, kvm.MemReadonly, mem.Regions()[0]); err != nil {
			return fmt.Errorf("%s: slot %d at %#x: %w", p.Name, slot, r.Base, err)
		}
		m.cfg.Virtio = append(m.cfg.Virtio, VirtioDevice{Name: p.Name, Device: virtio.NewPMem(uint64(r.Base), r.Size)})
	}
	return nil
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
