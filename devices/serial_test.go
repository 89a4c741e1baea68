package devices

import (
	"bytes"
	"context"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// edges counts interrupts.
type edges struct{ atomic.Int64 }

func (e *edges) Trigger() error {
	e.Add(1)
	return nil
}

func newSerial() (*Serial, *bytes.Buffer, *edges) {
	var out bytes.Buffer
	irq := new(edges)
	return NewSerial(&out, irq), &out, irq
}

func (s *Serial) get(reg uint64) byte {
	p := make([]byte, 1)
	s.Read(reg, p)
	return p[0]
}

func (s *Serial) set(reg uint64, v byte) { s.Write(reg, []byte{v}) }

func (s *Serial) host(t *testing.T, text string) {
	t.Helper()
	n, err := s.Send(t.Context(), []byte(text))
	require.NoError(t, err)
	require.Equal(t, len(text), n)
}

func TestSerial_Reset(t *testing.T) {
	s, _, irq := newSerial()
	require.Equal(t, []byte{0, 0, iirNone, 0, 0, lsrTHREmpty | lsrIdle, msrCTS | msrDSR | msrDCD, 0}, func() []byte {
		p := make([]byte, 8)
		s.Read(0, p)
		return p
	}())
	require.Zero(t, irq.Load())
}

func TestSerial_Output(t *testing.T) {
	s, out, _ := newSerial()
	for _, c := range []byte("hello\x00\xff") {
		s.set(serialData, c)
		require.Equal(t, byte(lsrTHREmpty|lsrIdle), s.get(serialLSR))
	}
	require.Equal(t, "hello\x00\xff", out.String())
}

// Scratch, line control and divisor are storage; DLAB switches two registers.
func TestSerial_Latches(t *testing.T) {
	s, out, _ := newSerial()
	s.set(serialSCR, 0xa5)
	s.set(serialLCR, lcrDLAB|3)
	require.Equal(t, byte(serialDivisor), s.get(serialData))
	s.set(serialData, 0x0c)
	s.set(serialIER, 0x01)
	require.Equal(t, []byte{0x0c, 0x01}, []byte{s.get(serialData), s.get(serialIER)})
	s.set(serialLCR, 3)
	require.Equal(t, byte(0xa5), s.get(serialSCR))
	require.Equal(t, byte(3), s.get(serialLCR))
	require.Zero(t, s.get(serialIER), "the divisor did not reach IER")
	require.Empty(t, out.String(), "nor the line")
	s.set(serialIER, 0xff)
	require.Equal(t, byte(ierMask), s.get(serialIER), "the upper bits do not exist: no sleep, no UUE")
	s.set(serialMCR, 0xff)
	require.Equal(t, byte(mcrMask), s.get(serialMCR))
	s.set(serialLSR, 0)
	s.set(serialMSR, 0)
	require.Equal(t, byte(lsrTHREmpty|lsrIdle), s.get(serialLSR), "read-only")
}

// What Linux' autoconfiguration does: FIFOs as a 16550A's, not a 16750's.
func TestSerial_ProbeAs16550A(t *testing.T) {
	s, _, _ := newSerial()
	require.Zero(t, s.get(serialIIR)&iirFIFO)
	s.set(serialIIR, fcrEnable)
	require.Equal(t, byte(iirFIFO|iirNone), s.get(serialIIR))
	s.set(serialLCR, lcrDLAB)
	s.set(serialIIR, fcrEnable|0x20)
	require.Equal(t, byte(iirFIFO|iirNone), s.get(serialIIR), "no 64-byte mode")
}

func TestSerial_Loopback(t *testing.T) {
	s, out, irq := newSerial()
	for mcr, msr := range map[byte]byte{
		0: 0, mcrDTR: msrDSR, mcrRTS: msrCTS, mcrOut1: msrRI, mcrOut2: msrDCD, mcrOut2 | mcrRTS: msrDCD | msrCTS,
	} {
		s.set(serialMCR, mcrLoop|mcr)
		require.Equal(t, msr, s.get(serialMSR)&0xf0)
	}
	s.set(serialMCR, mcrLoop|mcrOut2)
	s.set(serialIER, ierReceived)
	for i := range serialInputCap + 1 {
		s.set(serialData, byte(i))
	}
	require.Equal(t, byte(lsrTHREmpty|lsrIdle|lsrReady|lsrOverrun), s.get(serialLSR), "one too many")
	require.Equal(t, byte(lsrTHREmpty|lsrIdle|lsrReady), s.get(serialLSR), "read once")
	for i := range serialInputCap {
		require.Equal(t, byte(i), s.get(serialData))
	}
	require.Zero(t, s.get(serialLSR)&lsrReady)
	require.Empty(t, out.String(), "nothing left the chip")
	require.Zero(t, irq.Load())
}

func TestSerial_ModemDelta(t *testing.T) {
	s, _, _ := newSerial()
	s.set(serialMCR, mcrLoop|mcrOut1)
	s.get(serialMSR)
	s.set(serialMCR, mcrLoop|mcrDTR) // DSR up, RI down
	require.Equal(t, byte(msrDSR|msrDSR>>4|msrRI>>4), s.get(serialMSR))
	require.Equal(t, byte(msrDSR), s.get(serialMSR), "deltas are read once")
	s.set(serialMCR, mcrLoop|mcrDTR|mcrOut1)
	require.Equal(t, byte(msrDSR|msrRI), s.get(serialMSR), "only RI's fall counts")
}

func TestSerial_InterruptReceived(t *testing.T) {
	s, _, irq := newSerial()
	s.host(t, "a")
	require.Zero(t, irq.Load(), "not enabled")
	s.set(serialIER, ierReceived)
	require.Zero(t, irq.Load(), "OUT2 holds it back")
	s.set(serialMCR, mcrOut2)
	require.Equal(t, int64(1), irq.Load())
	require.Equal(t, byte(iirReceived), s.get(serialIIR))
	s.host(t, "b")
	require.Equal(t, int64(1), irq.Load(), "the line is high already")
	require.Equal(t, []byte("ab"), []byte{s.get(serialData), s.get(serialData)})
	require.Equal(t, byte(iirNone), s.get(serialIIR))
	s.host(t, "c")
	require.Equal(t, int64(2), irq.Load())
}

func TestSerial_InterruptTHREmpty(t *testing.T) {
	s, _, irq := newSerial()
	s.set(serialMCR, mcrOut2)
	s.set(serialIER, ierTHREmpty)
	require.Equal(t, int64(1), irq.Load(), "enabled while empty")
	require.Equal(t, byte(iirTHREmpty), s.get(serialIIR))
	require.Equal(t, byte(iirNone), s.get(serialIIR), "reading IIR takes it back")
	s.set(serialData, 'x')
	s.set(serialData, 'y')
	require.Equal(t, int64(2), irq.Load(), "one edge per answer, not per byte")
	require.Equal(t, byte(iirTHREmpty), s.get(serialIIR))
	s.set(serialIER, 0)
	s.set(serialIER, ierTHREmpty)
	require.Equal(t, int64(3), irq.Load())
}

func TestSerial_InterruptPriority(t *testing.T) {
	s, _, irq := newSerial()
	s.set(serialMCR, mcrLoop|mcrOut2|mcrDTR)
	for range serialInputCap + 1 {
		s.set(serialData, 1)
	}
	s.set(serialIER, ierMask)
	require.Zero(t, irq.Load(), "loopback disconnects the line")
	s.set(serialMCR, mcrOut2)
	require.Equal(t, int64(1), irq.Load())
	require.Equal(t, byte(iirLine), s.get(serialIIR))
	s.get(serialLSR)
	require.Equal(t, byte(iirReceived), s.get(serialIIR))
	s.set(serialIIR, fcrClearRecv)
	require.Equal(t, byte(iirTHREmpty), s.get(serialIIR))
	require.Equal(t, byte(iirModem), s.get(serialIIR))
	s.get(serialMSR)
	require.Equal(t, byte(iirNone), s.get(serialIIR))
	require.Equal(t, int64(1), irq.Load(), "the line never fell")
}

// The host side waits when the guest does not read, and is woken when it does.
func TestSerial_T82_BackPressure(t *testing.T) {
	s, _, _ := newSerial()
	text := bytes.Repeat([]byte("0123456789"), 1000)
	done := make(chan error, 1)
	go func() {
		_, err := s.Send(t.Context(), text)
		done <- err
	}()
	var got []byte
	for len(got) < len(text) {
		if s.get(serialLSR)&lsrReady != 0 {
			got = append(got, s.get(serialData))
		}
	}
	require.NoError(t, <-done)
	require.Equal(t, text, got)
	require.Zero(t, s.get(serialData), "empty")
}

func TestSerial_SendCancelled(t *testing.T) {
	s, _, _ := newSerial()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	n, err := s.Send(ctx, make([]byte, 100))
	require.Equal(t, serialInputCap, n)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Len(t, s.state.Input, serialInputCap)
	n, err = s.Send(ctx, nil)
	require.NoError(t, err, "nothing to send needs no room")
	require.Zero(t, n)
}

// Clearing or switching the FIFO makes room, and who waits learns it.
func TestSerial_FIFOClearWakesSender(t *testing.T) {
	for _, fcr := range []byte{fcrEnable, fcrClearRecv} {
		s, _, _ := newSerial()
		s.host(t, string(make([]byte, serialInputCap)))
		done := make(chan error, 1)
		go func() {
			_, err := s.Send(t.Context(), []byte("z"))
			done <- err
		}()
		s.set(serialIIR, fcr)
		require.NoError(t, <-done)
		require.Equal(t, byte('z'), s.get(serialData))
	}
}

// Two senders never wake only one of each other.
func TestSerial_ConcurrentSenders(t *testing.T) {
	s, _, _ := newSerial()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			_, err := s.Send(t.Context(), make([]byte, 1000))
			require.NoError(t, err)
		})
	}
	for got := 0; got < 4000; {
		if s.get(serialLSR)&lsrReady != 0 {
			s.get(serialData)
			got++
		}
	}
	wg.Wait()
}

