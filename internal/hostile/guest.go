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

// CPU carries out commands, in order. Those without a result are posted: they
// are carried out together with the next that has one, or by Flush.
type CPU struct {
	g      *Guest
	index  int
	next   chan uint32   // how many commands to carry out
	ready  chan struct{} // the vCPU asks for commands: it is done with the last
	idle   bool          // ready was received, and no command given since
	posted int           // commands in the mailbox that are not begun
	used   int           // bytes of the data area that they need
}

// Read is the command port: it lets the vCPU wait for commands.
func (c *CPU) Read(_ uint64, p []byte) {
	c.ready <- struct{}{} // there is room: a vCPU asks again only once it was answered
	var n uint32
	select {
	case n = <-c.next:
	case <-c.g.over:
		n = 1
		c.g.mem.WriteAt([]byte{byte(cmdHalt)}, c.mailbox())
	}
	clear(p)
	p[0] = byte(n)
}

// Write does nothing.
func (c *CPU) Write(uint64, []byte) {}

// await waits until the vCPU asks for commands.
func (c *CPU) await() error {
	if c.idle {
		return nil
	}
	timer := time.NewTimer(Timeout)
	defer timer.Stop()
	select {
	case <-c.ready:
		c.idle = true
		return nil
	case <-c.g.over:
		return ErrOver
	case <-timer.C:
		return fmt.Errorf("vCPU %d: %w in %v", c.index, ErrWedged, Timeout)
	}
}

func (c *CPU) mailbox() guestmem.GPA { return guestmem.GPA(addrMailbox + 0x1000*c.index) }

// post adds a command, and room bytes of data that begin with p.
func (c *CPU) post(cmd command, addr, value, count uint64, p []byte, room int) (data guestmem.GPA, err error) {
	if c.posted == maxEntries || c.used+room > DataSize {
		if err := c.Flush(); err != nil {
			return 0, err
		}
	}
	if err := c.await(); err != nil {
		return 0, err
	}
	data = guestmem.GPA(addrData + DataSize*c.index + c.used)
	var e [entrySize]byte
	le := binary.LittleEndian
	le.PutUint64(e[entryCommand:], uint64(cmd))
	le.PutUint64(e[entryAddress:], addr)
	le.PutUint64(e[entryValue:], value)
	le.PutUint64(e[entryCount:], count)
	le.PutUint64(e[entryData:], uint64(data))
	err = errors.Join(
		c.g.mem.WriteAt(e[:], c.mailbox()+guestmem.GPA(entrySize*c.posted)),
		c.g.mem.WriteAt(p, data))
	c.posted++
	c.used += room
	return data, err
}

// begin lets the vCPU carry out what is posted.
func (c *CPU) begin() error {
	if c.posted == 0 {
		return nil
	}
	if err := c.await(); err != nil {
		return err
	}
	n := uint32(c.posted)
	c.posted, c.used = 0, 0
	select {
	case c.next <- n:
		c.idle = false
		return nil
	case <-c.g.over:
		return ErrOver
	}
}

// Flush waits until everything was carried out.
func (c *CPU) Flush() error {
	if err := c.begin(); err != nil {
		return err
	}
	return c.await()
}

// do carries out a command and all before it, and returns its result.
func (c *CPU) do(cmd command, addr uint64) (uint64, error) {
	if _, err := c.post(cmd, addr, 0, 0, nil, 0); err != nil {
		return 0, err
	}
	at := c.mailbox() + guestmem.GPA(entrySize*(c.posted-1)+entryValue)
	if err := c.Flush(); err != nil {
		return 0, err
	}
	var m [8]byte
	err := c.g.mem.ReadAt(m[:], at)
	return binary.LittleEndian.Uint64(m[:]), err
}

// byWidth picks the command for an access of n bytes out of those for 1, 2, 4
// and 8.
func byWidth(first command, n int) (command, error) {
	switch n {
	case 1:
		return first, nil
	case 2:
		return first + 1, nil
	case 4:
		return first + 2, nil
	case 8:
		return first + 3, nil
	}
	return 0, fmt.Errorf("no instruction accesses %d bytes", n)
}

