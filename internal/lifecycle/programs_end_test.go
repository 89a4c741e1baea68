package lifecycle

// The operations that end a sandbox, and those that look.

// asks is the reason that o gives.
func (o op) asks() reason {
	switch o.Kind {
	case opKill:
		return byKill
	case opDrain:
		return byDrain
	}
	return byStop
}

// toEnd is what becomes of a sandbox with a machine when o asks it to end.
func (o op) toEnd(w world) []world {
	switch {
	case o.Kind == opDrain:
		if w.phase == running {
			w.phase = draining
		}
		return []world{w}
	case w.phase != ending:
		return []world{w.toEnd(o.asks())}
	case o.Kind == opKill && w.reason != byKill:
		// It cuts short what goes on, or comes too late for that.
		return []world{w, w.toEnd(byKill)}
	}
	return []world{w}
}

// stopHeld is Stop and Wait, Kill or Close of an object: at 1 it waits.
func (o op) stopHeld(pc int8, boot uint16, w world) []outcome {
	if pc == 0 {
		if boot = w.held[o.Slot]; boot == 0 {
			return done(w, rNoObject)
		}
		if o.Kind == opClose && !w.own[o.Slot] {
			w.held[o.Slot] = 0
			return done(w, rOK)
		}
	}
	mine := w.boot == boot
	if mine && w.alive() {
		if pc == 1 {
			return nil
		}
		var all []outcome
		for _, to := range o.toEnd(w) {
			all = append(all, outcome{w: to, pc: 1, boot: boot})
		}
		return all
	}
	var all []outcome
	if mine && w.ephemeral && w.phase == crashed {
		// What its monitor could not delete.
		w.phase = absent
	}
	if o.Kind == opClose {
		w.held[o.Slot], w.own[o.Slot] = 0, false
	}
	switch {
	case o.Kind != opStop:
		return append(all, done(w, rOK)...)
	case mine && w.reason != noReason:
		return append(all, done(w, "ok:"+w.reason.String())...)
	}
	return append(all, done(w, "ok:*")...)
}

// stopNamed is Stop and Wait by name: at 2 it waits.
func (o op) stopNamed(pc int8, boot uint16, w world) []outcome {
	switch {
	case w.phase == absent && pc == 0:
		return done(w, rNotFound)
	case pc == 0:
		return next(w, 1)
	case w.phase == absent:
		return done(w, rNotFound, "ok:*")
	case pc == 1:
		var all []outcome
		for _, a := range o.ask(w) {
			if a.result == rOK {
				a = outcome{w: a.w, pc: 2, boot: w.boot}
			}
			all = append(all, a)
		}
		return all
	case w.boot != boot:
		// Started again: the end that was asked for has been.
		return done(w, "ok:*")
	case w.alive():
		return nil
	}
	return done(w, "ok:"+w.reason.String())
}

// ask tells a sandbox by name to end, and does not wait. It has been found
// before.
func (o op) ask(w world) []outcome {
	if o.Held {
		switch boot := w.held[o.Slot]; {
		case boot == 0:
			return done(w, rNoObject)
		case boot != w.boot:
			return done(w, rOK)
		}
	}
	switch w.phase {
	case absent:
		if o.Held {
			return done(w, rOK)
		}
		return done(w, rNotFound)
	case starting, orphan:
		all := done(w, rNotRunning)
		if o.Kind != opDrain {
			w.asked = o.asks()
			all = append(all, done(w, rOK)...)
		}
		return all
	case running, draining, ending:
		var all []outcome
		for _, to := range o.toEnd(w) {
			all = append(all, done(to, rOK)...)
		}
		if o.Kind == opDrain && w.phase == ending {
			all = append(all, done(w, rNotRunning)...)
		}
		return all
	}
	return done(w, rOK)
}

func (o op) remove(pc int8, w world) []outcome {
	switch {
	case w.phase == absent:
		return done(w, rNotFound)
	case pc == 0:
		return next(w, 1)
	case w.alive():
		return done(w, rRunning)
	}
	w.phase = absent
	return done(w, rOK)
}

// list sweeps first: an ephemeral sandbox that nobody holds is not kept.
func (o op) list(pc int8, w world) []outcome {
	if pc == 0 {
		if w.ephemeral && w.phase == crashed {
			w.phase = absent
		}
		return next(w, 1)
	}
	return done(w, w.statuses()...)
}

func (o op) killMonitor(w world) []outcome {
	var all []outcome
	if w.phase != running && w.phase != draining {
		all = done(w, rNone)
	}
	switch w.phase {
	case starting:
		// Too late, it goes on as a running one's.
		w.shot = true
		return append(all, done(w, rKilled)...)
	case orphan:
		w.shot = true
		return append(all, done(w, rKilled)...)
	case running, draining:
		return append(all, done(w.crash(), rKilled)...)
	case ending:
		return append(append(all, done(w.crash(), rKilled)...), done(w.ended(), rKilled)...)
	}
	return append(all, done(w, rKilled)...)
}

// killWorker is what becomes of w when a worker is killed.
func (w world) killWorker(slot int) world {
	w.held[slot], w.own[slot], w.command[slot] = 0, false, 0
	if w.owner != int8(slot) {
		return w
	}
	switch w.phase {
	case starting:
		w.phase = orphan
	case running, draining:
		w = w.toEnd(byCreator)
	}
	return w
}
