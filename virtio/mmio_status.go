package virtio

import (
	"errors"
	"sync/atomic"
)

// activation is one life of a device, from DRIVER_OK to reset.
type activation struct {
	queues []*Queue
	failed atomic.Bool
}

// stop ends all queues; their workers end by themselves.
func (a *activation) stop() {
	for _, q := range a.queues {
		if q != nil {
			q.Stop()
		}
	}
}

// offered is the set of features that the driver may choose from.
func (t *MMIO) offered() uint64 {
	return t.dev.Features()&deviceFeatures | transportFeatures
}

// status is the Status register. Called with t.mu held.
func (t *MMIO) status() uint32 {
	t.intr.Lock()
	defer t.intr.Unlock()
	if t.intr.needsReset {
		return t.regs.Status | StatusNeedsReset
	}
	return t.regs.Status
}

// generation is the ConfigGeneration register. Called with t.mu held.
func (t *MMIO) generation() uint32 {
	var n uint32
	if g, ok := t.dev.(ConfigGenerator); ok {
		t.guard("read generation", func() { n = g.ConfigGeneration() })
	}
	t.intr.Lock()
	defer t.intr.Unlock()
	return n + t.intr.generation
}

// acceptFeatures writes DriverFeatures, which only a driver that has said that
// it is one and has not finished choosing may do (T4). Called with t.mu held.
func (t *MMIO) acceptFeatures(v uint32) {
	if t.status() != StatusAcknowledge|StatusDriver {
		return
	}
	f := &t.regs.DriverFeatures
	switch t.regs.DriverFeaturesSel {
	case 0:
		*f = *f&^0xffffffff | uint64(v)
	case 1:
		*f = *f&0xffffffff | uint64(v)<<32
	default:
		t.regs.BadFeatures = t.regs.BadFeatures || v != 0
	}
}

// writeStatus moves the status one step on. The only steps are the four of
// virtio 1.2 §3.1.1, each from its predecessor; FAILED, from anywhere; and zero,
// which resets. Everything else is ignored (T3). Called with t.mu held.
func (t *MMIO) writeStatus(v uint32) {
	if v == 0 {
		t.reset()
		return
	}
	cur := t.regs.Status
	v &^= StatusNeedsReset // the driver writes back what it read
	if v&cur != cur {
		return // "The driver MUST NOT clear a device status bit", §2.1.1
	}
	step := v &^ cur
	if step == StatusFailed {
		t.regs.Status |= StatusFailed
		return
	}
	if t.status() != cur {
		return // NEEDS_RESET: only a reset helps (T43)
	}
	switch {
	case step == StatusAcknowledge && cur == 0,
		step == StatusDriver && cur == StatusAcknowledge:
		t.regs.Status = v
	case step == StatusFeaturesOK && cur == StatusAcknowledge|StatusDriver:
		f := t.regs.DriverFeatures
		if f&^t.offered() != 0 || f&FeatureVersion1 == 0 || t.regs.BadFeatures {
			return // §2.2.2: refuse by not setting the bit (T4)
		}
		t.regs.Status = v
	case step == StatusDriverOK && cur == StatusAcknowledge|StatusDriver|StatusFeaturesOK:
		t.regs.Status = v
		t.activate()
	}
}

// activate builds the queues from the frozen registers and starts the device.
// Called with t.mu held.
func (t *MMIO) activate() {
	act := &activation{queues: make([]*Queue, len(t.max))}
	t.intr.Lock()
	t.intr.active = act
	t.intr.Unlock()
	for i, r := range t.regs.Queues {
		if !r.Ready {
			continue
		}
		q, err := t.newQueue(i)
		if err != nil {
			t.needsReset(act, err) // cannot be: checked when it became ready
			return
		}
		q.index, q.kick = i, t.kick[i]
		q.signal = func() { t.raise(act, InterruptUsed) }
		act.queues[i] = q
	}
	a := Activation{
		Mem:           t.mem,
		Features:      t.regs.DriverFeatures,
		Queues:        act.queues,
		NeedsReset:    func(err error) { t.needsReset(act, err) },
		ConfigChanged: func() { t.configChanged(act) },
		Activity: func(queue, chains int) {
			if t.trace.Load() != nil {
				t.emit(Event{Kind: EventQueue, Queue: queue, Chains: chains})
			}
		},
	}
	if err := Guard(func() error { return t.dev.Activate(a) }); err != nil {
		t.needsReset(act, &Error{"activate", err})
	}
}

// reset is what writing zero to Status does: stop and join the workers first,
// only then show a status of zero (T37; virtio 1.2 §2.4.1). Called with t.mu
// held.
func (t *MMIO) reset() {
	t.intr.Lock()
	act := t.intr.active
	t.intr.active = nil // from here on, no interrupt
	t.intr.Unlock()
	if act != nil {
		act.stop()
	}
	err := Guard(func() error { t.dev.Reset(); return nil })
	queues := t.regs.Queues
	clear(queues)
	t.regs = registers{Queues: queues}
	t.intr.Lock()
	t.intr.status = 0
	t.intr.needsReset = err != nil // a device that cannot even be reset stays broken
	t.intr.Unlock()
	if err != nil {
		t.log.warn("virtio: device cannot be reset", "device", t.name, "err", err)
	}
}

// raise sends a notification of the given kind. Called without t.mu.
func (t *MMIO) raise(act *activation, bit uint32) {
	t.intr.Lock()
	defer t.intr.Unlock()
	if t.intr.active != act {
		return // reset meanwhile: not a word any more (§2.4.1)
	}
	t.intr.status |= bit
	if err := t.irq.Trigger(); err != nil {
		t.log.warn("virtio: interrupt lost", "device", t.name, "err", err)
	}
}

func (t *MMIO) configChanged(act *activation) {
	t.intr.Lock()
	t.intr.generation++ // T12
	t.intr.Unlock()
	t.raise(act, InterruptConfig)
}

// needsReset gives the device up: DEVICE_NEEDS_RESET, a configuration change
// notification (virtio 1.2 §2.1.2), and no queue goes on (T43).
func (t *MMIO) needsReset(act *activation, err error) {
	if act == nil || errors.Is(err, ErrStopped) || !act.failed.CompareAndSwap(false, true) {
		return
	}
	act.stop()
	t.intr.Lock()
	current := t.intr.active == act
	if current {
		t.intr.needsReset = true
	}
	t.intr.Unlock()
	if !current {
		return
	}
	t.raise(act, InterruptConfig)
	t.log.warn("virtio: device needs reset", "device", t.name, "err", err)
	t.emit(Event{Kind: EventNeedsReset, Err: err})
}

// guard runs a device's method on a vCPU's thread; should it panic, the device
// needs a reset (T45). Called with t.mu held.
func (t *MMIO) guard(op string, f func()) {
	err := Guard(func() error { f(); return nil })
	if err == nil {
		return
	}
	t.intr.Lock()
	act := t.intr.active
	t.intr.needsReset = true
	t.intr.Unlock()
	t.needsReset(act, &Error{op, err})
	if act == nil {
		t.log.warn("virtio: device needs reset", "device", t.name, "err", err)
	}
}
