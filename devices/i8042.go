package devices

import "sync"

// The Intel 8042 keyboard controller of the IBM PC AT, without a keyboard. All
// that is left of it is the pulse on the processor's reset line, which is how
// a PC reboots ("reboot=k", and every kernel's fallback).
//
// A guest that probes for PS/2 ports must find out at once that there are
// none. A controller that is silent makes Linux wait half a second for each
// answer, so this one looks stuck: its output buffer is full for ever and
// reads as 0xff. Linux empties it sixteen times (I8042_BUFFER_SIZE), says "No
// controller found" and goes on; the input buffer is always free, so that a
// command, reset included, is never waited for.
//
// Port 0x61 lies between the controller's two ports and is served here too.

// Offsets from port 0x60 (IBM PC AT Technical Reference, "Keyboard Controller"
// and "System Board I/O").
const (
	i8042Data   = 0 // 0x60
	i8042PortB  = 1 // 0x61: speaker gate and timer outputs
	i8042Status = 4 // 0x64 read: status; write: command
)

const (
	// Status bits: output buffer full, system flag (self-test passed),
	// keyboard not locked. Bit 1, input buffer full, stays clear.
	i8042StatusValue = 1<<0 | 1<<2 | 1<<4

	// Commands 0xf0 to 0xff pulse the output lines whose bits are 0; line 0
	// is the processor's reset.
	i8042PulseFirst = 0xf0
	i8042ResetLine  = 1 << 0

	// Port B: bit 4 toggles with each memory refresh, bit 5 is timer 2's
	// output. Old delay loops wait for the one to change and the other to be 1.
	portBRefresh = 1 << 4
	portBTimer2  = 1 << 5
)

// I8042 is the controller. Its window is the five ports from 0x60.
type I8042 struct {
	reset func()

	mu    sync.Mutex
	state i8042State // guarded by mu
}

type i8042State struct {
	PortB uint8
}

// NewI8042 returns a controller that calls reset when the guest pulses the
// reset line. The call is made on the writing vCPU's thread and must not block.
func NewI8042(reset func()) *I8042 {
	return &I8042{reset: reset, state: i8042State{PortB: portBTimer2}}
}

// Read serves single bytes; a wider read is one of consecutive ports.
func (d *I8042) Read(off uint64, p []byte) {
	for i := range p {
		p[i] = d.readPort(off + uint64(i))
	}
}

func (d *I8042) readPort(off uint64) byte {
	switch off {
	case i8042Data:
		return 0xff
	case i8042PortB:
		d.mu.Lock()
		defer d.mu.Unlock()
		d.state.PortB ^= portBRefresh
		return d.state.PortB
	case i8042Status:
		return i8042StatusValue
	}
	return 0
}

// Write takes single bytes; a wider write is one of consecutive ports.
func (d *I8042) Write(off uint64, p []byte) {
	for i, v := range p {
		if off+uint64(i) == i8042Status && v >= i8042PulseFirst && v&i8042ResetLine == 0 {
			d.reset()
		}
	}
}
