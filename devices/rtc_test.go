package devices

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// clock is a clock that a test moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newRTC(s string) (*RTC, *clock) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		panic(err)
	}
	c := &clock{t}
	return NewRTC(c.now), c
}

func (r *RTC) get(reg byte) byte {
	p := make([]byte, 1)
	r.Write(rtcIndexPort, []byte{reg})
	r.Read(rtcDataPort, p)
	return p[0]
}

func (r *RTC) set(reg, v byte) {
	r.Write(rtcIndexPort, []byte{reg})
	r.Write(rtcDataPort, []byte{v})
}

func (r *RTC) all() [8]byte {
	var v [8]byte
	for i, reg := range []byte{rtcCentury, rtcYear, rtcMonth, rtcDay, rtcWeekday, rtcHours, rtcMinutes, rtcSeconds} {
		v[i] = r.get(reg)
	}
	return v
}

// Time in the four modes that register B selects; Sunday is day 1.
func TestRTC_Modes(t *testing.T) {
	r, _ := newRTC("2029-12-31T23:58:59+02:00") // 21:58:59 UTC, a Monday
	require.Equal(t, [8]byte{0x20, 0x29, 0x12, 0x31, 2, 0x21, 0x58, 0x59}, r.all(), "BCD, 24 hours")
	r.set(rtcB, rtcB24|rtcBBinary)
	require.Equal(t, [8]byte{20, 29, 12, 31, 2, 21, 58, 59}, r.all(), "binary, 24 hours")
	r.set(rtcB, 0)
	require.Equal(t, byte(rtcPM|0x09), r.get(rtcHours), "BCD, 12 hours")
	r.set(rtcB, rtcBBinary)
	require.Equal(t, byte(rtcPM|9), r.get(rtcHours), "binary, 12 hours")
}

func TestRTC_TwelveHours(t *testing.T) {
	for hour, want := range map[int]byte{0: 0x12, 1: 1, 11: 0x11, 12: rtcPM | 0x12, 13: rtcPM | 1, 23: rtcPM | 0x11} {
		r, c := newRTC("2026-11-23T00:00:00Z")
		r.set(rtcB, 0)
		c.t = c.t.Add(time.Duration(hour) * time.Hour)
		require.Equal(t, want, r.get(rtcHours), "%d h", hour)
		r.set(rtcB, rtcBSet)
		r.set(rtcB, 0)
		require.Equal(t, want, r.get(rtcHours), "%d h, set to itself", hour)
	}
}

// UIP is 1 in the 244 µs before the second ends, and never while SET.
func TestRTC_UpdateInProgress(t *testing.T) {
	r, c := newRTC("2026-11-23T10:00:00.999755Z")
	require.Equal(t, byte(rtcADivider), r.get(rtcA))
	c.t = c.t.Add(time.Microsecond)
	require.Equal(t, byte(rtcADivider|rtcAUpdating), r.get(rtcA))
	r.set(rtcB, rtcBSet|rtcB24)
	require.Equal(t, byte(rtcADivider), r.get(rtcA))
	r.set(rtcB, rtcB24)
	c.t = c.t.Add(244 * time.Microsecond)
	require.Equal(t, byte(rtcADivider), r.get(rtcA))
	r.set(rtcA, 0xff)
	require.Equal(t, byte(0x7f), r.get(rtcA), "UIP is read-only")
}

func TestRTC_StatusRegisters(t *testing.T) {
	r, _ := newRTC("2026-11-23T10:00:00Z")
	require.Equal(t, byte(rtcB24), r.get(rtcB))
	require.Zero(t, r.get(rtcC))
	require.Equal(t, byte(rtcDValid), r.get(rtcD))
	r.set(rtcC, 0xff)
	r.set(rtcD, 0)
	require.Zero(t, r.get(rtcC))
	require.Equal(t, byte(rtcDValid), r.get(rtcD))
}

// Setting the clock: time stands still, is written, and runs on from there.
func TestRTC_Set(t *testing.T) {
	r, c := newRTC("2026-11-23T10:20:30Z")
	r.set(rtcSeconds, 0x59)
	require.Equal(t, byte(0x30), r.get(rtcSeconds), "not writable while it runs")

	r.set(rtcB, rtcBSet|rtcB24)
	c.t = c.t.Add(time.Hour)
	require.Equal(t, byte(0x10), r.get(rtcHours), "stands still")
	for reg, v := range map[byte]byte{rtcCentury: 0x19, rtcYear: 0x99, rtcMonth: 0x12, rtcDay: 0x31, rtcHours: 0x23, rtcMinutes: 0x59, rtcSeconds: 0x58} {
		r.set(reg, v)
	}
	r.set(rtcB, rtcB24)
	require.Equal(t, [8]byte{0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x58}, r.all())
	c.t = c.t.Add(2 * time.Second)
	require.Equal(t, [8]byte{0x20, 0, 1, 1, 7, 0, 0, 0}, r.all(), "and runs on")
}

func TestRTC_SetInvalid(t *testing.T) {
	for reg, v := range map[byte]byte{rtcMonth: 0x13, rtcDay: 0x32, rtcHours: 0x24, rtcMinutes: 0x60, rtcSeconds: 0xff} {
		r, _ := newRTC("2026-11-23T10:20:30Z")
		before := r.all()
		r.set(rtcB, rtcBSet|rtcB24)
		r.set(reg, v)
		r.set(rtcB, rtcB24)
		require.Equal(t, before, r.all(), "register %#x = %#x is no date", reg, v)
	}
}

// The rest of the 128 bytes is memory; the index' top bit is the NMI mask.
func TestRTC_Memory(t *testing.T) {
	r, _ := newRTC("2026-11-23T10:20:30Z")
	for reg := range byte(rtcSize) {
		if _, isTime := timeRegister(time.Time{}, reg, 0); !isTime && (reg < rtcA || reg > rtcD) {
			require.Zero(t, r.get(reg))
			r.set(reg|0x80, reg+1)
			require.Equal(t, reg+1, r.get(reg))
		}
	}
	p := []byte{0}
	r.Read(rtcIndexPort, p)
	require.Equal(t, byte(0xff), p[0], "the index cannot be read")
	r.Write(rtcIndexPort, []byte{0x10, 0x55}) // one 16-bit OUT
	require.Equal(t, byte(0x55), r.get(0x10))
}
