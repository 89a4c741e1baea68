package state

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// Status is where a sandbox is in its life.
type Status string

// The statuses. Draining: nothing new begins in it, and when the last command
// has ended it stops.
const (
	Starting Status = "starting"
	Running  Status = "running"
	Draining Status = "draining"
	Stopped  Status = "stopped"
	Crashed  Status = "crashed"
)

// State is the content of state.json.
type State struct {
	Status  Status    `json:"status"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
	// Reason is why the sandbox ended, Code its exit code, and Console the
	// console's last lines if it did not end in order.
	Reason  string `json:"reason,omitempty"`
	Detail  string `json:"detail,omitempty"`
	Code    int    `json:"code"`
	Console string `json:"console,omitempty"`
}

// Read returns what became of the sandbox. A sandbox whose state says that it
// lives while its lock is free has crashed. ErrNotFound if it has been removed
// since Open.
func (d *Dir) Read() (State, error) {
	// The lock first: a monitor writes its last state before it lets go, so a
	// free lock makes the state read after it final.
	locked, err := d.Locked()
	if err != nil {
		return State{}, d.goneOr(err)
	}
	var s State
	err = d.ReadJSON(StateFile, &s)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := d.goneOr(nil); err != nil {
			return State{}, err
		}
		s.Status = Starting
	case err != nil:
		return State{}, err
	}
	if !locked {
		switch s.Status {
		case Stopped, Crashed:
		default:
			s.Status = Crashed
			s.Reason = "crashed"
			s.Detail = "the monitor ended without a word: killed, or out of memory"
		}
	}
	return s, nil
}

// goneOr is ErrNotFound if the directory is no longer there, and otherwise err.
func (d *Dir) goneOr(err error) error {
	if _, statErr := os.Lstat(d.Path); errors.Is(statErr, fs.ErrNotExist) {
		return &Error{Op: "read", Path: d.Path, Err: ErrNotFound}
	}
	return err
}
