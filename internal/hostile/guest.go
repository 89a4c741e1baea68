package hostile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sandpit-vm/sandpit/boot"
	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
	"github.com/sandpit-vm/sandpit/vmm"
)

// Timeout is how long a command may take before its vCPU counts as wedged.
const Timeout = 20 * time.Second

var (
	// ErrWedged says that a vCPU did not come back from a command.
	ErrWedged = errors.New("the vCPU did not come back")
	// ErrOver says that the guest was told to end.
	ErrOver = errors.New("the guest has ended")
)

// Guest is the program and the ways to it. Its Load, Windows and CPU are for one
// machine.
type Guest struct {
	mem      *guestmem.Memory
	over     chan struct{}
	once     sync.Once
	cpus     [2]CPU
	verdicts chan byte
}

// NewGuest returns a guest that no machine has loaded yet.
func NewGuest() *Guest {
	g := &Guest{over: make(chan struct{}), verdicts: make(chan byte, 1)}
	for i := range g.cpus {
		g.cpus[i] = CPU{g: g, index: i, next: make(chan uint32), ready: make(chan struct{}, 1)}
	}
	return g
}

// Load is for vmm.Config.Load.
func (g *Guest) Load(mem *guestmem.Memory) (*boot.CPUState, error) {
	g.mem = mem
	le := binary.LittleEndian
	var errs []error
	put := func(a guestmem.GPA, p []byte) { errs = append(errs, mem.WriteAt(p, a)) }
	put64 := func(a guestmem.GPA, v ...uint64) {
		var b []byte
		for _, v := range v {
			b = le.AppendUint64(b, v)
		}
		put(a, b)
	}
	put64(addrGDT, 0, 0x00af9b000000ffff, 0x00cf93000000ffff) // null, 64-bit code, data
	put(addrLoop, loop)
	at := addrLoop + (len(loop)+15)&^15
	for i, r := range routines {
		put(guestmem.GPA(at), r)
		put64(guestmem.GPA(addrTable+8*i), uint64(at))
		at += (len(r) + 15) &^ 15
	}
	if at > addrStack-0x400 {
		errs = append(errs, fmt.Errorf("the routines reach to %#x", at))
	}
	put(addrAP, apStart)
	tables := le.AppendUint64(le.AppendUint16(nil, 3*8-1), addrGDT)[:8]
	put(addrAP+0xf0, tables)
	put(addrAP+0xf8, le.AppendUint64(le.AppendUint16(nil, 256*16-1), addrIDT)[:8])
	for line := range 24 {
		v := firstVector + line
		g.gate(put64, v, addrHandlers+64*line)
		put(guestmem.GPA(addrHandlers+64*line), handler(v))
	}
	g.gate(put64, 0xff, addrHandlers+64*24) // spurious: no EOI
	put(addrHandlers+64*24, []byte{0x48, 0xcf})
	const dirs = addrPML4 + 0x2000 // eight GiB, mapped to themselves with 2 MiB pages
	put64(addrPML4, addrPML4+0x1000|3)
	for i := range uint64(8) {
		put64(guestmem.GPA(addrPML4+0x1000+8*i), dirs+i<<12|3)
		for j := range uint64(512) {
			put64(guestmem.GPA(dirs+i<<12+8*j), i<<30|j<<21|0x83)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	data := boot.Segment{Limit: 0xffffffff, Selector: 0x10, Type: 3, Present: 1, S: 1, DB: 1, G: 1}
	return &boot.CPUState{
		CS: boot.Segment{Limit: 0xffffffff, Selector: 8, Type: 11, Present: 1, S: 1, L: 1, G: 1},
		DS: data, ES: data, FS: data, GS: data, SS: data,
		TR:  boot.Segment{Limit: 0x67, Type: 11, Present: 1},
		LDT: boot.Segment{Type: 2, Unusable: 1},
		GDT: boot.Table{Base: addrGDT, Limit: 3*8 - 1}, IDT: boot.Table{Base: addrIDT, Limit: 256*16 - 1},
		CR0: 0x80000011, CR3: addrPML4, CR4: 0x20, EFER: 0x500,
		RIP: addrLoop, RSP: addrStack, RFLAGS: 2,
		R12: portCommand, R14: addrMailbox,
	}, nil
}

// gate makes vector v lead to the handler at h.
func (g *Guest) gate(put64 func(guestmem.GPA, ...uint64), v, h int) {
	const interruptGate = 0x8e00
	put64(guestmem.GPA(addrIDT+16*v), uint64(h)&0xffff|8<<16|interruptGate<<32|uint64(h)>>16&0xffff<<48, 0)
}

// Windows are for vmm.Config.PIO.
func (g *Guest) Windows() []vmm.Window {
	return []vmm.Window{
		{Name: "command-0", Base: portCommand, Size: 4, Handler: &g.cpus[0]},
		{Name: "command-1", Base: portCommand + 4, Size: 4, Handler: &g.cpus[1]},
		{Name: "verdict", Base: portVerdict, Size: 1, Handler: verdictPort{g}},
	}
}

// verdictPort is where the guest says how an attack went.
type verdictPort struct{ g *Guest }

func (v verdictPort) Read(_ uint64, p []byte) { clear(p) }
func (v verdictPort) Write(_ uint64, p []byte) {
	select {
	case v.g.verdicts <- p[0]:
	default: // nobody asked
	}
}

// End lets the vCPUs halt, so that the machine can be closed.
func (g *Guest) End() { g.once.Do(func() { close(g.over) }) }

// CPU is one of the guest's two vCPUs. It belongs to one goroutine.
func (g *Guest) CPU(i int) *CPU { return &g.cpus[i] }

// Setup is what vCPU 0 does first: it lets interrupt lines count in memory, and
// starts vCPU 1 if there is one.
func (g *Guest) Setup(second bool) error {
	c := g.CPU(0)
	var errs []error
	store := func(addr uint64, v uint64) { errs = append(errs, c.Store(addr, 4, v)) }
	errs = append(errs, c.Out(0x21, 1, 0xff), c.Out(0xa1, 1, 0xff)) // the old controllers stay silent
	store(boot.LocalAPICBase+0xf0, 0x1ff)                           // enabled; spurious vector 0xff
	for line := range uint64(24) {
		store(boot.IOAPICBase, 0x10+2*line)
		store(boot.IOAPICBase+0x10, firstVector+line) // edge, to APIC 0
		store(boot.IOAPICBase, 0x11+2*line)
		store(boot.IOAPICBase+0x10, 0)
	}
	_, err := c.post(cmdInterrupts, 0, 0, 0, nil, 0)
	errs = append(errs, err)
	if second {
		store(boot.LocalAPICBase+0x310, 1<<24)
		store(boot.LocalAPICBase+0x300, 0x4500) // INIT
		store(boot.LocalAPICBase+0x310, 1<<24)
		store(boot.LocalAPICBase+0x300, 0x4600|addrAP>>12) // start-up IPI
		errs = append(errs, c.Flush(), g.CPU(1).await())
	}
	errs = append(errs, c.Flush())
	return errors.Join(errs...)
}

// Interrupts is how often an interrupt line was raised.
func (g *Guest) Interrupts(line int) (uint64, error) {
	return g.CPU(0).Load(addrCounters+4*uint64(firstVector+line), 4)
}

// Verdict is how an attack went.
type Verdict byte

// PASS: harmless. FAIL: the device did what it should not. WEDGED: it does
// nothing any more, not even after a reset.
const (
	PASS Verdict = iota + 1
	FAIL
	WEDGED
)

func (v Verdict) String() string {
	switch v {
	case PASS:
		return "PASS"
	case FAIL:
		return "FAIL"
	case WEDGED:
		return "WEDGED"
	}
	return fmt.Sprintf("verdict %d", byte(v))
}

// Report lets the guest report a verdict through its port, and returns what
// arrived there.
func (g *Guest) Report(v Verdict) (Verdict, error) {
	c := g.CPU(0)
	if err := errors.Join(c.Out(portVerdict, 1, uint32(v)), c.Flush()); err != nil {
		return 0, err
	}
	select {
	case b := <-g.verdicts:
		return Verdict(b), nil
	case <-time.After(Timeout):
		return 0, fmt.Errorf("no verdict came through the port: %w", ErrWedged)
	}
}

// RAM is guest memory as vCPU 0 loads and stores it.
type RAM struct{ G *Guest }

// ReadAt copies guest memory at a into p.
func (r RAM) ReadAt(p []byte, a guestmem.GPA) error {
	for len(p) > 0 {
		n := min(len(p), DataSize)
		if err := r.G.CPU(0).CopyOut(p[:n], uint64(a)); err != nil {
			return err
		}
		p, a = p[n:], a+guestmem.GPA(n)
	}
	return nil
}

// WriteAt copies p to guest memory at a.
func (r RAM) WriteAt(p []byte, a guestmem.GPA) error {
	for len(p) > 0 {
		n := min(len(p), DataSize)
		if err := r.G.CPU(0).CopyIn(p[:n], uint64(a)); err != nil {
			return err
		}
		p, a = p[n:], a+guestmem.GPA(n)
	}
	return nil
}

// LoadUint16 loads two bytes.
func (r RAM) LoadUint16(a guestmem.GPA) (uint16, error) {
	v, err := r.G.CPU(0).Load(uint64(a), 2)
	return uint16(v), err
}

// LoadUint32 loads four bytes.
func (r RAM) LoadUint32(a guestmem.GPA) (uint32, error) {
	v, err := r.G.CPU(0).Load(uint64(a), 4)
	return uint32(v), err
}

// StoreUint16 stores two bytes.
func (r RAM) StoreUint16(a guestmem.GPA, v uint16) error {
	return r.G.CPU(0).Store(uint64(a), 2, uint64(v))
}

// StoreUint64 stores eight bytes.
func (r RAM) StoreUint64(a guestmem.GPA, v uint64) error {
	return r.G.CPU(0).Store(uint64(a), 8, v)
}

// Window is a device's registers as vCPU 0 accesses them. An error of the vCPU
// goes to Fail.
type Window struct {
	G    *Guest
	Base uint64
	Fail func(error)
}

// Read loads len(p) bytes at off: with one instruction if there is one for so
// many, else byte by byte.
func (w Window) Read(off uint64, p []byte) {
	if len(p) == 1 || len(p) == 2 || len(p) == 4 || len(p) == 8 {
		v, err := w.G.CPU(0).Load(w.Base+off, len(p))
		if err != nil {
			w.Fail(err)
		}
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], v)
		copy(p, b[:])
		return
	}
	for i := range p {
		w.Read(off+uint64(i), p[i:i+1])
	}
}

// Write stores p at off, as Read loads. It posts, but for notifications.
func (w Window) Write(off uint64, p []byte) {
	if len(p) == 1 || len(p) == 2 || len(p) == 4 || len(p) == 8 {
		var b [8]byte
		copy(b[:], p)
		err := w.G.CPU(0).Store(w.Base+off, len(p), binary.LittleEndian.Uint64(b[:]))
		if err == nil && off == virtio.NotifyOffset {
			err = w.G.CPU(0).Flush() // whoever kicks wants something done
		}
		if err != nil {
			w.Fail(err)
		}
		return
	}
	for i := range p {
		w.Write(off+uint64(i), p[i:i+1])
	}
}
