package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// story tells a trace to people: who did what, when. What a driver does in
// thirty register accesses is a line or two, and what repeats itself is
// counted.
type story struct {
	w   io.Writer
	all bool // every exit is a line

	devices map[string]*deviceStory
	said    []byte // of a line on the serial port
	divisor bool   // what is written to the serial port's first register is not said
	saidAt  int64
	exits   map[string]int
	last    repeated
}

// repeated is a line that may come again.
type repeated struct {
	at        int64
	who, what string
	n         int
}

func newStory(w io.Writer, all bool) *story {
	return &story{w: w, all: all, devices: map[string]*deviceStory{}, exits: map[string]int{}}
}

// line tells one thing. The guest's part in it is made plain.
func (s *story) line(at int64, who, format string, args ...any) {
	fmt.Fprintf(s.w, "%10.3f ms  %-12s %s\n", float64(at)/float64(time.Millisecond), plain(who), plain(fmt.Sprintf(format, args...)))
}

func (s *story) event(e *sandbox.TraceEvent) {
	s.settle(e.Time - quiet)
	switch e.Event {
	case "exit":
		s.exit(e)
	case "queue":
		s.device(e.Device).used(s, e)
	case "step":
		s.pause()
		s.line(e.Time, "machine", "%s (%s)", e.Text, took(e.Took))
	case "phase":
		s.pause()
		s.line(e.Time, "boot", "%s: %s", e.Text, took(e.Took))
	default: // needs-reset, cut, end
		s.pause()
		who := e.Device
		if who == "" {
			who = "machine"
		}
		s.line(e.Time, who, "%s: %s", e.Event, e.Text)
	}
}

// took is a duration in as many digits as it deserves.
func took(ns int64) string {
	d := time.Duration(ns)
	switch {
	case d >= 100*time.Millisecond:
		return d.Round(time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

func (s *story) device(name string) *deviceStory {
	d := s.devices[name]
	if d == nil {
		d = &deviceStory{name: name, queues: map[int]*queueStory{}}
		s.devices[name] = d
	}
	return d
}

// exit tells a VM exit, or keeps it in mind.
func (s *story) exit(e *sandbox.TraceEvent) {
	who := e.Device
	if who == "" {
		who = e.Exit
	}
	s.exits[who]++
	switch {
	case s.all:
		s.every(e)
	case e.Exit == "MMIO" && e.Register != "":
		s.endRepeats()
		s.device(e.Device).access(s, e)
	case e.Device == "serial" && e.Register == "THR" && e.Write && !s.divisor:
		s.endRepeats()
		s.serial(e)
	case e.Device == "serial" && e.Register == "LCR" && e.Write:
		// Bit 7, DLAB: the speed is next (PC16550D data sheet, §8.3).
		v, _ := strconv.ParseUint(e.Value, 0, 8)
		s.divisor = v&0x80 != 0
		s.repeat(e.Time, s.who(e), accessText(e))
	case e.Exit == "INTR":
		s.repeat(e.Time, fmt.Sprintf("vCPU %d", e.CPU), "interrupted by the host")
	default:
		s.repeat(e.Time, s.who(e), accessText(e))
	}
}

// who is the device of an exit, or the vCPU.
func (s *story) who(e *sandbox.TraceEvent) string {
	if e.Device != "" {
		return e.Device
	}
	return fmt.Sprintf("vCPU %d", e.CPU)
}

// every tells an exit as it is.
func (s *story) every(e *sandbox.TraceEvent) {
	s.line(e.Time, s.who(e), "vCPU %d %s (%s)", e.CPU, accessText(e), took(e.Took))
}

// accessText says what an exit was: "reads Status = 0xb (ACKNOWLEDGE …)".
func accessText(e *sandbox.TraceEvent) string {
	if e.Exit != "IO" && e.Exit != "MMIO" {
		return "exit " + e.Exit
	}
	verb := "reads"
	if e.Write {
		verb = "writes"
	}
	place := e.Register
	if place == "" {
		place = e.Address
		if e.Exit == "IO" {
			place = "port " + place
		}
	}
	if strings.HasPrefix(e.Register, "Queue") {
		place = fmt.Sprintf("%s of queue %d", place, e.Queue)
	}
	text := fmt.Sprintf("%s %s = %s", verb, place, e.Value)
	if e.Count > 1 {
		text += fmt.Sprintf(" and so on, %d times", e.Count)
	}
	if e.Note != "" {
		text += " (" + e.Note + ")"
	}
	if e.Device == "" {
		text += ", where nothing is"
	}
	return text
}

// repeat tells something, unless it was told last: then it is counted.
func (s *story) repeat(at int64, who, what string) {
	if s.last.n > 0 && s.last.who == who && s.last.what == what {
		s.last.n++
		return
	}
	s.endRepeats()
	s.last = repeated{at, who, what, 1}
}

func (s *story) endRepeats() {
	switch l := s.last; {
	case l.n == 1:
		s.line(l.at, l.who, "%s", l.what)
	case l.n > 1:
		s.line(l.at, l.who, "%s, %d times", l.what, l.n)
	}
	s.last = repeated{}
}

// serialLine bounds what of a line is kept; the rest is the next.
const serialLine = 256

// serial collects what is written to the serial port, line by line.
func (s *story) serial(e *sandbox.TraceEvent) {
	v, err := strconv.ParseUint(e.Value, 0, 8)
	if err != nil {
		return
	}
	if len(s.said) == 0 {
		s.saidAt = e.Time
	}
	if v != '\n' {
		s.said = append(s.said, byte(v))
	}
	if v == '\n' || len(s.said) == serialLine {
		s.endLine()
	}
}

func (s *story) endLine() {
	if len(s.said) > 0 {
		s.line(s.saidAt, "serial", "the guest says %q", strings.TrimRight(string(s.said), "\r"))
	}
	s.said = s.said[:0]
}

// pause tells everything that was kept in mind.
func (s *story) pause() {
	s.endRepeats()
	s.endLine()
	s.settle(math.MaxInt64)
}

// settle sums up the devices that were quiet since the given time, in the order
// in which they began.
func (s *story) settle(since int64) {
	var done []*deviceStory
	for _, d := range s.devices {
		if d.since != 0 && d.latest < since {
			done = append(done, d)
		}
	}
	slices.SortFunc(done, func(a, b *deviceStory) int { return cmp.Compare(a.since, b.since) })
	for _, d := range done {
		d.summary(s)
	}
}

// finish tells the rest, and counts.
func (s *story) finish() {
	s.pause()
	var total int
	names := make([]string, 0, len(s.exits))
	for name, n := range s.exits {
		total += n
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := s.exits[b] - s.exits[a]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	fmt.Fprintf(s.w, "\n%d VM exits", total)
	for i, name := range names {
		sep := ", "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(s.w, "%s%s %d", sep, plain(name), s.exits[name])
	}
	fmt.Fprintln(s.w)
}
