package devices

import (
	"sync"
	"time"
)

// The Motorola MC146818A real-time clock and its battery-backed memory, as a
// PC has them at ports 0x70 (index) and 0x71 (data). Register numbers and bits
// are those of the MC146818A data sheet, "Address Map" and "Registers"; the
// century is where PC clones keep it. There are no alarms, no periodic
// interrupt and no square wave: the registers exist, nothing happens.
const (
	rtcIndexPort = 0
	rtcDataPort  = 1

	rtcSeconds = 0x00
	rtcMinutes = 0x02
	rtcHours   = 0x04
	rtcWeekday = 0x06 // 1 is Sunday
	rtcDay     = 0x07
	rtcMonth   = 0x08
	rtcYear    = 0x09
	rtcA       = 0x0a
	rtcB       = 0x0b
	rtcC       = 0x0c
	rtcD       = 0x0d
	rtcCentury = 0x32
	rtcSize    = 0x80

	rtcIndexMask = 0x7f // the top bit of the index port masks the NMI

	rtcAUpdating = 1 << 7 // UIP, read-only
	rtcADivider  = 0x26   // 32.768 kHz, periodic rate 1.024 kHz: what a BIOS sets

	rtcBSet    = 1 << 7 // the time stands still and may be written
	rtcBBinary = 1 << 2 // else BCD
	rtcB24     = 1 << 1 // else 12 hours, with PM in the top bit

	rtcDValid = 1 << 7 // VRT: the battery is good

	rtcPM = 1 << 7

	// UIP is 1 for t_BUC before each update, so that who reads it as 0 has
	// that long to read the time. The update itself takes no time here.
	rtcBeforeUpdate = 244 * time.Microsecond
)

// RTC is the clock. Its window is the two ports from 0x70.
type RTC struct {
	now func() time.Time

	mu    sync.Mutex
	state rtcState // guarded by mu
}

type rtcState struct {
	Index  uint8
	Offset time.Duration  // the guest's clock less the host's
	Set    bool           // rtcBSet: Regs hold the time
	Regs   [rtcSize]uint8 // what is stored, time registers only while Set
}

// NewRTC returns a clock that shows now's time in UTC. A guest may set it: it
// then runs on from there, without effect on now's clock.
func NewRTC(now func() time.Time) *RTC {
	r := &RTC{now: now}
	r.state.Regs[rtcA] = rtcADivider
	r.state.Regs[rtcB] = rtcB24
	return r
}

// Read serves single bytes; a wider read is one of consecutive ports.
func (r *RTC) Read(off uint64, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range p {
		p[i] = 0xff // the index port cannot be read back
		if off+uint64(i) == rtcDataPort {
			p[i] = r.load(r.state.Index)
		}
	}
}

// Write takes single bytes; a wider write is one of consecutive ports.
func (r *RTC) Write(off uint64, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, v := range p {
		switch off + uint64(i) {
		case rtcIndexPort:
			r.state.Index = v & rtcIndexMask
		case rtcDataPort:
			r.store(r.state.Index, v)
		}
	}
}

// load reads a register; called with r.mu held.
func (r *RTC) load(reg uint8) uint8 {
	s := &r.state
	switch reg {
	case rtcA:
		if !s.Set && time.Duration(r.time().Nanosecond()) >= time.Second-rtcBeforeUpdate {
			return s.Regs[rtcA] | rtcAUpdating
		}
		return s.Regs[rtcA]
	case rtcC:
		return 0 // no interrupt is ever pending
	case rtcD:
		return rtcDValid
	}
	if v, ok := timeRegister(r.time(), reg, s.Regs[rtcB]); ok && !s.Set {
		return v
	}
	return s.Regs[reg]
}

// store writes a register; called with r.mu held.
func (r *RTC) store(reg, v uint8) {
	s := &r.state
	switch reg {
	case rtcA:
		s.Regs[rtcA] = v &^ rtcAUpdating
	case rtcB:
		s.Regs[rtcB] = v
		if set := v&rtcBSet != 0; set != s.Set {
			r.hold(set)
		}
	case rtcC, rtcD: // read-only
	default:
		// Time registers are writable while Set only. Linux does so too.
		if _, isTime := timeRegister(time.Time{}, reg, 0); !isTime || s.Set {
			s.Regs[reg] = v
		}
	}
}

// hold stops the clock for setting, or starts it with what was set. A date
// that does not exist is dropped: the clock runs on as before.
func (r *RTC) hold(set bool) {
	s := &r.state
	if set {
		now := r.time()
		for reg := range uint8(rtcSize) {
			if v, ok := timeRegister(now, reg, s.Regs[rtcB]); ok {
				s.Regs[reg] = v
			}
		}
	} else if t, ok := s.decode(); ok {
		s.Offset = t.Sub(r.now())
	}
	s.Set = set
}

// time returns the guest's time.
func (r *RTC) time() time.Time { return r.now().Add(r.state.Offset).UTC() }

// timeRegister returns a time register's value at t in the mode that register
// B says. It reports false if reg is no time register.
func timeRegister(t time.Time, reg, b uint8) (uint8, bool) {
	var v int
	switch reg {
	case rtcSeconds:
		v = t.Second()
	case rtcMinutes:
		v = t.Minute()
	case rtcHours:
		h := t.Hour()
		if b&rtcB24 != 0 {
			return encode(h, b), true
		}
		var pm uint8
		if h >= 12 {
			pm = rtcPM
		}
		return encode((h+11)%12+1, b) | pm, true
	case rtcWeekday:
		v = int(t.Weekday()) + 1
	case rtcDay:
		v = t.Day()
	case rtcMonth:
		v = int(t.Month())
	case rtcYear:
		v = t.Year() % 100
	case rtcCentury:
		v = t.Year() / 100 % 100
	default:
		return 0, false
	}
	return encode(v, b), true
}

// decode returns the time that the registers hold.
func (s *rtcState) decode() (time.Time, bool) {
	b := s.Regs[rtcB]
	get := func(reg int) int { return decode(s.Regs[reg], b) }
	hour, ok := get(rtcHours), true
	if b&rtcB24 == 0 {
		hour = decode(s.Regs[rtcHours]&^rtcPM, b)
		ok = hour >= 1 && hour <= 12
		hour %= 12
		if s.Regs[rtcHours]&rtcPM != 0 {
			hour += 12
		}
	}
	year := get(rtcCentury)*100 + get(rtcYear)
	t := time.Date(year, time.Month(get(rtcMonth)), get(rtcDay), hour, get(rtcMinutes), get(rtcSeconds), 0, time.UTC)
	// time.Date normalizes what is out of range; the date is valid if it did not.
	return t, ok && t.Year() == year && int(t.Month()) == get(rtcMonth) && t.Day() == get(rtcDay) &&
		t.Hour() == hour && t.Minute() == get(rtcMinutes) && t.Second() == get(rtcSeconds)
}

func encode(v int, b uint8) uint8 {
	if b&rtcBBinary != 0 {
		return uint8(v)
	}
	return uint8(v/10<<4 | v%10)
}

func decode(v, b uint8) int {
	if b&rtcBBinary != 0 {
		return int(v)
	}
	return int(v>>4)*10 + int(v&0xf)
}