// Load loads n bytes at addr, 1, 2, 4 or 8, with one instruction.
func (c *CPU) Load(addr uint64, n int) (uint64, error) {
	cmd, err := byWidth(cmdLoad8, n)
	if err != nil {
		return 0, err
	}
	return c.do(cmd, addr)
}

// Store posts a store of the low n bytes of v at addr with one instruction.
func (c *CPU) Store(addr uint64, n int, v uint64) error {
	cmd, err := byWidth(cmdStore8, n)
	if err != nil {
		return err
	}
	_, err = c.post(cmd, addr, v, 0, nil, 0)
	return err
}

// CopyIn posts a copy of p, at most DataSize bytes, to addr.
func (c *CPU) CopyIn(p []byte, addr uint64) error {
	_, err := c.post(cmdCopyIn, addr, 0, uint64(len(p)), p, len(p))
	return err
}

// CopyOut copies to p, at most DataSize bytes, from addr.
func (c *CPU) CopyOut(p []byte, addr uint64) error { return c.out(cmdCopyOut, addr, p) }

// InString reads len(p) bytes from a port with one REP INSB.
func (c *CPU) InString(port uint16, p []byte) error { return c.out(cmdInString, uint64(port), p) }

func (c *CPU) out(cmd command, addr uint64, p []byte) error {
	data, err := c.post(cmd, addr, 0, uint64(len(p)), nil, len(p))
	if err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return err
	}
	return c.g.mem.ReadAt(p, data)
}

// OutString posts a REP OUTSB of p to a port.
func (c *CPU) OutString(port uint16, p []byte) error {
	_, err := c.post(cmdOutString, uint64(port), 0, uint64(len(p)), p, len(p))
	return err
}

// Storm begins to store four bytes at addr n times. It does not wait for the
// end; the next command does, and Flush.
func (c *CPU) Storm(addr uint64, v uint32, n int) error {
	if _, err := c.post(cmdStorm, addr, uint64(v), uint64(n), nil, 0); err != nil {
		return err
	}
	return c.begin()
}

// Scribble begins to write four patterns of the same length to addr, one after
// the other, n times. It does not wait, as Storm does not.
func (c *CPU) Scribble(addr uint64, patterns [4][]byte, n int) error {
	var all []byte
	for _, p := range patterns {
		all = append(all, p...)
	}
	if _, err := c.post(cmdScribble, addr, uint64(n), uint64(len(patterns[0])), all, len(all)); err != nil {
		return err
	}
	return c.begin()
}

// Spin begins to wait until the four bytes at addr, in RAM, are v: the vCPU runs
// meanwhile, and can be paused, which it cannot be while it waits for a command.
func (c *CPU) Spin(addr guestmem.GPA, v uint32) error {
	if _, err := c.post(cmdSpin, uint64(addr), uint64(v), 0, nil, 0); err != nil {
		return err
	}
	return c.begin()
}

// In reads n bytes, 1, 2 or 4, from a port.
func (c *CPU) In(port uint16, n int) (uint64, error) {
	cmd, err := byWidth(cmdIn8, n)
	if err != nil || n > 4 {
		return 0, fmt.Errorf("no port access of %d bytes", n)
	}
	return c.do(cmd, uint64(port))
}

// Out posts a write of n bytes, 1, 2 or 4, to a port.
func (c *CPU) Out(port uint16, n int, v uint32) error {
	cmd, err := byWidth(cmdOut8, n)
	if err != nil || n > 4 {
		return fmt.Errorf("no port access of %d bytes", n)
	}
	_, err = c.post(cmd, uint64(port), uint64(v), 0, nil, 0)
	return err
}

// Jump leaves the program for addr.
func (c *CPU) Jump(addr uint64) error { return c.last(cmdJump, addr) }

// TripleFault makes the vCPU shut down.
func (c *CPU) TripleFault() error { return c.last(cmdTripleFault, 0) }

// Halt halts the vCPU for good, with interrupts off.
func (c *CPU) Halt() error { return c.last(cmdHalt, 0) }

// last begins a command that does not come back.
func (c *CPU) last(cmd command, addr uint64) error {
	if _, err := c.post(cmd, addr, 0, 0, nil, 0); err != nil {
		return err
	}
	return c.begin()
}

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
