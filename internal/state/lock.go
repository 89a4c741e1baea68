package state

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// The lock is an open file description lock (fcntl(2), F_OFD_SETLK): like
// flock(2) it belongs to the open file, follows it through fork and exec, and
// ends with its last descriptor; unlike flock(2) it can be asked about without
// being taken.

// setLock locks f exclusively or returns ErrLocked.
func setLock(f *os.File) error {
	l := unix.Flock_t{Type: unix.F_WRLCK}
	err := fcntl(f, unix.F_OFD_SETLK, &l)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return ErrLocked
	}
	return err
}

// lockHeld reports whether another open file holds the lock of f.
func lockHeld(f *os.File) (bool, error) {
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if err := fcntl(f, unix.F_OFD_GETLK, &l); err != nil {
		return false, err
	}
	return l.Type != unix.F_UNLCK, nil
}

func fcntl(f *os.File, cmd int, l *unix.Flock_t) error {
	for {
		err := unix.FcntlFlock(f.Fd(), cmd, l)
		if err != unix.EINTR {
			return err
		}
	}
}
