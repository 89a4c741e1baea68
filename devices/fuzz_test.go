package devices

import (
	"encoding/binary"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// access is one guest access of a fuzz program: an opcode byte (write, width,
// host action), an offset byte, then the value's bytes.
func runProgram(t *testing.T, program []byte, size uint64, h Handler, host func(op, v byte)) {
	b := NewBus()
	const base = 0x100
	require.NoError(t, b.Map("device", base, size, h))
	for len(program) >= 2 {
		op, off := program[0], program[1]
		program = program[2:]
		width := int(op&15) + 1 // up to 16: beyond what a processor can
		addr := base + uint64(off)%(size+2)
		p := make([]byte, width)
		switch {
		case op&0x80 != 0:
			n := copy(p, program)
			program = program[n:]
			b.Write(addr, p)
		case op&0x40 != 0 && host != nil:
			host(op, off)
		default:
			fits := width <= 8 && addr+uint64(width) <= base+size
			require.Equal(t, fits, b.Read(addr, p))
		}
	}
}

func seeds(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x80, 0, 0xfe, 0x00, 0})
	f.Add([]byte{0x80, 4, 0xfe, 0x00, 4, 0x80, 1, 0xff})
	f.Add([]byte{0x87, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0x07, 0})
	f.Add([]byte{0x80, 2, 0xc7, 0x80, 4, 0x1b, 0x80, 1, 0x0f, 0x80, 0, 'x', 0, 2, 0, 5, 0x40, 9, 0, 0})
	f.Add([]byte{0x80, 0, 0x0b, 0x80, 1, 0x80, 0x80, 0, 0x32, 0x80, 1, 0xff, 0x80, 0, 0x0b, 0x80, 1, 0x02, 0, 1})
	all := make([]byte, 0, 256*3)
	for i := range 256 {
		all = append(all, 0x80|byte(i), byte(i*7), byte(i))
	}
	f.Add(all)
}

// FuzzSerial_Row9: any program of accesses is harmless, and no more input is
// buffered than the cap.
func FuzzSerial_Row9(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, program []byte) {
		irq := new(edges)
		s := NewSerial(io.Discard, irq)
		runProgram(t, program, 8, s, func(_, v byte) {
			s.offer(program[:min(int(v), len(program))])
		})
		require.LessOrEqual(t, s.state.Len, serialInputCap)
		require.GreaterOrEqual(t, s.state.Len, 0)
		require.Less(t, s.state.Head, serialInputCap)
		// Whatever the guest did, a driver that sets it up afresh has a port.
		s.set(serialMCR, 0)
		s.set(serialIER, 0)
		s.set(serialLCR, 3)
		s.set(serialIIR, fcrEnable|fcrClearRecv)
		s.get(serialLSR)
		require.Equal(t, byte(lsrTHREmpty|lsrIdle), s.get(serialLSR))
		require.Equal(t, 1, s.offer([]byte("a")))
		require.Equal(t, byte('a'), s.get(serialData))
	})
}

// FuzzRTC_Row9: any program of accesses, with a clock that jumps, is harmless.
func FuzzRTC_Row9(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, program []byte) {
		now := time.Unix(1_800_000_000, 0)
		r := NewRTC(func() time.Time { return now })
		runProgram(t, program, 2, r, func(op, v byte) {
			now = now.Add(time.Duration(int8(v)) << (op & 15) * time.Minute)
		})
		r.set(rtcB, rtcB24)
		for _, v := range r.all() {
			require.LessOrEqual(t, v&0xf, byte(9), "BCD")
			require.LessOrEqual(t, v>>4, byte(9), "BCD")
		}
	})
}

// FuzzI8042_Row9: any program of accesses is harmless.
func FuzzI8042_Row9(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, program []byte) {
		d := NewI8042(func() {})
		runProgram(t, program, 5, d, nil)
		p := make([]byte, 1)
		d.Read(i8042Status, p)
		require.Equal(t, byte(i8042StatusValue), p[0])
	})
}

// FuzzExit_Row9: only a write of one byte at offset 0 exits.
func FuzzExit_Row9(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, program []byte) {
		runProgram(t, program, 1, NewExit(func(uint8) {}), nil)
	})
}

// FuzzBus_T84: whatever is mapped and accessed, an access reaches the device
// that holds all of it, or none.
func FuzzBus_T84(f *testing.F) {
	f.Add([]byte{0, 4, 4, 4, 2, 9}, uint64(3), uint8(4))
	f.Add([]byte{}, uint64(0), uint8(0))
	f.Fuzz(func(t *testing.T, windows []byte, addr uint64, width uint8) {
		b := NewBus()
		var mapped [][2]uint64
		for i := 0; i+1 < len(windows); i += 2 {
			base, size := uint64(windows[i]), uint64(windows[i+1])
			if b.Map("w", base, size, NewExit(func(uint8) {})) == nil {
				mapped = append(mapped, [2]uint64{base, size})
			}
		}
		p := binary.AppendUvarint(nil, addr)[:1]
		p = append(p, make([]byte, width)...)[:width]
		want := false
		for _, w := range mapped {
			want = want || width >= 1 && width <= 8 && addr >= w[0] && addr < w[0]+w[1] && uint64(width) <= w[0]+w[1]-addr
		}
		require.Equal(t, want, b.Read(addr, p))
		require.Equal(t, want, b.Write(addr, p))
	})
}
