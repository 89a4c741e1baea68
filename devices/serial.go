package devices

import (
	"context"
	"io"
	"sync"
)

// The National Semiconductor PC16550D UART, as a PC has it at COM1. Names and
// bits are those of its data sheet, section 8 "Registers". The line's speed is
// infinite: a byte written is sent at once, so the transmitter is always empty.
const (
	serialData = 0 // RBR read, THR write; DLL with DLAB
	serialIER  = 1 // DLM with DLAB
	serialIIR  = 2 // read; FCR write
	serialLCR  = 3
	serialMCR  = 4
	serialLSR  = 5
	serialMSR  = 6
	serialSCR  = 7

	ierReceived  = 1 << 0
	ierTHREmpty  = 1 << 1
	ierLine      = 1 << 2
	ierModem     = 1 << 3
	ierMask      = 0x0f
	iirNone      = 0x01
	iirModem     = 0x00
	iirTHREmpty  = 0x02
	iirReceived  = 0x04
	iirLine      = 0x06
	iirFIFO      = 0xc0
	fcrEnable    = 1 << 0
	fcrClearRecv = 1 << 1
	lcrDLAB      = 1 << 7
	mcrDTR       = 1 << 0
	mcrRTS       = 1 << 1
	mcrOut1      = 1 << 2
	mcrOut2      = 1 << 3 // on a PC: lets the interrupt out
	mcrLoop      = 1 << 4
	mcrMask      = 0x1f
	lsrReady     = 1 << 0
	lsrOverrun   = 1 << 1
	lsrTHREmpty  = 1 << 5
	lsrIdle      = 1 << 6
	msrCTS       = 1 << 4
	msrDSR       = 1 << 5
	msrRI        = 1 << 6
	msrDCD       = 1 << 7

	serialDivisor = 1 // 115,200 baud
	// serialInputCap is how many bytes wait for the guest. A 16550 has room
	// for 16; who sends more waits (THREATS T82).
	serialInputCap = 64
)

// Serial is a serial port. Its window is eight ports.
type Serial struct {
	irq  Interrupt
	room chan struct{} // holds a token after the guest has read

	outMu sync.Mutex // one byte at a time; never taken with mu held
	out   io.Writer
	buf   [1]byte // guarded by outMu

	mu    sync.Mutex
	state serialState // guarded by mu
}

type serialState struct {
	IER, LCR, MCR, SCR uint8
	DLL, DLM           uint8
	MSRDelta           uint8 // changes of the modem lines since MSR was read
	FIFO               bool
	Overrun            bool
	THREmpty           bool // the THR-empty interrupt is pending
	Raised             bool // the interrupt line is high
	Input              [serialInputCap]uint8
	Head, Len          int // of Input, a ring
}

// NewSerial returns a serial port that writes what the guest sends to out, a
// byte at a time, in order. The guest's vCPU waits for out.Write, so out must
// not block for ever: give it a buffer that drops or a file, not a pipe that
// nobody reads. Its errors are ignored, as a line without a listener is.
// irq is the port's interrupt line, IRQ 4 on a PC.
func NewSerial(out io.Writer, irq Interrupt) *Serial {
	return &Serial{irq: irq, out: out, room: make(chan struct{}, 1), state: serialState{DLL: serialDivisor}}
}

// Send gives the guest bytes to read. It waits while the guest's buffer of 64
// bytes is full, until ctx is done; it returns how many bytes were taken.
// Concurrent calls do not lose bytes, but may interleave them.
func (s *Serial) Send(ctx context.Context, p []byte) (n int, err error) {
	for {
		n += s.offer(p[n:])
		if n == len(p) {
			s.wake() // there may be room for somebody else who waits
			return n, nil
		}
		select {
		case <-s.room:
		case <-ctx.Done():
			return n, &Error{"serial input", context.Cause(ctx)}
		}
	}
}

// offer takes as many bytes as there is room for.
func (s *Serial) offer(p []byte) int {
	s.mu.Lock()
	n := 0
	for n < len(p) && s.state.push(p[n]) {
		n++
	}
	raise := s.state.update()
	s.mu.Unlock()
	s.raise(raise)
	return n
}

// Read serves single bytes; a wider read is one of consecutive registers.
func (s *Serial) Read(off uint64, p []byte) {
	for i := range p {
		p[i] = s.readRegister(off + uint64(i))
	}
}

// Write takes single bytes; a wider write is one of consecutive registers.
func (s *Serial) Write(off uint64, p []byte) {
	for i, v := range p {
		s.writeRegister(off+uint64(i), v)
	}
}

func (s *Serial) readRegister(reg uint64) byte {
	s.mu.Lock()
	before := s.state.Len
	v := s.state.read(reg)
	raise := s.state.update()
	drained := s.state.Len < before
	s.mu.Unlock()
	if drained {
		s.wake()
	}
	s.raise(raise)
	return v
}

