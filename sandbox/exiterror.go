package sandbox

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// ExitError is a command that ran and did not succeed.
type ExitError struct {
	// Code is the exit status; 128 plus the signal's number if a signal ended
	// the command.
	Code int
	// Signal is the signal that ended the command, 0 if it exited.
	Signal syscall.Signal
	// UserTime and SystemTime are the CPU time of the command and its
	// descendants.
	UserTime, SystemTime time.Duration
	// Stderr is the end of the command's stderr, if Output collected it.
	Stderr []byte

	cause error
}

func (e *ExitError) Error() string {
	switch {
	case e.cause != nil:
		return "command " + e.cause.Error() + " and was killed"
	case e.Signal != 0:
		return fmt.Sprintf("command ended by signal %d (%s)", int(e.Signal), unix.SignalName(e.Signal))
	default:
		return fmt.Sprintf("exit status %d", e.Code)
	}
}

// Unwrap is ErrTimeout or ErrOutOfMemory if that is what ended the command.
func (e *ExitError) Unwrap() error { return e.cause }

// newExitError is nil for a success.
func newExitError(exit *proto.ExecExit) *ExitError {
	if exit.GetCode() == 0 && exit.GetSignal() == 0 && !exit.GetTimedOut() {
		return nil
	}
	e := &ExitError{
		Code:       int(exit.GetCode()),
		Signal:     syscall.Signal(exit.GetSignal()),
		UserTime:   time.Duration(exit.GetUserNs()),
		SystemTime: time.Duration(exit.GetSystemNs()),
	}
	switch {
	case exit.GetTimedOut():
		e.cause = ErrTimeout
	case exit.GetOomKilled() && e.Signal == syscall.SIGKILL:
		e.cause = ErrOutOfMemory
	}
	return e
}

// StartReason is why a command could not be started.
type StartReason string

// The reasons of a StartError.
const (
	StartNotFound      StartReason = "not found"
	StartPermission    StartReason = "permission denied"
	StartNotExecutable StartReason = "not executable"
	StartBadDir        StartReason = "bad working directory"
	StartUnknownUser   StartReason = "unknown user"
	StartRlimit        StartReason = "resource limit refused"
	StartBadArgs       StartReason = "bad arguments"
	StartDraining      StartReason = "sandbox is shutting down"
	StartTooMany       StartReason = "too many commands"
	StartOther         StartReason = "failed"
)

// StartError is a command that the guest could not start.
type StartError struct {
	Reason  StartReason
	Command string
	// Message is the guest's explanation.
	Message string
	// Errno is the guest's error number, 0 if there was none.
	Errno syscall.Errno
}

func (e *StartError) Error() string {
	s := fmt.Sprintf("%s: %s", e.Command, e.Reason)
	if e.Message != "" {
		s += " (" + e.Message + ")"
	}
	return s
}

// Is reports ErrDraining.
func (e *StartError) Is(target error) bool {
	return target == ErrDraining && e.Reason == StartDraining
}

// Unwrap is the errno, so that errors.Is(err, fs.ErrNotExist) works.
func (e *StartError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

var startReasons = map[proto.StartFailure_Kind]StartReason{
	proto.StartFailure_NOT_FOUND:      StartNotFound,
	proto.StartFailure_PERMISSION:     StartPermission,
	proto.StartFailure_NOT_EXECUTABLE: StartNotExecutable,
	proto.StartFailure_BAD_DIR:        StartBadDir,
	proto.StartFailure_UNKNOWN_USER:   StartUnknownUser,
	proto.StartFailure_RLIMIT:         StartRlimit,
	proto.StartFailure_BAD_ARGS:       StartBadArgs,
	proto.StartFailure_DRAINING:       StartDraining,
	proto.StartFailure_TOO_MANY:       StartTooMany,
}

// startError translates the failure of a start.
func (s *Sandbox) startError(command string, err error) error {
	var guest *proto.StartError
	if !errors.As(err, &guest) {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		return &Error{s.name, "exec", s.lost(err)}
	}
	reason, ok := startReasons[guest.Failure.GetKind()]
	if !ok {
		reason = StartOther
	}
	return &StartError{
		Reason:  reason,
		Command: command,
		Message: guest.Failure.GetMessage(),
		Errno:   syscall.Errno(guest.Failure.GetErrno()),
	}
}

// endWait is how long an end of the sandbox may be behind that of a connection.
const endWait = time.Second

// lost explains a connection that ended before its command: most often the
// whole sandbox did. It waits for that no longer than the context whose
// connection it was, and of anything else only says it if it is known.
func (s *Sandbox) lost(err error) error {
	var conn interface{ Done() <-chan struct{} }
	if errors.As(err, &conn) {
		limit := time.NewTimer(endWait)
		defer limit.Stop()
		select {
		case <-s.life.Ended():
		case <-conn.Done():
		case <-limit.C:
		}
	}
	if !s.hasEnded() {
		return err
	}
	if final := s.life.Final(); final != nil {
		return fmt.Errorf("the sandbox ended first (%s: %s): %w", final.Reason, final.Detail, err)
	}
	return fmt.Errorf("the sandbox ended first: %w", err)
}
