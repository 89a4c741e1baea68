package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sandpit-vm/sandpit/internal/monitor"
	"github.com/sandpit-vm/sandpit/internal/state"
)

// Sandbox is a running sandbox. Its methods may be called from any goroutine.
type Sandbox struct {
	name    string
	cfg     Config
	dir     *state.Dir
	life    life
	process *monitor.Process // nil if another process created the sandbox
	boot    *monitor.Boot
	// release gives back what life holds, without an end of the sandbox.
	release func() error

	mu     sync.Mutex
	owner  bool
	closed bool
	fs     *FS // made when first asked for

	// agent carries the calls that are not a command of their own: signals,
	// terminal sizes; files the single operations on files.
	agent, files agentLink
}

// life tells when a sandbox ended and how; a *monitor.Process for its creator, a
// *monitor.Watch for others.
type life interface {
	Ended() <-chan struct{}
	Final() *state.State // nil: without a word
}

// Connect finds a running sandbox. Any number of processes may be connected to
// one; that it is theirs to stop does not make it end with them.
// ErrNotFound, or ErrNotRunning.
func Connect(ctx context.Context, name string) (*Sandbox, error) {
	h, err := Get(ctx, name)
	if err != nil {
		return nil, err
	}
	return h.Connect(ctx)
}

// Name returns the sandbox's name.
func (s *Sandbox) Name() string { return s.name }

// Config returns a copy of the configuration, defaults filled in.
func (s *Sandbox) Config() Config { return s.cfg.clone() }

// OwnsLifecycle reports whether the sandbox ends with this process.
func (s *Sandbox) OwnsLifecycle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owner
}

// Detach lets go of the sandbox, which goes on when this process ends.
func (s *Sandbox) Detach() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner {
		if err := s.process.Detach(); err != nil {
			return &Error{s.name, "detach", err}
		}
		s.owner = false
	}
	return nil
}

// Boot says how the sandbox came up: how long each phase took, and the VM
// exits until the agent was ready. For benchmarks and the curious.
func (s *Sandbox) Boot() Boot {
	b := s.boot
	out := Boot{Exits: make(map[string]uint64, len(b.Exits))}
	for _, p := range b.Phases {
		out.Phases = append(out.Phases, Phase(p))
	}
	for k, n := range b.Exits {
		out.Exits[k] = n
	}
	return out
}

// Boot is how a sandbox came up.
type Boot struct {
	// Phases are in order. Those of the guest, whose names begin with
	// "guest: ", are measured by its own clock and lie within the host's.
	Phases []Phase
	// Exits counts VM exits by kind.
	Exits map[string]uint64
}

// Phase is a part of a boot.
type Phase struct {
	Name     string
	Duration time.Duration
}

// ExitStatus is how a sandbox ended.
type ExitStatus struct {
	// Code is the code the guest shut down with; 0 if the host ended it.
	Code int
	// Success is an orderly end with code 0.
	Success bool
	// Reason is why: "stopped", "killed", "drained", "idle-timeout",
	// "max-duration", "creator-ended" or "crashed".
	Reason string
	// Detail is the same for people, and Console, after a crash, the last
	// lines of the guest's console. The guest wrote them: they are not to be
	// trusted, nor sent to a terminal as they are.
	Detail  string
	Console string
}

// Stop asks for a graceful shutdown and returns: the guest's processes get
// SIGTERM, then SIGKILL, and the guest powers off. Wait tells when it is done.
// Stopping a sandbox that has ended is no error.
func (s *Sandbox) Stop(ctx context.Context) error {
	return s.call(ctx, "stop", monitor.Call{Op: monitor.OpStop, Grace: stopGrace})
}

// Kill switches the sandbox off and waits until it has ended. Nothing is
// flushed. Killing a sandbox that has ended is no error.
func (s *Sandbox) Kill(ctx context.Context) error {
	if err := s.call(ctx, "kill", monitor.Call{Op: monitor.OpKill}); err != nil {
		if s.process == nil {
			return err
		}
		// A monitor that does not answer is killed itself.
		if killErr := s.process.Kill(); killErr != nil {
			return errors.Join(err, killErr)
		}
	}
	_, err := s.Wait(ctx)
	return err
}

