package flatten

import (
	"errors"
	"fmt"
)

var (
	// ErrMalformed says that a layer is not what an OCI layer may be.
	ErrMalformed = errors.New("malformed layer")
	// ErrEscape is the ErrMalformed of a name that leads out of the root.
	ErrEscape = fmt.Errorf("%w: name leads out of the root", ErrMalformed)
	// ErrLimit says that a bound of Limits was exceeded; see LimitError.
	ErrLimit = errors.New("limit exceeded")
	// ErrChanged says that a file of the host changed while it was read.
	ErrChanged = errors.New("changed while it was read")
	// ErrClosed says that the builder was closed.
	ErrClosed = errors.New("closed")
)

// Error is a failure at one entry.
type Error struct {
	Layer int    // from 0; a directory counts as a layer
	Name  string // the entry as the archive has it, empty if it is between entries
	Err   error
}

func (e *Error) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("layer %d: %v", e.Layer, e.Err)
	}
	return fmt.Sprintf("layer %d: %.300q: %v", e.Layer, e.Name, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// LimitError is an ErrLimit.
type LimitError struct {
	Field string // of Limits
	Limit int64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%v: more than %d; raise Limits.%s if the image is trusted", ErrLimit, e.Limit, e.Field)
}

func (e *LimitError) Is(target error) bool { return target == ErrLimit }

// malformed is the error of an entry that cannot be.
func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrMalformed, fmt.Errorf(format, args...))
}
