package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The files of a sandbox's directory.
const (
	ConfigFile    = "config.json"
	StateFile     = "state.json"
	LockFile      = "lock"
	ControlSocket = "control.sock"
	ConsoleLog    = "console" // of internal/logfile
	OutputLog     = "output"  // likewise
	MonitorLog    = "monitor.log"
	UpperFile     = "root.upper"
	RootFile      = "root.erofs"
	ephemeralFile = "ephemeral"
)

// MaxJSON bounds what is read of a state or config file.
const MaxJSON = 4 << 20

// Dir is the directory of one sandbox.
type Dir struct {
	home Home
	Name string
	Path string
}

// Create takes a name: it makes the directory with its config and returns it
// locked. The lock is the returned file; hand it to the monitor, whose life it
// then marks. ErrExists if the name is taken.
func (h Home) Create(name string, config any, ephemeral bool) (_ *Dir, lock *os.File, err error) {
	if err := h.prepare(); err != nil {
		return nil, nil, err
	}
	path := filepath.Join(h.Sandboxes, name)
	// Cheap and early; the rename below decides.
	if _, err := os.Lstat(path); err == nil {
		return nil, nil, &Error{Op: "create", Path: path, Err: ErrExists}
	}
	tmp, err := os.MkdirTemp(h.Sandboxes, newPrefix)
	if err != nil {
		return nil, nil, &Error{Op: "create", Path: path, Err: err}
	}
	d := &Dir{home: h, Name: name, Path: tmp}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
			if lock != nil {
				lock.Close()
				lock = nil
			}
		}
	}()
	if lock, err = d.Lock(); err != nil {
		return nil, lock, err
	}
	if err := d.WriteJSON(ConfigFile, config); err != nil {
		return nil, lock, err
	}
	if ephemeral {
		f, err := os.OpenFile(filepath.Join(tmp, ephemeralFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, lock, &Error{Op: "create", Path: path, Err: err}
		}
		if err := f.Close(); err != nil {
			return nil, lock, &Error{Op: "create", Path: path, Err: err}
		}
	}
	if err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE); err != nil {
		if errors.Is(err, unix.EEXIST) {
			err = ErrExists
		}
		return nil, lock, &Error{Op: "create", Path: path, Err: err}
	}
	d.Path = path
	return d, lock, nil
}

// Open finds the directory of a sandbox. ErrNotFound if there is none.
func (h Home) Open(name string) (*Dir, error) {
	path := filepath.Join(h.Sandboxes, name)
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &Error{Op: "open", Path: path, Err: ErrNotFound}
	case err != nil:
		return nil, &Error{Op: "open", Path: path, Err: err}
	case !info.IsDir():
		return nil, &Error{Op: "open", Path: path, Err: errors.New("not a directory")}
	}
	return &Dir{home: h, Name: name, Path: path}, nil
}

// File is the path of one of the directory's files.
func (d *Dir) File(name string) string { return filepath.Join(d.Path, name) }

// Lock takes the sandbox's lock and returns its holder: closing that file (and
// every duplicate that another process has of it) releases it. ErrLocked while
// a monitor lives.
//
// Between the opening and the locking the sandbox may be removed, and its name
// taken by another: a lock counts only while the name still leads to it.
func (d *Dir) Lock() (*os.File, error) {
	for {
		f, err := os.OpenFile(d.File(LockFile), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, &Error{Op: "lock", Path: d.Path, Err: err}
		}
		if lockOpened != nil {
			lockOpened()
		}
		err = setLock(f)
		var there bool
		if err == nil {
			there, err = leadsTo(d.File(LockFile), f)
		}
		if there {
			return f, nil
		}
		f.Close()
		if err != nil {
			return nil, &Error{Op: "lock", Path: d.Path, Err: err}
		}
	}
}

// lockOpened, if not nil, is a test's, called where Lock can be overtaken.
var lockOpened func()

// leadsTo reports whether path is the open file's name.
func leadsTo(path string, f *os.File) (bool, error) {
	there, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	mine, err := f.Stat()
	return err == nil && os.SameFile(there, mine), err
}

// Locked reports whether a monitor lives. Asking takes nothing, so it cannot
// be in the way of one who locks.
func (d *Dir) Locked() (bool, error) {
	f, err := os.OpenFile(d.File(LockFile), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false, &Error{Op: "lock", Path: d.Path, Err: err}
	}
	defer f.Close()
	held, err := lockHeld(f)
	if err != nil {
		return false, &Error{Op: "lock", Path: d.Path, Err: err}
	}
	return held, nil
}

// Remove deletes the directory. ErrLocked while a monitor lives.
func (d *Dir) Remove() error {
	lock, err := d.Lock()
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return &Error{Op: "remove", Path: d.Path, Err: ErrNotFound}
		}
		return err
	}
	defer lock.Close()
	return d.RemoveLocked()
}

// RemoveEphemeral deletes the directory if it is an ephemeral sandbox's that
// nobody holds any more; else it does nothing.
func (d *Dir) RemoveEphemeral() error {
	if _, err := os.Lstat(d.File(ephemeralFile)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := d.Lock()
	switch {
	case errors.Is(err, ErrLocked), errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	defer lock.Close()
	// Meanwhile the name may have been taken by one that is to stay.
	if _, err := os.Lstat(d.File(ephemeralFile)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return d.RemoveLocked()
}

// RemoveLocked deletes the directory for a caller who holds the lock.
func (d *Dir) RemoveLocked() error {
	gone, err := os.MkdirTemp(d.home.Sandboxes, gonePrefix)
	if err != nil {
		return &Error{Op: "remove", Path: d.Path, Err: err}
	}
	// rename(2) replaces an empty directory (os.Rename refuses to): from here
	// on the name is free.
	if err := unix.Rename(d.Path, gone); err != nil {
		return errors.Join(&Error{Op: "remove", Path: d.Path, Err: err}, os.Remove(gone))
	}
	if err := os.RemoveAll(gone); err != nil {
		return &Error{Op: "remove", Path: d.Path, Err: err}
	}
	return nil
}

// WriteJSON replaces a file atomically: a reader, or a crash at any moment,
// sees the old content or the new.
func (d *Dir) WriteJSON(name string, v any) (err error) {
	path := d.File(name)
	defer func() {
		if err != nil {
			err = &Error{Op: "write", Path: path, Err: err}
		}
	}()
	data, err := json.MarshalIndent(v, "", "\t")
	if err == nil && len(data) >= MaxJSON {
		err = fmt.Errorf("larger than %d bytes", MaxJSON)
	}
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(d.Path, "."+name+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(append(data, '\n')); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// ReadConfig reads what the sandbox was created with. ErrNotFound if it has been
// removed since Open.
func (d *Dir) ReadConfig(v any) error {
	err := d.ReadJSON(ConfigFile, v)
	if errors.Is(err, fs.ErrNotExist) {
		return d.goneOr(err)
	}
	return err
}

// ReadJSON reads a file that WriteJSON wrote.
func (d *Dir) ReadJSON(name string, v any) error {
	path := d.File(name)
	// A FIFO in its place is not waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return &Error{Op: "read", Path: path, Err: err}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxJSON+1))
	if err == nil && len(data) > MaxJSON {
		err = fmt.Errorf("larger than %d bytes", MaxJSON)
	}
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return &Error{Op: "read", Path: path, Err: err}
	}
	return nil
}
