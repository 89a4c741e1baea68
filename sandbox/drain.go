package sandbox

import (
	"context"
	"errors"

	"github.com/sandpit-vm/sandpit/internal/monitor"
)

// Drain lets the sandbox run dry: its status is Draining; new commands,
// terminals and file operations fail with [ErrDraining]; those that run finish,
// and after the last the sandbox stops. Drain returns when nothing new is
// admitted any more; [Sandbox.Wait] tells the end. Draining a sandbox that
// drains, or has ended, is no error.
func (s *Sandbox) Drain(ctx context.Context) error {
	return s.call(ctx, "drain", monitor.Call{Op: monitor.OpDrain})
}

// Drain is what [Sandbox.Drain] says.
func (h *Handle) Drain(ctx context.Context) error {
	return h.call(ctx, "drain", monitor.Call{Op: monitor.OpDrain})
}

// Touch counts as activity: the idle timeout begins anew. Commands, terminals
// and file operations do so by themselves. ErrNotRunning if the sandbox does
// not run.
func (s *Sandbox) Touch(ctx context.Context) error { return touch(ctx, s.name, s.dialMonitor) }

// Touch is what [Sandbox.Touch] says.
func (h *Handle) Touch(ctx context.Context) error { return touch(ctx, h.Name(), h.dialMonitor) }

func touch(ctx context.Context, name string, ask func(context.Context, monitor.Call) (*monitor.Answer, error)) error {
	if _, err := ask(ctx, monitor.Call{Op: monitor.OpTouch}); err != nil {
		return &Error{name, "touch", err}
	}
	return nil
}

// Close lets go of the sandbox. One that this process owns (OwnsLifecycle)
// stops, gracefully, as it would when the process ends, and Close waits for
// that; any other goes on. Other methods fail after it, with os.ErrClosed
// underneath, but for those that ask for nothing but this process's memory.
func (s *Sandbox) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	owner := s.owner
	s.mu.Unlock()
	var err error
	if owner {
		_, err = s.StopAndWait(context.Background())
	}
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.closeAgent()
	if s.release != nil {
		err = errors.Join(err, s.release())
	}
	return err
}
