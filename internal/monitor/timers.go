package monitor

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// activity is when somebody last wanted something of the sandbox: a byte passed
// between a client and the guest, or Touch was called.
type activity struct {
	last atomic.Int64 // since epoch, ns
}

// epoch is what activity counts from; a time.Time has the monotonic clock.
var epoch = time.Now()

func (a *activity) touch() { a.last.Store(int64(time.Since(epoch))) }

func (a *activity) idle() time.Duration {
	return time.Since(epoch) - time.Duration(a.last.Load())
}

// idleRest is between two questions to the agent, at least.
const idleRest = 250 * time.Millisecond

// idlePatience is how long the agent may take to say what runs in the guest.
const idlePatience = 5 * time.Second

// watchTimers asks for a graceful stop when the sandbox has lived for long
// enough, or was idle for long enough. It begins when commands can run and
// ends with the machine.
func (m *monitor) watchTimers() {
	m.activity.touch()
	var lifetime, idle <-chan time.Time
	if d := m.spec.MaxDuration; d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		lifetime = t.C
	}
	limit := m.spec.IdleTimeout
	timer := time.NewTimer(limit)
	defer timer.Stop()
	if limit > 0 {
		idle = timer.C
	}
	for {
		select {
		case <-m.link.machineEnded:
			return
		case <-lifetime:
			m.stops.request(stopRequest{reason: ReasonMaxDuration, grace: m.spec.StopGrace,
				detail: fmt.Sprintf("it has run for %v, its maximum duration", m.spec.MaxDuration)})
			lifetime = nil
		case <-idle:
			left := limit - m.idleFor()
			if left > 0 {
				// The agent's answer is the guest's to choose.
				timer.Reset(max(left, min(limit, idleRest)))
				continue
			}
			m.stops.request(stopRequest{reason: ReasonIdle, grace: m.spec.StopGrace,
				detail: fmt.Sprintf("it was idle for %v, its idle timeout", limit)})
			idle = nil
		}
	}
}

// idleFor is for how long nothing has run in the guest and nobody has wanted
// anything. An agent that does not answer runs nothing.
func (m *monitor) idleFor() time.Duration {
	idle := m.activity.idle()
	if idle < m.spec.IdleTimeout {
		return idle
	}
	ctx, cancel := context.WithTimeout(m.link.runCtx, idlePatience)
	defer cancel()
	resp := make(chan *proto.PingResponse, 1)
	err := m.link.call(ctx, func() error {
		r, err := m.link.agent.Ping(ctx, &proto.PingRequest{})
		if err == nil {
			resp <- r
		}
		return err
	})
	if err != nil {
		m.log.Warn("idle timeout: the agent does not say what runs", "err", err)
		return idle
	}
	// Something may have been wanted while the agent was asked.
	return min(m.activity.idle(), time.Duration(max(0, (<-resp).GetIdleNs())))
}
