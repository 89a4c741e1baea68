package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// deviceStory is what is known of a virtio device and was not told yet.
type deviceStory struct {
	name     string
	kind     string   // "blk", as its DeviceID says
	status   uint64   // as last written
	steps    []string // of the status
	offered  []string // feature names, as read
	accepted []string
	queues   map[int]*queueStory

	// Since when there is something to sum up, and what.
	since, latest int64
	configReads   int
	configWrites  int
	interrupts    int
	kicks         int
	chains        map[int]int
}

// queueStory is a queue as its driver sets it up.
type queueStory struct {
	max, size         string
	desc, avail, used uint64
}

// Bits of the device status (virtio 1.2 §2.1), in the order of their numbers.
var statusBits = [...]string{"ACKNOWLEDGE", "DRIVER", "DRIVER_OK", "FEATURES_OK", "", "", "NEEDS_RESET", "FAILED"}

// maxQueueStories bounds how many queues of a device are remembered.
const maxQueueStories = 64

// quiet is how long after the last activity the sum of it is told.
const quiet = int64(20 * time.Millisecond)

// access is told of an access to the device's registers, in order.
func (d *deviceStory) access(s *story, e *sandbox.TraceEvent) {
	v, _ := strconv.ParseUint(e.Value, 0, 64) // a number that we wrote
	switch {
	case e.Register == "Config":
		d.active(e)
		if e.Write {
			d.configWrites++
		} else {
			d.configReads++
		}
	case e.Register == "InterruptACK":
		d.active(e)
		d.interrupts++
	case e.Register == "QueueNotify":
		d.active(e)
		d.kicks++
	case e.Register == "DeviceID":
		d.kind = e.Note
	case e.Register == "VendorID":
		d.summary(s)
		s.line(e.Time, d.name, "a driver finds it: virtio %s, by its magic value, version and number", d.kind)
	case e.Register == "DeviceFeatures" && !e.Write:
		d.offered = appendNames(d.offered, e.Note)
	case e.Register == "DriverFeatures" && e.Write:
		d.accepted = appendNames(d.accepted, e.Note)
	case e.Register == "Status" && e.Write:
		d.setStatus(s, e, v)
	case strings.HasPrefix(e.Register, "Queue"):
		d.queue(s, e, v)
	}
}

// appendNames adds feature names; a set holds 64 at most.
func appendNames(to []string, note string) []string {
	for _, name := range strings.Fields(note) {
		if len(to) < 64 && !slices.Contains(to, name) {
			to = append(to, name)
		}
	}
	return to
}

// setStatus is told of a write to Status.
func (d *deviceStory) setStatus(s *story, e *sandbox.TraceEvent, v uint64) {
	d.summary(s)
	if v == 0 {
		d.steps = []string{"reset"}
		d.status, d.offered, d.accepted = 0, nil, nil
		clear(d.queues)
		return
	}
	for bit, name := range statusBits {
		if name != "" && v&^d.status&(1<<bit) != 0 && len(d.steps) < 16 {
			d.steps = append(d.steps, name)
		}
	}
	added := v &^ d.status
	d.status = v
	const driverOK, featuresOK, failed = 1 << 2, 1 << 3, 1 << 7
	switch {
	case added&featuresOK != 0:
		s.line(e.Time, d.name, "offers %s", strings.Join(d.offered, " "))
		s.line(e.Time, d.name, "the driver takes %s", strings.Join(d.accepted, " "))
		d.tellSteps(s, e, "the driver knows what it has")
	case added&driverOK != 0:
		d.tellSteps(s, e, "the device serves")
	case added&failed != 0:
		d.tellSteps(s, e, "the driver gives up")
	}
}

func (d *deviceStory) tellSteps(s *story, e *sandbox.TraceEvent, meaning string) {
	s.line(e.Time, d.name, "status: %s: %s", strings.Join(d.steps, ", "), meaning)
	d.steps = nil
}

// queue is told of an access to a register of the selected queue.
func (d *deviceStory) queue(s *story, e *sandbox.TraceEvent, v uint64) {
	q := d.queues[e.Queue]
	if q == nil {
		if len(d.queues) == maxQueueStories {
			return
		}
		q = &queueStory{}
		d.queues[e.Queue] = q
	}
	low := func(a *uint64) { *a = *a&^0xffffffff | v }
	high := func(a *uint64) { *a = *a&0xffffffff | v<<32 }
	switch e.Register {
	case "QueueSizeMax":
		q.max = strconv.FormatUint(v, 10)
	case "QueueSize":
		q.size = strconv.FormatUint(v, 10)
	case "QueueDescLow":
		low(&q.desc)
	case "QueueDescHigh":
		high(&q.desc)
	case "QueueDriverLow":
		low(&q.avail)
	case "QueueDriverHigh":
		high(&q.avail)
	case "QueueDeviceLow":
		low(&q.used)
	case "QueueDeviceHigh":
		high(&q.used)
	case "QueueReady":
		if e.Write && v == 1 {
			s.line(e.Time, d.name, "queue %d: %s of at most %s descriptors at %#x, available ring at %#x, used ring at %#x",
				e.Queue, q.size, q.max, q.desc, q.avail, q.used)
		}
	}
}

// used is told of chains that the device used.
func (d *deviceStory) used(s *story, e *sandbox.TraceEvent) {
	if s.all {
		s.line(e.Time, d.name, "uses %s of queue %d", many(e.Chains, "chain"), e.Queue)
		return
	}
	s.endRepeats()
	d.active(e)
	if d.chains == nil {
		d.chains = map[int]int{}
	}
	if _, ok := d.chains[e.Queue]; ok || len(d.chains) < maxQueueStories {
		d.chains[e.Queue] += e.Chains
	}
}

// active notes that there is something to sum up.
func (d *deviceStory) active(e *sandbox.TraceEvent) {
	if d.since == 0 {
		d.since = e.Time
	}
	d.latest = e.Time
}

// summary tells the activity since the last one.
func (d *deviceStory) summary(s *story) {
	if d.since == 0 {
		return
	}
	var parts []string
	if d.configReads > 0 {
		parts = append(parts, "configuration read in "+many(d.configReads, "piece"))
	}
	if d.configWrites > 0 {
		parts = append(parts, "configuration written in "+many(d.configWrites, "piece"))
	}
	if d.kicks > 0 {
		parts = append(parts, many(d.kicks, "notification")+" by exit")
	}
	queues := make([]int, 0, len(d.chains))
	for q := range d.chains {
		queues = append(queues, q)
	}
	slices.Sort(queues)
	for _, q := range queues {
		parts = append(parts, fmt.Sprintf("queue %d: %s used", q, many(d.chains[q], "chain")))
	}
	if d.interrupts > 0 {
		parts = append(parts, many(d.interrupts, "interrupt")+" acknowledged")
	}
	text := strings.Join(parts, "; ")
	if d.latest > d.since {
		text += ", in " + took(d.latest-d.since)
	}
	s.line(d.since, d.name, "%s", text)
	d.since, d.latest, d.configReads, d.configWrites, d.interrupts, d.kicks, d.chains = 0, 0, 0, 0, 0, 0, nil
}

// many is a number of things.
func many(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
