package lifecycle

import (
	"fmt"
	"strings"
)

// kind is what is done.
type kind string

const (
	opCreate  kind = "create"
	opStart   kind = "start"
	opConnect kind = "connect"
	opDetach  kind = "detach"
	opClose   kind = "close"
	opExec    kind = "exec"
	opBusy    kind = "busy"    // start a command that runs until told to end
	opRelease kind = "release" // tell it
	opDrain   kind = "drain"
	opStop    kind = "stop" // and wait
	opKill    kind = "kill"
	opRemove  kind = "remove"
	opStatus  kind = "status"
	opList    kind = "list"
	// These are the driver's own doing.
	opKillWorker  kind = "SIGKILL worker"
	opKillMonitor kind = "SIGKILL monitor"
)

// op is one operation of one worker on one name.
type op struct {
	Kind kind
	Slot int    `json:"-"`
	Name string // "" of opKillWorker
	// ID of a creation is the guest's to tell.
	ID int `json:",omitempty"`
	// Held uses the worker's object; without it the name alone is used.
	Held      bool `json:",omitempty"`
	Detached  bool `json:",omitempty"` // of create and start
	Ephemeral bool `json:",omitempty"` // of create
	// Cancel, of create and start: the context ends, early or late.
	Cancel bool `json:",omitempty"`
	// At is when in a step it begins, and CancelAt when after that its context
	// ends: in parts of a boot's time.
	At       float64 `json:"-"`
	CancelAt float64 `json:"-"`
}

func (o op) String() string {
	var b strings.Builder
	if o.Slot != nobody && o.Kind != opKillWorker && o.Kind != opKillMonitor {
		fmt.Fprintf(&b, "worker %d: ", o.Slot)
	}
	b.WriteString(string(o.Kind))
	if o.Kind == opKillWorker {
		fmt.Fprintf(&b, " %d", o.Slot)
	} else {
		b.WriteString(" " + o.Name)
	}
	for _, f := range []struct {
		set  bool
		text string
	}{{o.Held, "held"}, {o.Detached, "detached"}, {o.Ephemeral, "ephemeral"}} {
		if f.set {
			b.WriteString(" " + f.text)
		}
	}
	if o.At > 0 {
		fmt.Fprintf(&b, " at %.2f", o.At)
	}
	if o.Cancel {
		fmt.Fprintf(&b, " cancelled after %.2f", o.CancelAt)
	}
	return b.String()
}

// The results that a worker reports, beside a status, "ok:" and an id or a
// reason, and what it has no word for ("other: …").
const (
	rOK         = "ok"
	rExists     = "exists"
	rNotFound   = "notfound"
	rRunning    = "running"
	rNotRunning = "notrunning"
	rDraining   = "draining"
	rBoot       = "boot"     // a BootError
	rContext    = "context"  // the context ended
	rLost       = "lost"     // a command whose machine ended, or that was killed
	rNoObject   = "noobject" // the worker holds none
	rNoCommand  = "nocommand"
	rHasCommand = "hascommand"
	rGone       = "gone" // the worker was killed before it could say
	rKilled     = "killed"
	rNone       = "none" // there was no monitor to kill
)

// outcome is what one atomic step of an operation may come to.
type outcome struct {
	w world
	// result is told if the operation is done; a "*" at its end stands for
	// anything. While it is "" the operation goes on at pc, with boot.
	result string
	pc     int8
	boot   uint16
}

func done(w world, results ...string) []outcome {
	var all []outcome
	for _, r := range results {
		all = append(all, outcome{w: w, result: r})
	}
	return all
}

func next(w world, pc int8) []outcome { return []outcome{{w: w, pc: pc, boot: w.boot}} }

// step is what o may do next: pc and boot are its own memory.
func (o op) step(pc int8, boot uint16, w world) []outcome {
	switch o.Kind {
	case opCreate:
		return o.create(pc, boot, w)
	case opStart:
		return o.start(pc, boot, w)
	case opConnect:
		return o.connect(pc, w)
	case opExec, opBusy:
		return o.exec(pc, boot, w)
	case opRelease:
		return o.release(w)
	case opDetach:
		return o.detach(w)
	case opStop, opClose:
		if o.Held {
			return o.stopHeld(pc, boot, w)
		}
		return o.stopNamed(pc, boot, w)
	case opKill:
		if o.Held {
			return o.stopHeld(pc, boot, w)
		}
		return o.ask(w)
	case opDrain:
		return o.ask(w)
	case opRemove:
		return o.remove(pc, w)
	case opStatus:
		return done(w, w.statuses()...)
	case opList:
		return o.list(pc, w)
	case opKillMonitor:
		return o.killMonitor(w)
	}
	panic("no program for " + o.Kind)
}

func (o op) create(pc int8, boot uint16, w world) []outcome {
	if pc > 0 {
		return o.bringUp(pc, boot, w)
	}
	var all []outcome
	if o.Cancel {
		all = done(w, rContext)
	}
	if w.phase != absent {
		return append(all, done(w, rExists)...)
	}
	w.id, w.ephemeral, w.half = uint16(o.ID), o.Ephemeral, true
	return append(all, next(o.begin(w), 2)...)
}

func (o op) start(pc int8, boot uint16, w world) []outcome {
	var all []outcome
	if pc < 2 && o.Cancel {
		all = done(w, rContext)
	}
	switch {
	case pc >= 2:
		return o.bringUp(pc, boot, w)
	case w.phase == absent:
		return append(all, done(w, rNotFound)...)
	case pc == 0:
		return append(all, next(w, 1)...)
	case w.alive():
		return append(all, done(w, rRunning)...)
	}
	return append(all, next(o.begin(w), 2)...)
}

