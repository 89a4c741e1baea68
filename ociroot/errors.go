package ociroot

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// Error is what this package returns: the operation, the reference, digest or
// file that it was about, and the cause.
type Error struct {
	Op  string // "pull", "open root", "prune", …
	Ref string // "" if the operation is about the whole store
	Err error
}

func (e *Error) Error() string {
	s := "ociroot: " + e.Op
	if e.Ref != "" {
		s += " " + e.Ref
	}
	return s + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// sentinel is a condition that belongs to a family of conditions.
type sentinel struct {
	text   string
	family error
}

func (s *sentinel) Error() string        { return s.text }
func (s *sentinel) Is(target error) bool { return s.family != nil && target == s.family }

// The caller's conditions: another reference, policy, platform or credential is
// needed.
var (
	ErrReference    error = &sentinel{text: "not a valid image reference"}
	ErrOptions      error = &sentinel{text: "invalid option"}
	ErrNotCached    error = &sentinel{text: "the image is not in the cache, and must not be pulled"}
	ErrNoImage      error = &sentinel{text: "no such image in the cache"}
	ErrInUse        error = &sentinel{text: "the image is in use"}
	ErrPlatform     error = &sentinel{text: "the image is not made for this platform"}
	ErrNotFound     error = &sentinel{text: "the registry has no such image"}
	ErrUnauthorized error = &sentinel{text: "the registry refuses these credentials"}
	ErrCredentials  error = &sentinel{text: "the credentials of this registry cannot be read"}
	ErrInsecure     error = &sentinel{text: "plain HTTP is used only when asked for"}
)

// The host's conditions, and the network's. Failures of the file system are
// what package os returns.
var (
	ErrRegistry error = &sentinel{text: "the registry failed"}
	ErrStalled  error = &sentinel{text: "no data arrives"}
	ErrCorrupt  error = &sentinel{text: "the cache is damaged"}
)

// ErrContent is the family of everything that is wrong with what a registry, an
// archive or an image says: errors.Is(err, ErrContent) is true of all below it.
var (
	ErrContent   error = &sentinel{text: "bad image content"}
	ErrMalformed error = &sentinel{"malformed image", ErrContent}
	ErrDigest    error = &sentinel{"the content does not have its digest", ErrContent}
	ErrLimit     error = &sentinel{"the image exceeds a limit", ErrContent}
	ErrRedirect  error = &sentinel{"the registry redirects where it must not", ErrContent}
)

// fail wraps err once: an Error of this package stays as it is.
func fail(op, ref string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	return &Error{Op: op, Ref: ref, Err: remedied(err)}
}

// remedied says what can be done about failures that a user can mend.
func remedied(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w (prune the image cache, or put it on another disk)", err)
	case errors.Is(err, unix.EROFS), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w (the image cache must be writable for this user)", err)
	case errors.Is(err, unix.EFBIG):
		return fmt.Errorf("%w (the limit of file sizes, ulimit -f, is too small)", err)
	}
	return err
}

// clean makes text of the other side fit for a terminal and a log: printable,
// one line, short.
func clean(s string) string {
	const most = 200
	var b strings.Builder
	for _, r := range s {
		if b.Len() >= most {
			b.WriteString("…")
			break
		}
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			r = ' '
		}
		b.WriteRune(r)
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// malformed is an ErrMalformed with its particulars.
func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrMalformed, fmt.Errorf(format, args...))
}

// exceeds is an ErrLimit with its particulars.
func exceeds(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrLimit, fmt.Errorf(format, args...))
}
