package devices

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestI8042_Reset(t *testing.T) {
	resets := 0
	d := NewI8042(func() { resets++ })
	for cmd := range 256 {
		before := resets
		d.Write(i8042Status, []byte{byte(cmd)})
		want := cmd >= 0xf0 && cmd&1 == 0
		require.Equal(t, want, resets > before, "command %#x", cmd)
	}
	resets = 0
	d.Write(i8042Data, []byte{0xfe})
	d.Write(i8042PortB, []byte{0xfe})
	require.Zero(t, resets, "0xfe is a command only at 0x64")
	d.Write(i8042Data, []byte{0, 0, 0, 0, 0xfe})
	require.Equal(t, 1, resets, "the fifth byte of a wide write is port 0x64")
}

// A driver's probe must end: the flush gives up after its own count, and no
// command is ever waited for.
func TestI8042_ProbeEnds(t *testing.T) {
	d := NewI8042(func() {})
	p := make([]byte, 1)
	for range 100 {
		d.Read(i8042Status, p)
		require.NotZero(t, p[0]&1, "output buffer full")
		require.Zero(t, p[0]&2, "input buffer free")
		d.Read(i8042Data, p)
		require.Equal(t, byte(0xff), p[0])
	}
}

func TestI8042_PortB(t *testing.T) {
	d := NewI8042(func() {})
	p := make([]byte, 1)
	d.Read(i8042PortB, p)
	first := p[0]
	d.Read(i8042PortB, p)
	require.Equal(t, byte(portBRefresh), first^p[0], "refresh toggles")
	require.NotZero(t, p[0]&portBTimer2, "timer 2 has expired")
	wide := make([]byte, 5)
	d.Read(0, wide)
	require.Equal(t, []byte{0xff, first, 0, 0, i8042StatusValue}, wide)
}
