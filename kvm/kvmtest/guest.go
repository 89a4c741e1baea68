package kvmtest

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

// Mode is the processor mode that a guest starts in.
type Mode int

const (
	// Real is 16-bit real mode, all segments at 0.
	Real Mode = iota
	// Long is 64-bit mode at CPL 0, the first 8 GiB mapped one to one.
	Long
)

// Where things lie in a guest's memory in long mode. Real mode has nothing but
// the interrupt vectors at 0, code at 0x1000 and the stack.
//
//	0x00500  GDT: null, 64-bit code (selector 8), data (selector 16)
//	0x01000  PML4, PDPT, eight page directories; up to 0x0b000
//	0x0b000  IDT, 256 gates
//	0x10000  code
//	0x40000  end of the stacks, which grow down; Free from here on
const (
	gdt, pml4, pdpt, pd, idt = 0x500, 0x1000, 0x2000, 0x3000, 0xb000

	CodeReal guestmem.GPA = 0x1000
	CodeLong guestmem.GPA = 0x10000
	// Free is where a test may put its data, to the end of memory.
	Free guestmem.GPA = 0x40000
	// MemSize is a guest's memory, from address 0, unless Config says otherwise.
	MemSize = 2 << 20

	// Selectors of the GDT.
	CodeSelector = 0x08
	DataSelector = 0x10

	stackLong  = 0x40000 // of vCPU 0; the others' are a page lower each
	stackReal  = 0xf000
	pageTables = 8 // GiB that are mapped
)

// Timeout bounds every Run of a guest: none takes longer than milliseconds.
const Timeout = 20 * time.Second

// Config describes a tiny machine. The zero value of everything but Code is fine.
type Config struct {
	Mode Mode
	// Code is the program, run by every vCPU. It starts at CodeReal or CodeLong.
	Code []byte
	// Regs are the initial registers. RIP, RSP and bit 1 of RFLAGS are set if zero.
	Regs kvm.Regs
	// CPUs is the number of vCPUs; 0 means 1. All of them start running.
	CPUs int
	// IRQChip puts PICs, I/O APIC and local APICs into the kernel.
	IRQChip bool
	// More is RAM besides the first MemSize bytes.
	More []guestmem.Range
	// Heap takes the memory from Go's heap.
	Heap bool
}

// Guest is a tiny machine.
type Guest struct {
	VM    *kvm.VM
	VCPU  *kvm.VCPU // the first
	VCPUs []*kvm.VCPU
	Mem   *guestmem.Memory

	t testing.TB
}

// NewGuest makes a machine that is about to run its first instruction. It is
// gone when the test ends, and fails the test if it cannot be made.
func NewGuest(t testing.TB, sys *kvm.System, c Config) *Guest {
	t.Helper()
	newMem := func(r ...guestmem.Range) (*guestmem.Memory, error) { return guestmem.NewMemfd("kvmtest", r...) }
	if c.Heap {
		newMem = guestmem.NewHeap
	}
	g := &Guest{t: t}
	var err error
	g.Mem, err = newMem(append([]guestmem.Range{{Size: MemSize}}, c.More...)...)
	g.must("memory", err)
	t.Cleanup(func() { g.check("memory", g.Mem.Close()) })
	entry, stack := CodeReal, uint64(stackReal)
	if c.Mode == Long {
		entry, stack = CodeLong, stackLong
		g.writeTables()
	}
	g.must("code", g.Mem.WriteAt(c.Code, entry))

	g.VM, err = sys.CreateVM()
	g.must("VM", err)
	t.Cleanup(func() { g.check("VM", g.VM.Close()) })
	for i, r := range g.Mem.Regions() {
		g.must("memslot", g.VM.SetMemory(uint32(i), 0, r))
	}
	g.must("TSS", g.VM.SetTSSAddr(0xfffbd000))
	g.must("identity map", g.VM.SetIdentityMapAddr(0xfffbc000))
	if c.IRQChip {
		g.must("irqchip", g.VM.CreateIRQChip())
	}
	cpuid, err := sys.SupportedCPUID()
	g.must("CPUID", err)
	if c.Regs.RIP == 0 {
		c.Regs.RIP = uint64(entry)
	}
	c.Regs.RFLAGS |= 2
	n := max(c.CPUs, 1)
	for id := range n {
		v, err := g.VM.CreateVCPU(id)
		g.must("vCPU", err)
		t.Cleanup(func() { g.check("vCPU", v.Close()) })
		g.VCPUs = append(g.VCPUs, v)
		g.must("CPUID", v.SetCPUID(kvm.GuestCPUID(cpuid, id, n, 0)))
		g.setMode(v, c.Mode)
		regs := c.Regs
		if regs.RSP == 0 {
			regs.RSP = stack - uint64(id)*guestmem.PageSize
		}
		g.must("registers", v.SetRegs(regs))
		if c.IRQChip && id > 0 {
			g.must("MP state", v.SetMPState(kvm.MPRunnable))
		}
	}
	g.VCPU = g.VCPUs[0]
	return g
}