func (s *Serial) writeRegister(reg uint64, v byte) {
	s.mu.Lock()
	send := s.state.write(reg, v)
	raise := s.state.update()
	drained := s.state.Len < serialInputCap
	s.mu.Unlock()
	if send {
		s.send(v)
		// The transmitter is empty again. If the guest has not yet looked at
		// the interrupt that said so before, there is no second edge.
		s.mu.Lock()
		s.state.THREmpty = true
		raise = s.state.update() || raise
		s.mu.Unlock()
	}
	if drained {
		s.wake()
	}
	s.raise(raise)
}

func (s *Serial) send(v byte) {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	s.buf[0] = v
	_, _ = s.out.Write(s.buf[:])
}

func (s *Serial) wake() {
	select {
	case s.room <- struct{}{}:
	default:
	}
}

func (s *Serial) raise(yes bool) {
	if yes {
		_ = s.irq.Trigger() // a VM that is being closed: nobody to tell
	}
}

// read reads a register, with its side effects.
func (s *serialState) read(reg uint64) byte {
	switch reg {
	case serialData:
		if s.LCR&lcrDLAB != 0 {
			return s.DLL
		}
		return s.pop()
	case serialIER:
		if s.LCR&lcrDLAB != 0 {
			return s.DLM
		}
		return s.IER
	case serialIIR:
		id := s.pending()
		if id == iirTHREmpty {
			s.THREmpty = false
		}
		if s.FIFO {
			id |= iirFIFO
		}
		return id
	case serialLCR:
		return s.LCR
	case serialMCR:
		return s.MCR
	case serialLSR:
		v := byte(lsrTHREmpty | lsrIdle)
		if s.Len > 0 {
			v |= lsrReady
		}
		if s.Overrun {
			v |= lsrOverrun
			s.Overrun = false
		}
		return v
	case serialMSR:
		v := s.modem() | s.MSRDelta
		s.MSRDelta = 0
		return v
	case serialSCR:
		return s.SCR
	}
	return 0xff
}

// write writes a register. It reports true if v is to be sent on the line.
func (s *serialState) write(reg uint64, v byte) (send bool) {
	switch reg {
	case serialData:
		switch {
		case s.LCR&lcrDLAB != 0:
			s.DLL = v
			return false
		case s.MCR&mcrLoop == 0:
			return true
		}
		if !s.push(v) {
			s.Overrun = true
		}
		s.THREmpty = true
	case serialIER:
		if s.LCR&lcrDLAB != 0 {
			s.DLM = v
			return false
		}
		// Enabling the interrupt while the transmitter is empty raises it.
		if v&^s.IER&ierTHREmpty != 0 {
			s.THREmpty = true
		}
		s.IER = v & ierMask
	case serialIIR: // FCR
		// Switching the FIFO on or off clears it.
		if fifo := v&fcrEnable != 0; fifo != s.FIFO || v&fcrClearRecv != 0 {
			s.FIFO, s.Head, s.Len = fifo, 0, 0
		}
	case serialLCR:
		s.LCR = v
	case serialMCR:
		before := s.modem()
		s.MCR = v & mcrMask
		s.MSRDelta |= modemDelta(before, s.modem())
	case serialSCR:
		s.SCR = v
	}
	return false
}

// pending returns the most urgent enabled interrupt's identification.
func (s *serialState) pending() byte {
	switch {
	case s.IER&ierLine != 0 && s.Overrun:
		return iirLine
	case s.IER&ierReceived != 0 && s.Len > 0:
		return iirReceived
	case s.IER&ierTHREmpty != 0 && s.THREmpty:
		return iirTHREmpty
	case s.IER&ierModem != 0 && s.MSRDelta != 0:
		return iirModem
	}
	return iirNone
}

// update sets the interrupt line and reports whether it rose.
func (s *serialState) update() bool {
	was := s.Raised
	s.Raised = s.pending() != iirNone && s.MCR&mcrOut2 != 0 && s.MCR&mcrLoop == 0
	return s.Raised && !was
}

// modem returns the modem lines: a peer that is always ready, or in loopback
// the port's own outputs.
func (s *serialState) modem() byte {
	if s.MCR&mcrLoop == 0 {
		return msrCTS | msrDSR | msrDCD
	}
	var v byte
	for _, l := range [...][2]byte{{mcrRTS, msrCTS}, {mcrDTR, msrDSR}, {mcrOut1, msrRI}, {mcrOut2, msrDCD}} {
		if s.MCR&l[0] != 0 {
			v |= l[1]
		}
	}
	return v
}

// modemDelta returns the delta bits for a change of the modem lines: bits 0, 1
// and 3 for any change of CTS, DSR and DCD, bit 2 for the end of RI.
func modemDelta(before, after byte) byte {
	changed := before ^ after
	return changed>>4&^(msrRI>>4) | before&^after&msrRI>>4
}

func (s *serialState) push(v byte) bool {
	if s.Len == len(s.Input) {
		return false
	}
	s.Input[(s.Head+s.Len)%len(s.Input)] = v
	s.Len++
	return true
}

// pop takes the oldest byte; without one it returns 0.
func (s *serialState) pop() byte {
	if s.Len == 0 {
		return 0
	}
	v := s.Input[s.Head]
	s.Head = (s.Head + 1) % len(s.Input)
	s.Len--
	return v
}