func (s *Sandbox) call(ctx context.Context, op string, call monitor.Call) error {
	if err := s.open(); err != nil {
		return &Error{s.name, op, err}
	}
	if s.hasEnded() {
		return nil
	}
	_, err := s.dialMonitor(ctx, call)
	if err == nil || s.hasEnded() {
		return nil
	}
	if errors.Is(err, ErrNotRunning) {
		// It is ending: its socket goes before its last word.
		select {
		case <-s.life.Ended():
			return nil
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(stopGrace):
		}
	}
	return &Error{s.name, op, err}
}

func (s *Sandbox) hasEnded() bool {
	select {
	case <-s.life.Ended():
		return true
	default:
		return false
	}
}

// Wait waits for the sandbox's end, or for ctx.
func (s *Sandbox) Wait(ctx context.Context) (ExitStatus, error) {
	if err := s.open(); err != nil {
		return ExitStatus{}, &Error{s.name, "wait", err}
	}
	select {
	case <-s.life.Ended():
	case <-ctx.Done():
		return ExitStatus{}, &Error{s.name, "wait", ctx.Err()}
	}
	final := s.life.Final()
	if err := s.open(); final == nil && err != nil {
		return ExitStatus{}, &Error{s.name, "wait", err} // it was not the sandbox that ended
	}
	s.closeAgent()
	if final == nil {
		var err error
		if final, err = s.lastState(); err != nil {
			return ExitStatus{}, &Error{s.name, "wait", err}
		}
	}
	return exitStatus(final), nil
}

// lastState is the last state of a sandbox whose monitor told none. The name may
// be another's by now.
func (s *Sandbox) lastState() (*state.State, error) {
	if s.cfg.Ephemeral {
		// Its monitor did not live to delete it.
		if err := s.dir.RemoveEphemeral(); err != nil {
			return nil, err
		}
	} else {
		st, err := s.dir.Read()
		if err == nil && (st.Status == Stopped || st.Status == Crashed) {
			return &st, nil
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
	}
	return &state.State{Status: Crashed, Reason: monitor.ReasonCrashed,
		Detail: "the monitor ended without a word: killed, or out of memory"}, nil
}

func exitStatus(st *state.State) ExitStatus {
	return ExitStatus{
		Code:    st.Code,
		Success: st.Status == state.Stopped && st.Code == 0,
		Reason:  st.Reason,
		Detail:  st.Detail,
		Console: st.Console,
	}
}

// StopAndWait is Stop and Wait. In the process that created the sandbox, its
// monitor is gone when it returns.
func (s *Sandbox) StopAndWait(ctx context.Context) (ExitStatus, error) {
	if err := s.Stop(ctx); err != nil {
		return ExitStatus{}, err
	}
	status, err := s.Wait(ctx)
	if err != nil {
		return status, err
	}
	if s.process == nil {
		return status, nil
	}
	select {
	case <-s.process.Gone():
	case <-ctx.Done():
		return status, &Error{s.name, "wait", ctx.Err()}
	}
	return status, nil
}

// errClosed is of a Sandbox after Close.
var errClosed = fmt.Errorf("the Sandbox was let go of: %w", os.ErrClosed)

// open is an error after Close.
func (s *Sandbox) open() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	return nil
}

// errEnded is of a Sandbox whose machine has ended. Its name may lead to
// another's.
var errEnded = fmt.Errorf("%w: it has ended", ErrNotRunning)

// reachable is an error after Close, and after the sandbox's end.
func (s *Sandbox) reachable() error {
	if err := s.open(); err != nil {
		return err
	}
	if s.hasEnded() {
		return errEnded
	}
	return nil
}

// dialMonitor asks the monitor for something.
func (s *Sandbox) dialMonitor(ctx context.Context, call monitor.Call) (*monitor.Answer, error) {
	if err := s.reachable(); err != nil {
		return nil, err
	}
	_, a, err := monitor.Dial(ctx, s.dir, call)
	return a, err
}

// dialAgent makes a connection of its own to the agent.
func (s *Sandbox) dialAgent(ctx context.Context) (net.Conn, error) {
	if err := s.reachable(); err != nil {
		return nil, err
	}
	conn, _, err := monitor.Dial(ctx, s.dir, monitor.Call{Op: monitor.OpDial})
	return conn, err
}