// setMode sets the special registers for mode.
func (g *Guest) setMode(v *kvm.VCPU, mode Mode) {
	g.t.Helper()
	s, err := v.Sregs()
	g.must("special registers", err)
	if mode == Real {
		s.CS.Base, s.CS.Selector = 0, 0
	} else {
		code := kvm.Segment{Limit: 0xffffffff, Selector: CodeSelector, Type: 11, Present: 1, S: 1, L: 1, G: 1}
		data := kvm.Segment{Limit: 0xffffffff, Selector: DataSelector, Type: 3, Present: 1, S: 1, DB: 1, G: 1}
		s.CS, s.DS, s.ES, s.FS, s.GS, s.SS = code, data, data, data, data, data
		s.GDT = kvm.DTable{Base: gdt, Limit: 3*8 - 1}
		s.IDT = kvm.DTable{Base: idt, Limit: 256*16 - 1}
		s.CR3 = pml4
		s.CR4 = 1<<5 | 3<<9        // PAE, OSFXSR, OSXMMEXCPT
		s.CR0 = 1<<31 | 1<<16 | 51 // PG, WP, NE, ET, MP, PE
		s.EFER = 1<<10 | 1<<8      // LMA, LME
	}
	g.must("special registers", v.SetSregs(s))
}

// writeTables writes GDT and page tables. The IDT stays empty: see SetGate.
func (g *Guest) writeTables() {
	g.t.Helper()
	put := func(a guestmem.GPA, v uint64) { g.must("tables", g.Mem.StoreUint64(a, v)) }
	put(gdt+CodeSelector, 0x00af9b000000ffff)
	put(gdt+DataSelector, 0x00cf93000000ffff)
	put(pml4, pdpt|3)
	for i := range guestmem.GPA(pageTables) {
		dir := pd + i*guestmem.PageSize
		put(pdpt+8*i, uint64(dir)|3)
		for j := range guestmem.GPA(512) {
			put(dir+8*j, uint64(i<<30|j<<21)|0x83)
		}
	}
}

// SetGate makes the guest handle an interrupt vector at handler, in long mode.
func (g *Guest) SetGate(vector uint8, handler guestmem.GPA) {
	g.t.Helper()
	const interruptGate = 0x8e00
	h := uint64(handler)
	at := guestmem.GPA(idt) + guestmem.GPA(vector)*16
	g.must("gate", g.Mem.StoreUint64(at, h&0xffff|CodeSelector<<16|interruptGate<<32|h>>16&0xffff<<48))
	g.must("gate", g.Mem.StoreUint64(at+8, h>>32))
}

// Run runs the first vCPU until it exits for another reason than a signal.
func (g *Guest) Run() kvm.Exit {
	g.t.Helper()
	return g.RunVCPU(g.VCPU)
}

// RunTo runs the first vCPU until its next exit, which must be of kind.
func (g *Guest) RunTo(kind kvm.ExitKind) kvm.Exit {
	g.t.Helper()
	e := g.Run()
	if e.Kind != kind {
		g.t.Fatalf("guest exited with %v, not %v\n%s", e, kind, g.where(g.VCPU))
	}
	return e
}

// RunVCPU is Run for any vCPU. It must be called from the test's own goroutine.
func (g *Guest) RunVCPU(v *kvm.VCPU) kvm.Exit {
	g.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var late atomic.Bool
	defer time.AfterFunc(Timeout, func() { late.Store(true); v.Kick() }).Stop()
	for {
		e, err := v.Run()
		g.must("run", err)
		if e.Kind != kvm.ExitInterrupted {
			return e
		}
		if late.Load() {
			g.t.Fatalf("guest did not exit within %v\n%s", Timeout, g.where(v))
		}
	}
}

// where says where a vCPU is.
func (g *Guest) where(v *kvm.VCPU) string {
	r, err := v.Regs()
	if err != nil {
		return err.Error()
	}
	return fmtRegs(r)
}

func (g *Guest) must(what string, err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatalf("guest's %s: %v", what, err)
	}
}

func (g *Guest) check(what string, err error) {
	if err != nil {
		g.t.Errorf("closing guest's %s: %v", what, err)
	}
}
