package sandbox

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sandpit-vm/sandpit/internal/monitor"
	"github.com/sandpit-vm/sandpit/internal/state"
)

// Conditions to branch on with errors.Is.
var (
	ErrExists     = state.ErrExists
	ErrNotFound   = state.ErrNotFound
	ErrRunning    = errors.New("the sandbox is running")
	ErrNotRunning = monitor.ErrGone
	// ErrDraining is what a sandbox that drains, or shuts down, says to new
	// commands, terminals and file operations.
	ErrDraining = errors.New("the sandbox is draining: it takes no new commands or file operations")
	// ErrTimeout is under the *ExitError of a command that Cmd.Timeout ended.
	ErrTimeout = errors.New("timed out")
	// ErrOutOfMemory is under the *ExitError of a command that the guest's
	// kernel killed for want of memory.
	ErrOutOfMemory = errors.New("the guest is out of memory")
	// ErrInterpretedKVM is a host whose KVM interprets the guest's kernel
	// instead of running it.
	ErrInterpretedKVM = errors.New("KVM here interprets guest kernel code")
)

// ConfigError is a Config (or a name, or a Cmd) that cannot be: every problem
// of it at once.
type ConfigError struct {
	Problems []FieldError
}

// FieldError is one thing wrong with a field.
type FieldError struct {
	Field  string
	Reason string
}

func (e FieldError) Error() string { return e.Field + ": " + e.Reason }

func (e *ConfigError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.Error()
	}
	return "sandbox: invalid configuration: " + strings.Join(lines, "; ")
}

// Unwrap returns the problems as errors.
func (e *ConfigError) Unwrap() []error {
	errs := make([]error, len(e.Problems))
	for i, p := range e.Problems {
		errs[i] = p
	}
	return errs
}

func (e *ConfigError) add(field, format string, args ...any) {
	e.Problems = append(e.Problems, FieldError{field, fmt.Sprintf(format, args...)})
}

// orNil is e as an error, or nil if there is no problem.
func (e *ConfigError) orNil() error {
	if len(e.Problems) == 0 {
		return nil
	}
	return e
}

// Error is a failure of the host: the sandbox it concerns, the step that
// failed, and why.
type Error struct {
	Sandbox string // "" if it concerns all
	Op      string
	Err     error
}

func (e *Error) Error() string {
	if e.Sandbox == "" {
		return "sandbox: " + e.Op + ": " + e.Err.Error()
	}
	return fmt.Sprintf("sandbox %s: %s: %v", e.Sandbox, e.Op, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// interpretedError says how slow, and what to do.
func interpretedError(speed float64) error {
	return fmt.Errorf("%w: %.1f million instructions per second, where hardware runs hundreds; a guest's kernel takes minutes to boot and then fails. %s",
		ErrInterpretedKVM, speed/1e6, interpretedRemedy)
}

const interpretedRemedy = "Use a host with hardware virtualization, nested or not; for development, kvmrig runs a command in an emulated machine that has it"

// BootError is a sandbox that did not come up: the Stage that failed, and the
// last lines of its console.
type BootError = monitor.BootError
