package qcow2

import (
	"errors"
	"fmt"
)

// What is wrong with an image. An error that matches none of these, nor the
// caller's mistakes, is the host's: the file could not be read or written.
var (
	// ErrMalformed says that the image breaks the format's rules.
	ErrMalformed = errors.New("malformed qcow2 image")
	// ErrUnsupported says that the image uses what this package does not have.
	// The message names the remedy.
	ErrUnsupported = errors.New("unsupported qcow2 image")
	// ErrRepair says that the image is marked as dirty or corrupt, and has to be
	// repaired before it is written to.
	ErrRepair = errors.New("qcow2 image needs a repair")
	// ErrFull says that the image's own tables have no room for more clusters.
	ErrFull = errors.New("qcow2 image is full")
)

// The caller's mistakes.
var (
	// ErrReadOnly is a write to an image that was opened for reading.
	ErrReadOnly = errors.New("image is open for reading only")
	// ErrRange is an access outside the disk.
	ErrRange = errors.New("outside the disk")
	// ErrFile is a file that was opened in a way that cannot work.
	ErrFile = errors.New("unsuitable file")
)

// Error is a failed operation on an image.
type Error struct {
	Op  string // "open", "read", "write", "sync", "discard", "write zeroes", "close"
	Err error
}

func (e *Error) Error() string { return "qcow2: " + e.Op + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// wrap makes an *Error of err, if there is one.
func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{op, err}
}

func malformed(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, a...))
}

func unsupported(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, a...))
}

const (
	remedyConvert = "make a plain copy with `qemu-img convert -O qcow2 IMAGE COPY`"
	remedyCheck   = "repair it with `qemu-img check -r all IMAGE`, or open it for reading only"
)
