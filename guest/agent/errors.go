package agent

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Error is a failed step of the agent: Op is what it did, Path on what.
type Error struct {
	Op   string
	Path string
	Err  error
}

func (e *Error) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("%s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("%s %s: %v", e.Op, e.Path, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// failure is a StartFailure as an error.
type failure struct {
	kind    proto.StartFailure_Kind
	message string
	errno   syscall.Errno
}

func (f *failure) Error() string { return f.message }

func (f *failure) reply() *proto.StartFailure {
	return &proto.StartFailure{Kind: f.kind, Message: f.message, Errno: int32(f.errno)}
}

// fail makes a failure. The errno is taken from err, which may be nil.
func fail(kind proto.StartFailure_Kind, err error, format string, args ...any) *failure {
	f := &failure{kind: kind, message: fmt.Sprintf(format, args...)}
	if err != nil {
		errors.As(err, &f.errno)
		cause := err
		if f.errno != 0 {
			cause = f.errno
		}
		f.message += ": " + cause.Error()
	}
	return f
}

// asFailure turns any error of a start into a failure.
func asFailure(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	return fail(proto.StartFailure_OTHER, err, "start")
}
