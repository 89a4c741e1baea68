package erofs

import (
	"errors"
	"fmt"
)

var (
	// ErrInvalid says that an argument cannot be what was meant: a name with a
	// slash, a directory that is in the tree twice.
	ErrInvalid = errors.New("invalid argument")
	// ErrTooLarge says that something is beyond what the format can express.
	ErrTooLarge = errors.New("too large for an EROFS image")
	// ErrClosed says that the writer was closed.
	ErrClosed = errors.New("closed")
)

// Error is a failed operation. Err wraps one of the package's errors if the
// caller asked for the impossible, and is the output's error otherwise.
type Error struct {
	Op  string // such as "write image"
	Err error
}

func (e *Error) Error() string { return "erofs: " + e.Op + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// invalid is the error of a call that makes no sense.
func invalid(op, format string, args ...any) error {
	return &Error{op, fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))}
}

// tooLarge is the error of a call that the format has no room for.
func tooLarge(op, format string, args ...any) error {
	return &Error{op, fmt.Errorf("%w: %s", ErrTooLarge, fmt.Sprintf(format, args...))}
}
