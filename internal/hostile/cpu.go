package hostile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

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
