package rig

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/rig/wire"
)

const (
	killAfter = 2 * time.Second  // from SIGTERM to SIGKILL on a timeout
	giveUp    = 10 * time.Second // from SIGKILL to giving up on L1
	pingEvery = 5 * time.Second
	maxPings  = 12 // unanswered, and L1 counts as dead
)

// waiter is the state of client.wait.
type waiter struct {
	*client
	alarm      <-chan time.Time
	timedOut   bool
	killed     bool
	asked      bool // the user has asked once to end it
	unanswered int
}

// wait handles signals, the time limit and the connection until the command
// ends.
func (c *client) wait(events <-chan event) (exit wire.Exit, timedOut bool, err error) {
	w := waiter{client: c}
	if c.timeout > 0 {
		// Until the command has started, in case it does not.
		w.alarm = time.After(c.timeout + bootTimeout)
	}
	// Ticks, not time: they stand still while kvmrig itself is stopped.
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case e := <-events:
			w.unanswered = 0
			switch e.kind {
			case 0:
				return exit, false, e.err
			case wire.KindExit:
				return e.exit, w.timedOut, nil
			case wire.KindStarted:
				w.started(e.started)
			}
		case <-w.alarm:
			err = w.expired()
		case s := <-c.signals:
			if sig, ok := s.(unix.Signal); ok {
				err = w.signalled(sig)
			}
		case <-tick.C:
			if w.unanswered++; w.unanswered > maxPings {
				err = fmt.Errorf("%w: no answer for %v", ErrDied, pingEvery*maxPings)
			}
			w.send(wire.KindPing, 0)
		}
		if err != nil {
			return exit, false, err
		}
	}
}

// send hands a frame to the sending goroutine. When that is stuck the frame is
// dropped: L1 does not read, and the pings will tell.
func (w *waiter) send(k wire.Kind, value uint32) {
	f := wire.Frame{Kind: k, Command: w.id}
	if k != wire.KindPing {
		f.Payload = binary.LittleEndian.AppendUint32(nil, value)
	}
	select {
	case w.control <- f:
	default:
	}
}

func (w *waiter) started(s wire.Started) {
	if w.onStart != nil {
		w.onStart(s)
	}
	if w.timeout > 0 {
		w.alarm = time.After(w.timeout)
	}
}

// expired goes one step further in ending a command that exceeds its time.
func (w *waiter) expired() error {
	switch {
	case !w.timedOut:
		w.timedOut = true
		fmt.Fprintf(w.stderr, "kvmrig: time limit of %v exceeded\n", w.timeout)
		w.send(wire.KindSignal, uint32(unix.SIGTERM))
		w.alarm = time.After(killAfter)
	case !w.killed:
		w.killed = true
		w.send(wire.KindSignal, uint32(unix.SIGKILL))
		w.alarm = time.After(giveUp)
	default:
		return &cutShort{exitTimeout, "the command could not be killed"}
	}
	return nil
}

// signalled passes a signal on; the second request to end ends the rig.
func (w *waiter) signalled(sig unix.Signal) error {
	switch sig {
	case unix.SIGWINCH:
		if w.term != nil {
			rows, cols := w.term.size()
			w.send(wire.KindResize, uint32(rows)|uint32(cols)<<16)
		}
		return nil
	case unix.SIGINT, unix.SIGTERM:
		if w.asked {
			return killedBy(sig)
		}
		w.asked = true
	}
	w.send(wire.KindSignal, uint32(sig))
	return nil
}
