package vmm

import (
	"fmt"

	"github.com/sandpit-vm/sandpit/boot"
	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

// RealMode returns a Config.Load for guests of a few bytes: code is put at
// addr, below 64 KiB, and the first vCPU starts there in 16-bit real mode, as
// a processor does after reset: every segment at 0, interrupts off, and the
// stack below addr.
func RealMode(addr uint16, code ...byte) func(*guestmem.Memory) (*boot.CPUState, error) {
	return func(mem *guestmem.Memory) (*boot.CPUState, error) {
		if len(code) > 1<<16-int(addr) {
			return nil, fmt.Errorf("%d bytes at %#x: real mode code must end below 64 KiB", len(code), addr)
		}
		if err := mem.WriteAt(code, guestmem.GPA(addr)); err != nil {
			return nil, err
		}
		// What the segment registers hide, and VM entry checks (Intel SDM volume
		// 3 §27.3.1.2): limits of 64 KiB, readable and writable or executable.
		data := boot.Segment{Limit: 0xffff, Type: 3, Present: 1, S: 1}
		text := data
		text.Type = 11
		return &boot.CPUState{
			CS: text, DS: data, ES: data, FS: data, GS: data, SS: data,
			TR:  boot.Segment{Limit: 0xffff, Type: 11, Present: 1},
			LDT: boot.Segment{Limit: 0xffff, Type: 2, Present: 1},
			GDT: boot.Table{Limit: 0xffff}, IDT: boot.Table{Limit: 0xffff},
			CR0: 1 << 4, // ET, which is hard-wired
			RIP: uint64(addr), RSP: uint64(addr), RFLAGS: 1 << 1,
		}, nil
	}
}
