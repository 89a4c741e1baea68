package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"time"

	"github.com/sandpit-vm/sandpit/internal/monitor"
	"github.com/sandpit-vm/sandpit/internal/state"
)

// Status is where a sandbox is in its life.
type Status = state.Status

// The statuses. Crashed: the VM or its monitor ended unexpectedly.
const (
	Starting = state.Starting
	Running  = state.Running
	Draining = state.Draining
	Stopped  = state.Stopped
	Crashed  = state.Crashed
)

// Handle is a sandbox seen from outside, running or not. It holds no
// connection.
type Handle struct {
	dir   *state.Dir
	state state.State
}

// Get finds a sandbox by name. ErrNotFound if there is none.
func Get(ctx context.Context, name string) (*Handle, error) {
	var bad ConfigError
	if checkName(&bad, name); len(bad.Problems) > 0 {
		return nil, &bad
	}
	home, err := state.DefaultHome()
	if err != nil {
		return nil, &Error{name, "get", err}
	}
	return get(home, name)
}

func get(home state.Home, name string) (*Handle, error) {
	dir, err := home.Open(name)
	if err != nil {
		return nil, &Error{name, "get", err}
	}
	st, err := dir.Read()
	if err != nil {
		return nil, &Error{name, "get", err}
	}
	return &Handle{dir: dir, state: st}, nil
}

// List returns all sandboxes by name. One that cannot be read does not hide
// the others: the error joins what went wrong.
func List(ctx context.Context) ([]*Handle, error) {
	home, err := state.DefaultHome()
	if err != nil {
		return nil, &Error{"", "list", err}
	}
	errs := []error{home.Sweep()}
	names, err := home.List()
	errs = append(errs, err)
	var handles []*Handle
	for _, name := range names {
		h, err := get(home, name)
		if errors.Is(err, ErrNotFound) {
			continue // gone since
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		handles = append(handles, h)
	}
	if err := errors.Join(errs...); err != nil {
		return handles, &Error{"", "list", err}
	}
	return handles, nil
}

// Remove deletes the state of a sandbox that does not run, even if it cannot be
// read. ErrRunning if it does run.
func Remove(ctx context.Context, name string) error {
	h, err := Get(ctx, name)
	var notRead *state.Error
	if errors.As(err, &notRead) && !errors.Is(err, ErrNotFound) {
		home, homeErr := state.DefaultHome()
		if homeErr != nil {
			return err
		}
		dir, openErr := home.Open(name)
		if openErr != nil {
			return err
		}
		h, err = &Handle{dir: dir}, nil
	}
	if err != nil {
		return err
	}
	return h.Remove(ctx)
}

// Name returns the sandbox's name.
func (h *Handle) Name() string { return h.dir.Name }

// Status is the status at the time of Get or List.
func (h *Handle) Status() Status { return h.state.Status }

// CreatedAt is when the sandbox was created, UpdatedAt when its status last
// changed; zero if its monitor has not said yet.
func (h *Handle) CreatedAt() time.Time { return h.state.Created }

// UpdatedAt: see CreatedAt.
func (h *Handle) UpdatedAt() time.Time { return h.state.Updated }

// Config is what the sandbox was created with, defaults filled in.
func (h *Handle) Config() (Config, error) {
	var r record
	if err := h.dir.ReadConfig(&r); err != nil {
		return Config{}, &Error{h.Name(), "config", err}
	}
	return r.Config, nil
}

// ConfigJSON is Config as it is stored: a JSON object.
func (h *Handle) ConfigJSON() ([]byte, error) {
	var r struct {
		Config json.RawMessage `json:"config"`
	}
	if err := h.dir.ReadConfig(&r); err != nil {
		return nil, &Error{h.Name(), "config", err}
	}
	return r.Config, nil
}

// ImageDigest is the digest of the OCI image that the sandbox was created
// with, "" if its root is something else.
func (h *Handle) ImageDigest() (string, error) {
	var r record
	if err := h.dir.ReadConfig(&r); err != nil {
		return "", &Error{h.Name(), "config", err}
	}
	return r.ImageDigest, nil
}

// ExitStatus is how the sandbox ended, and false if it had not at the time of
// Get or List.
func (h *Handle) ExitStatus() (ExitStatus, bool) {
	if h.state.Status != Stopped && h.state.Status != Crashed {
		return ExitStatus{}, false
	}
	return exitStatus(&h.state), true
}

// Connect returns the running sandbox. ErrNotRunning if it does not run.
func (h *Handle) Connect(ctx context.Context) (*Sandbox, error) {
	cfg, err := h.Config()
	if err != nil {
		return nil, err
	}
	_, answer, err := monitor.Dial(ctx, h.dir, monitor.Call{Op: monitor.OpBoot})
	if err != nil {
		return nil, &Error{h.Name(), "connect", err}
	}
	watch, err := monitor.NewWatch(ctx, h.dir)
	if err != nil {
		return nil, &Error{h.Name(), "connect", err}
	}
	return &Sandbox{name: h.Name(), cfg: cfg, dir: h.dir, life: watch, boot: answer.Boot, release: watch.Close}, nil
}

// Remove deletes the sandbox's state. ErrRunning while it runs.
func (h *Handle) Remove(ctx context.Context) error {
	err := h.dir.Remove()
	for errors.Is(err, state.ErrLocked) && h.isEnding() {
		select {
		case <-ctx.Done():
			return &Error{h.Name(), "remove", ctx.Err()}
		case <-time.After(lockPoll):
		}
		err = h.dir.Remove()
	}
	if errors.Is(err, state.ErrLocked) {
		err = ErrRunning
	}
	if err != nil {
		return &Error{h.Name(), "remove", err}
	}
	return nil
}

// lockPoll is between looks at the lock of a monitor that is about to end.
const lockPoll = 2 * time.Millisecond

// isEnding tells whether the sandbox has ended, though its monitor may still
// be there: its state is its last word, and the lock follows within
// milliseconds.
func (h *Handle) isEnding() bool {
	var st state.State
	if err := h.dir.ReadJSON(state.StateFile, &st); err != nil {
		return false
	}
	return st.Status == Stopped || st.Status == Crashed
}

// Stop asks a running sandbox to shut down gracefully, and returns. Stopping
// one that does not run is no error.
func (h *Handle) Stop(ctx context.Context) error {
	return h.call(ctx, "stop", monitor.Call{Op: monitor.OpStop, Grace: stopGrace})
}

// StopAndWait is Stop, and waits until the sandbox has ended and its monitor is
// gone.
func (h *Handle) StopAndWait(ctx context.Context) (ExitStatus, error) {
	if err := h.Stop(ctx); err != nil {
		return ExitStatus{}, err
	}
	return h.Wait(ctx)
}

// Wait waits until the sandbox has ended and its monitor is gone, or for ctx.
// One that has ended already is not waited for.
func (h *Handle) Wait(ctx context.Context) (ExitStatus, error) {
	for {
		if watch, err := monitor.NewWatch(ctx, h.dir); err == nil {
			select {
			case <-watch.Ended():
			case <-ctx.Done():
			}
			last := watch.Final()
			// The connection is all that it holds.
			_ = watch.Close()
			if last != nil {
				if err := h.waitGone(ctx, last); err != nil {
					return ExitStatus{}, &Error{h.Name(), "wait", err}
				}
				return exitStatus(last), nil
			}
		}
		if err := h.waitUnlocked(ctx); err != nil {
			return ExitStatus{}, &Error{h.Name(), "wait", err}
		}
		st, err := h.dir.Read()
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotFound):
			// It was ephemeral: an end is all that is left to know.
			return ExitStatus{Success: true, Reason: monitor.ReasonStopped}, nil
		case err != nil:
			return ExitStatus{}, &Error{h.Name(), "wait", err}
		case st.Status == Stopped || st.Status == Crashed:
			return exitStatus(&st), nil
		}
		// It was started again since.
	}
}

