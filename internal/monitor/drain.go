package monitor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sandpit-vm/sandpit/guest/proto"
	"github.com/sandpit-vm/sandpit/internal/state"
)

// drainer lets a sandbox run dry: nothing new begins in it, and when the last
// command has ended it stops. The agent enforces it, for commands come over
// connections that the monitor does not look into.
type drainer struct {
	mu      sync.Mutex
	begun   bool // nothing new is admitted, and the state says so
	awaited bool // awaitDrained was started
}

// drain begins it. When it returns nil, nothing new is admitted any more. A
// second call does nothing, nor does one that the machine's end overtakes.
func (m *monitor) drain() error {
	m.drainer.mu.Lock()
	defer m.drainer.mu.Unlock()
	if m.drainer.begun {
		return nil
	}
	if m.status() == state.Starting {
		return errStarting // its patches are not done
	}
	ctx, cancel := context.WithTimeout(m.link.runCtx, callTimeout)
	defer cancel()
	asked := m.link.call(ctx, func() error {
		_, err := m.link.agent.Drain(ctx, &proto.DrainRequest{})
		return err
	})
	if asked != nil {
		if m.link.endsWithin(time.Second) {
			return nil
		}
		asked = fmt.Errorf("the agent does not drain: %w", asked)
		if ctx.Err() == nil {
			return asked
		}
		// It may have heard, or hear yet.
	}
	if !m.drainer.awaited {
		m.drainer.awaited = true
		go m.awaitDrained()
	}
	declared := m.declare(state.Draining)
	if errors.Is(declared, errEnded) {
		declared = nil
	}
	err := errors.Join(asked, declared)
	m.drainer.begun = err == nil
	return err
}

// awaitDrained stops the sandbox when the agent has nothing left to do. It ends
// with the machine.
func (m *monitor) awaitDrained() {
	ctx := m.link.runCtx
	err := m.link.call(ctx, func() error {
		_, err := m.link.agent.Drain(ctx, &proto.DrainRequest{Wait: true})
		return err
	})
	select {
	case <-m.link.machineEnded:
		return
	default:
	}
	detail := "drained: the last command has ended"
	if err != nil {
		m.log.Warn("the agent lost count of what it drains: stopping", "err", err)
		detail = "draining, and the agent lost count of what runs: " + err.Error()
	}
	m.stops.request(stopRequest{reason: ReasonDrained, detail: detail, grace: m.spec.StopGrace})
}

// errEnded is of a call that the machine's end cut short.
var errEnded = errors.New("the guest ended")

// call makes a call to the agent until ctx or the machine ends. A guest that
// takes nothing off its socket keeps the call from returning whatever its
// context says, so nobody waits for it: the machine's end frees it.
func (l *link) call(ctx context.Context, f func() error) error {
	select {
	case l.calls <- struct{}{}:
	case <-l.machineEnded:
		return errEnded
	case <-ctx.Done():
		return ctx.Err()
	}
	done := make(chan error, 1)
	go func() {
		defer func() { <-l.calls }()
		done <- f()
	}()
	select {
	case err := <-done:
		return guestError(err)
	case <-l.machineEnded:
		return errEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// maxCalls bounds the calls that a silent guest holds up.
const maxCalls = 16

// guestError is an error of the agent's, which may say anything at any length.
func guestError(err error) error {
	const most = 512
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || len(err.Error()) <= most {
		return err
	}
	return errors.New(strings.ToValidUTF8(err.Error()[:most], "") + "…")
}

// endsWithin reports whether the machine has ended, or is about to: a guest that
// goes down takes its connections with it first.
func (l *link) endsWithin(d time.Duration) bool {
	if l.runCtx.Err() != nil {
		return true
	}
	select {
	case <-l.machineEnded:
		return true
	case <-time.After(d):
		return false
	}
}

func (m *monitor) status() state.Status {
	m.stateMu.Lock()
	defer m.stateMu.Unlock()
	return m.state.Status
}

// declare writes down that the sandbox is in another status.
func (m *monitor) declare(s state.Status) error {
	m.stateMu.Lock()
	defer m.stateMu.Unlock()
	if m.final {
		return errEnded
	}
	if s == state.Running && m.state.Status != state.Starting {
		return nil // it drains already
	}
	next := m.state
	next.Status, next.Updated = s, time.Now()
	if err := m.dir.WriteJSON(state.StateFile, next); err != nil {
		return err
	}
	m.state = next
	return nil
}
