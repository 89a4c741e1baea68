package assets

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	dirName   = "assets"
	lockName  = "lock"
	tmpSuffix = ".tmp"
)

// dir is the opened cacheDir/assets. Everything below happens relative to its
// descriptor, so that a directory renamed or replaced meanwhile does not matter.
type dir struct {
	root *os.Root
	path string // for messages
}

// openDir opens cacheDir/assets, making what is missing.
func openDir(cacheDir string) (*dir, error) {
	if cacheDir == "" {
		return nil, &Error{Op: "open", Path: `""`, Err: fs.ErrInvalid, Remedy: "a cache directory is needed"}
	}
	path := filepath.Join(cacheDir, dirName)
	root, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, newError("create", path, err)
		}
		root, err = os.OpenRoot(path)
	}
	if err != nil {
		return nil, newError("open", path, err)
	}
	fi, err := root.Stat(".")
	if err == nil && (!ownedByUs(fi) || fi.Mode().Perm()&0o022 != 0) {
		// Whoever can rename in here could hand us another kernel.
		err = &Error{Op: "open", Path: path,
			Err:    fmt.Errorf("the directory (mode %v) can be written by other users: %w", fi.Mode().Perm(), fs.ErrPermission),
			Remedy: "chmod 700 " + path + ", and check whose it is"}
	}
	if err != nil {
		root.Close()
		return nil, newError("open", path, err)
	}
	return &dir{root: root, path: path}, nil
}

func (d *dir) Close() error { return d.root.Close() }

// lock waits until this process is the directory's only writer. The kernel
// drops the lock of a process that dies.
func (d *dir) lock() (unlock func(), err error) {
	path := filepath.Join(d.path, lockName)
	f, err := d.root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, newError("lock", path, err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, newError("lock", path, err)
	}
	return func() { f.Close() }, nil
}

// sweep removes temporary files. Called with the lock held: whoever wrote them
// is gone. What cannot be removed shows when the name is needed.
func (d *dir) sweep() {
	f, err := d.root.Open(".")
	if err != nil {
		return
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	for _, n := range names {
		if strings.HasSuffix(n, tmpSuffix) {
			d.root.Remove(n)
		}
	}
}

// sync makes a rename durable. A failure costs a decompression after a power
// cut and nothing else: the name either leads to the whole file or is missing.
func (d *dir) sync() {
	if f, err := d.root.Open("."); err == nil {
		f.Sync()
		f.Close()
	}
}

// newError adds the path and, for the causes a user can mend, the remedy.
func newError(op, path string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err // the path is in our message, and complete
	}
	e = &Error{Op: op, Path: path, Err: err}
	where := filepath.Dir(path)
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		e.Remedy = "free some space in " + where + " or point SANDPIT_HOME at another disk"
	case errors.Is(err, unix.EROFS):
		e.Remedy = "the file system is read-only: point SANDPIT_HOME at a directory that can be written"
	case errors.Is(err, fs.ErrPermission):
		e.Remedy = "make " + where + " writable for this user or point SANDPIT_HOME at a directory that is"
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		e.Remedy = "a file or link stands where a directory is needed: move it away"
	case errors.Is(err, unix.EFBIG):
		e.Remedy = "the file size limit of this process (ulimit -f) is too small"
	}
	return e
}
