package ociroot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Every lock is flock(2): it belongs to the open file, goes with its last
// descriptor whatever happens to the process, and excludes goroutines of one
// process as it does processes, because each opens the file anew.
//
// A locked file may be removed or renamed by its holder. Whoever waited for it
// then has the lock of a file that nobody will open again, so a lock counts only
// while the name still leads to the locked file.

const (
	shared    = unix.LOCK_SH
	exclusive = unix.LOCK_EX
)

// errBusy is what tryLock returns when somebody else has the lock.
var errBusy = errors.New("locked by another process")

// tryLock opens path with flags and locks it, or returns errBusy.
func tryLock(path string, flags, how int) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		if err := flock(f, how|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, errBusy
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		ok, err := sameFile(f, path)
		if ok {
			return f, nil
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
}

// lock is tryLock that waits, until ctx ends. waiting is called once if it has
// to; it may be nil.
func lock(ctx context.Context, path string, flags, how int, waiting func()) (*os.File, error) {
	// Polling, because a thread that waits in flock(2) cannot be called back.
	for pause := time.Millisecond; ; pause = min(pause*2, 50*time.Millisecond) {
		f, err := tryLock(path, flags, how)
		if !errors.Is(err, errBusy) {
			return f, err
		}
		if waiting != nil && pause > 16*time.Millisecond {
			waiting()
			waiting = nil
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, fmt.Errorf("waiting for the lock of another process: %w", err)
		}
	}
}

// unlock gives up an exclusive lock whose file means nothing without it.
func unlock(f *os.File) {
	os.Remove(f.Name()) // at worst it stays, unlocked, until the next prune
	f.Close()
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			return err
		}
	}
}

// sameFile reports whether path still leads to f.
func sameFile(f *os.File, path string) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, there), err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