// A slow listener stops the vCPU that writes, and nobody else.
func TestSerial_SlowOutputHoldsNoLock(t *testing.T) {
	r, w := io.Pipe()
	irq := new(edges)
	s := NewSerial(w, irq)
	done := make(chan struct{})
	go func() {
		s.set(serialData, 'x')
		close(done)
	}()
	for range 100 {
		require.NotZero(t, s.get(serialLSR)&lsrTHREmpty)
		s.set(serialSCR, 1)
	}
	s.host(t, "input still works")
	p := make([]byte, 1)
	_, err := io.ReadFull(r, p)
	require.NoError(t, err)
	<-done
	require.NoError(t, r.Close())
	s.set(serialData, 'y') // its error is nobody's business
}

func TestSerial_NoAllocation(t *testing.T) {
	s := NewSerial(io.Discard, new(edges))
	p := []byte{'x'}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		s.Write(serialData, p)
		s.Read(serialLSR, p)
	}))
}

// Firecracker kept all of the host's input for a serial port that the guest did
// not read.
func TestAdvisory_Firecracker_serial_buffer(t *testing.T) {
	s, _, _ := newSerial()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	piece := make([]byte, 1<<20)
	total := 0
	for ctx.Err() == nil {
		n, err := s.Send(ctx, piece)
		total += n
		require.Error(t, err)
		require.LessOrEqual(t, cap(s.state.Input), serialInputCap)
	}
	require.LessOrEqual(t, total, serialInputCap)
	require.Equal(t, serialInputCap, s.state.Len)
}