// waitGone waits until the monitor that left a last state is gone, or another
// has begun a next life.
func (h *Handle) waitGone(ctx context.Context, last *state.State) error {
	for {
		locked, err := h.dir.Locked()
		if errors.Is(err, fs.ErrNotExist) || err == nil && !locked {
			return nil
		}
		if err != nil {
			return err
		}
		var now state.State
		if err := h.dir.ReadJSON(state.StateFile, &now); err == nil && !now.Updated.Equal(last.Updated) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(endPoll):
		}
	}
}

// Kill switches a running sandbox off, and returns.
func (h *Handle) Kill(ctx context.Context) error {
	return h.call(ctx, "kill", monitor.Call{Op: monitor.OpKill})
}

func (h *Handle) dialMonitor(ctx context.Context, call monitor.Call) (*monitor.Answer, error) {
	_, a, err := monitor.Dial(ctx, h.dir, call)
	return a, err
}

func (h *Handle) call(ctx context.Context, op string, call monitor.Call) error {
	_, err := h.dialMonitor(ctx, call)
	if errors.Is(err, ErrNotRunning) {
		// A monitor's socket goes before its lock; an ephemeral sandbox goes
		// with its monitor.
		locked, lockErr := h.dir.Locked()
		if errors.Is(lockErr, fs.ErrNotExist) || lockErr == nil && (!locked || h.isEnding()) {
			return nil
		}
	}
	if err != nil {
		return &Error{h.Name(), op, err}
	}
	return nil
}
