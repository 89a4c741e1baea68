package vmm

import "errors"

// Error is a failure of the host or of the caller's configuration. What the
// guest does is never an Error: it is a [Reason].
type Error struct {
	Op  string // what was being done, e.g. "load kernel"
	Err error
}

func (e *Error) Error() string { return "vmm: " + e.Op + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Errors that calls on a Machine return in the wrong state.
var (
	ErrClosed  = errors.New("machine is closed")
	ErrStarted = errors.New("machine was already started")

	errNotRunning = errors.New("machine is not running")
)

// ErrTruncated ends a machine that read from persistent memory what is no longer
// in the file.
var ErrTruncated = errors.New("the file was made shorter while the guest had it mapped, and the guest cannot go on: " +
	"start it anew with a whole file, and change a file that is in use by renaming a new one over it")
