package state

import "errors"

// Error is a failure to read or write the state of sandboxes. Path is the file
// or directory concerned, "" if there is none yet.
type Error struct {
	Op   string
	Path string
	Err  error
}

func (e *Error) Error() string {
	if e.Path == "" {
		return "state: " + e.Op + ": " + e.Err.Error()
	}
	return "state: " + e.Op + " " + e.Path + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Conditions that callers branch on.
var (
	ErrExists   = errors.New("a sandbox of this name exists")
	ErrNotFound = errors.New("no sandbox of this name")
	ErrLocked   = errors.New("the sandbox is running")
)
