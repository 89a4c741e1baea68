package agent

import (
	"context"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Bounds of a shutdown.
const (
	maxGrace    = 10 * time.Minute
	killWait    = 2 * time.Second // for the kernel to end what got SIGKILL
	lastReplies = 2 * time.Second // for callers to take their exits
)

// Shutdown implements the call. With the machine powered off there is no
// answer: the caller sees the connection end.
func (a *Agent) Shutdown(_ context.Context, r *proto.ShutdownRequest) (_ *proto.Empty, err error) {
	defer a.recovered("shutdown", &err)
	if r.GetCode() > 255 || r.GetGraceNs() < 0 {
		return nil, statusInvalid("the code must be 0 to 255 and the grace not negative")
	}
	a.Stop(uint8(r.GetCode()), min(time.Duration(r.GetGraceNs()), maxGrace))
	return &proto.Empty{}, nil
}

// Stop ends all commands, the stop signal (SIGTERM unless Setup said otherwise)
// first, and powers off. A second call waits
// for the first.
func (a *Agent) Stop(code uint8, grace time.Duration) {
	a.shutdown.Do(func() {
		a.mu.Lock()
		a.draining = true
		signal := a.stopSignal
		a.mu.Unlock()
		if grace > 0 {
			a.signalAll(signal)
			a.waitEmpty(grace)
		}
		a.killEverything()
		a.files.stop(lastReplies)
		a.waitReleased(lastReplies)
		a.endCapture(lastReplies)
		if a.config.PowerOff != nil {
			a.config.PowerOff(code)
		}
	})
}

// signalAll signals every process but the agent. SIGCONT follows, so that
// stopped processes hear it.
func (a *Agent) signalAll(sig syscall.Signal) {
	if isInit() {
		_ = unix.Kill(-1, sig)
		_ = unix.Kill(-1, syscall.SIGCONT)
		return
	}
	for _, x := range a.snapshot() {
		_ = a.reaper.signalGroup(x.pid, sig)
		_ = a.reaper.signalGroup(x.pid, syscall.SIGCONT)
	}
}

func (a *Agent) snapshot() []*execution {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []*execution
	for _, x := range a.execs {
		if x.pid != 0 {
			out = append(out, x)
		}
	}
	return out
}

// waitEmpty waits until no process is left but the agent; when the agent is
// not PID 1, until no command is.
func (a *Agent) waitEmpty(limit time.Duration) bool {
	for end := time.Now().Add(limit); ; time.Sleep(pollEvery) {
		if !a.reaper.reap() {
			return true
		}
		if !isInit() && len(a.snapshot()) == 0 {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// killEverything leaves no process. A fork can slip through one round of
// signals, so there are several.
func (a *Agent) killEverything() {
	for end := time.Now().Add(killWait); time.Now().Before(end); {
		a.mu.Lock()
		cg := a.cgroups
		a.mu.Unlock()
		if cg != nil {
			_ = cg.killAll()
		}
		if isInit() {
			_ = unix.Kill(-1, syscall.SIGKILL)
		} else {
			for _, x := range a.snapshot() {
				x.kill()
			}
		}
		if a.waitEmpty(50 * time.Millisecond) {
			return
		}
	}
	a.log.Error("processes survive SIGKILL")
}

// waitReleased waits until the callers of all commands have their answers: until
// they have closed their connections. That an answer was sent does not do, for
// what is on its way when the machine ends is lost.
func (a *Agent) waitReleased(limit time.Duration) {
	for end := time.Now().Add(limit); a.execConns.Load() > 0; time.Sleep(pollEvery) {
		if time.Now().After(end) {
			a.log.Warn("callers hold on to their commands' connections")
			return
		}
	}
}
