package lifecycle

import (
	"fmt"
	"slices"
	"strings"
)

// slots is the number of worker processes.
const slots = 4

// nobody is no worker.
const nobody = -1

// phase is where a sandbox is in its life, as a bystander who sees everything
// would say.
type phase uint8

const (
	absent   phase = iota // the name is free
	starting              // its starter is at work
	orphan                // its starter was killed at work
	running
	draining // runs until its last command has ended
	ending   // was asked to end, and will
	stopped
	crashed
)

var phaseNames = [...]string{"absent", "starting", "orphan", "running", "draining", "ending", "stopped", "crashed"}

func (p phase) String() string { return phaseNames[p] }

// reason is why a sandbox ended (sandbox.ExitStatus.Reason).
type reason uint8

const (
	noReason reason = iota
	byStop
	byKill
	byCreator
	byCrash
	byDrain
)

var reasonNames = [...]string{"", "stopped", "killed", "creator-ended", "crashed", "drained"}

func (r reason) String() string { return reasonNames[r] }

// former is what a sandbox that does not run is, or was.
type former struct {
	phase  phase
	reason reason
	// half: it was never complete; its creator was killed.
	half bool
}

// world is one possible truth about one name. It is comparable, so that a search
// knows what it has seen.
type world struct {
	phase phase
	// id is of the creation: the guest knows it. boot counts the machines; an
	// object that a worker holds belongs to one of them.
	id, boot uint16
	// owner is the slot whose end ends the sandbox, or nobody; while it starts,
	// the slot that starts it.
	owner     int8
	detached  bool // as it was started
	ephemeral bool
	half      bool
	// reason is why it is ending, or has ended.
	reason reason
	// asked: while it starts, somebody asked it to end, for that reason.
	asked reason
	// shot: while it starts, its monitor was killed.
	shot bool
	// back is what it was before it was started.
	back former
	// held is the boot of the object that each worker holds, 0 for none; own
	// says that it is its creator's, who has not detached; command is the boot
	// in which the worker has a command that runs until told to end.
	held, command [slots]uint16
	own           [slots]bool
}

func newWorld() world { return world{owner: nobody} }

// busy: a command runs in it.
func (w world) busy() bool { return slices.Contains(w.command[:], w.boot) }

func (w world) String() string {
	var b strings.Builder
	b.WriteString(w.phase.String())
	if w.phase == absent {
		return b.String()
	}
	fmt.Fprintf(&b, " #%d", w.id)
	if w.owner != nobody {
		fmt.Fprintf(&b, " of %d", w.owner)
	}
	if w.ephemeral {
		b.WriteString(" ephemeral")
	}
	if w.half {
		b.WriteString(" half")
	}
	if w.reason != noReason {
		fmt.Fprintf(&b, " (%s)", w.reason)
	}
	return b.String()
}

// ended is w after its machine ended in order.
func (w world) ended() world {
	w.owner = nobody
	if w.phase = stopped; w.ephemeral {
		w.phase = absent
	}
	return w
}

// crash is w after its monitor ended without a word. Of an ephemeral sandbox
// the directory is left for others to sweep.
func (w world) crash() world {
	w.phase, w.reason, w.owner = crashed, byCrash, nobody
	w.asked, w.shot = noReason, false
	return w
}

// toEnd is a running w that was asked to end.
func (w world) toEnd(r reason) world {
	w.phase, w.reason = ending, r
	return w
}

// up is a starting w that has come to run.
func (w world) up() world {
	w.phase, w.half, w.reason, w.shot = running, false, noReason, false
	if w.detached {
		w.owner = nobody
	}
	if w.asked != noReason {
		w = w.toEnd(w.asked)
		w.asked = noReason
	}
	return w
}

// restore is w as it was before the start.
func (w world) restore() world {
	w.phase, w.reason, w.half = w.back.phase, w.back.reason, w.back.half
	w.owner, w.asked, w.shot = nobody, noReason, false
	return w
}

// alive: there is, or may be, a monitor.
func (w world) alive() bool {
	switch w.phase {
	case starting, orphan, running, draining, ending:
		return true
	}
	return false
}

// settled: it stays what it is until somebody does something.
func (w world) settled() bool {
	switch w.phase {
	case starting, orphan, ending:
		return false
	case draining:
		return w.busy()
	}
	return true
}

// byItself is what may become of w without anybody's doing.
func (w world) byItself() []world {
	switch w.phase {
	case ending:
		return []world{w.ended()}
	case draining:
		if !w.busy() {
			return []world{w.toEnd(byDrain)}
		}
	case orphan:
		// Its starter may have been killed before there was a monitor, or
		// before the first word was written.
		all := []world{w.crash()}
		if w.back.phase != absent {
			all = append(all, w.restore())
		}
		// The monitor cleans up what it could not start.
		if w.ephemeral && !w.shot {
			gone := w.crash()
			gone.phase = absent
			all = append(all, gone)
		}
		if !w.shot {
			if w.owner = nobody; !w.detached {
				w.asked = byCreator
			}
			all = append(all, w.up())
		}
		return all
	}
	return nil
}

// statuses are what Status may be in w. A state is written before its monitor
// is gone, and a little after its starter has the lock.
func (w world) statuses() []string {
	switch w.phase {
	case absent:
		return []string{"notfound"}
	case starting, orphan:
		if w.back.phase != absent {
			return []string{"starting", w.back.phase.String()}
		}
		return []string{"starting"}
	case draining:
		return []string{"draining"}
	case ending:
		all := []string{"running", "draining", "stopped"}
		if w.ephemeral {
			all = append(all, "notfound")
		}
		return all
	}
	return []string{w.phase.String()}
}