// begin is w when the lock is taken for a start.
func (o op) begin(w world) world {
	w.back = former{w.phase, w.reason, w.half}
	w.phase, w.owner, w.detached = starting, int8(o.Slot), o.Detached
	w.asked, w.shot = noReason, false
	w.boot++
	return w
}

// bringUp: at 2 the monitor boots, at 3 commands can run, at 4 it has failed,
// with or without a word written down.
func (o op) bringUp(pc int8, boot uint16, w world) []outcome {
	mine := w.boot == boot
	failed := []string{rBoot}
	if o.Cancel {
		failed = append(failed, rContext)
	}
	switch {
	case pc == 4:
		all := done(w, failed...)
		if mine && w.phase == crashed {
			// A creation is undone; a start goes back unless there was a word.
			back := w.restore()
			if w.back.phase == absent {
				return append(done(back, failed...), all...)
			}
			all = append(all, done(back, failed...)...)
		}
		return all
	case mine && w.phase == starting:
		var all []outcome
		if w.shot || w.asked != noReason || o.Cancel {
			all = append(all, outcome{w: w.crash(), pc: 4, boot: boot})
		}
		if w.half && w.back.phase != absent {
			// Not all that a start needs was there yet.
			all = append(all, done(w.crash(), "other: *")...)
		}
		if !w.shot {
			all = append(all, outcome{w: w.up(), pc: 3, boot: boot})
		}
		return all
	case pc == 2:
		// Somebody removed, or even took, what failed.
		return done(w, failed...)
	}
	var all []outcome
	if o.Cancel && mine && w.alive() {
		all = append(all, outcome{w: w.crash(), pc: 4, boot: boot})
	}
	if mine && w.phase == crashed {
		all = append(all, outcome{w: w, pc: 4, boot: boot})
	}
	w.held[o.Slot], w.own[o.Slot] = boot, !o.Detached
	return append(all, done(w, rOK)...)
}

func (o op) connect(pc int8, w world) []outcome {
	switch {
	case w.phase == absent && pc == 0:
		return done(w, rNotFound)
	case pc == 0:
		return next(w, 1)
	case w.phase == absent:
		return done(w, rNotFound, rNotRunning)
	}
	var all []outcome
	if w.phase != running && w.phase != draining {
		all = done(w, rNotRunning)
	}
	if w.phase == running || w.phase == draining || w.phase == ending {
		w.held[o.Slot], w.own[o.Slot] = w.boot, false
		all = append(all, done(w, rOK)...)
	}
	return all
}

// exec of a held object begins at 2, where a connection of its own has been
// made otherwise.
func (o op) exec(pc int8, boot uint16, w world) []outcome {
	if o.Kind == opBusy && w.command[o.Slot] != 0 {
		return done(w, rHasCommand)
	}
	switch {
	case pc == 0 && o.Held:
		if boot = w.held[o.Slot]; boot == 0 {
			return done(w, rNoObject)
		}
		return []outcome{{w: w, pc: 2, boot: boot}}
	case pc < 2:
		all := o.connect(pc, w)
		for i := range all {
			if all[i].result == rOK {
				all[i] = outcome{w: w, pc: 2, boot: w.boot}
			}
		}
		return all
	}
	mine := w.boot == boot
	lost := []string{rLost, rNotRunning}
	switch {
	case mine && w.phase == running:
		ok := fmt.Sprintf("ok:%d", w.id)
		if o.Kind == opBusy {
			w.command[o.Slot], ok = boot, rOK
			return done(w, ok)
		}
		// It may be in flight when something happens to the machine.
		return append(done(w, ok), outcome{w: w, pc: 3, boot: boot})
	case mine && w.phase == draining && pc == 2:
		return done(w, rDraining)
	case mine && w.phase == draining, mine && w.phase == ending:
		all := done(w, append(lost, rDraining)...)
		if o.Kind == opExec {
			return append(all, done(w, fmt.Sprintf("ok:%d", w.id))...)
		}
		w.command[o.Slot] = boot
		return append(all, done(w, rOK)...)
	case pc == 3:
		return done(w, append(lost, fmt.Sprintf("ok:%d", w.id))...)
	case mine && w.phase == crashed:
		// A connection may be made, and cut.
		return done(w, lost...)
	}
	return done(w, rNotRunning)
}

func (o op) release(w world) []outcome {
	boot := w.command[o.Slot]
	w.command[o.Slot] = 0
	switch {
	case boot == 0:
		return done(w, rNoCommand)
	case boot == w.boot && (w.phase == running || w.phase == draining):
		return done(w, rOK)
	case boot == w.boot && w.phase == ending:
		return done(w, rOK, rLost)
	}
	return done(w, rLost, rOK)
}

func (o op) detach(w world) []outcome {
	boot := w.held[o.Slot]
	switch {
	case boot == 0:
		return done(w, rNoObject)
	case !w.own[o.Slot]:
		return done(w, rOK)
	case boot != w.boot || !w.alive():
		return done(w, rNotRunning)
	}
	let := w
	let.own[o.Slot], let.owner = false, nobody
	all := done(let, rOK)
	if w.phase == ending {
		all = append(all, done(w, rNotRunning)...)
	}
	return all
}
