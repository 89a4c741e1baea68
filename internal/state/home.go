package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Home is where sandboxes and the cache live. Different homes do not see each
// other.
type Home struct {
	Sandboxes string // one directory per sandbox
	Cache     string // may be deleted at any time while nothing runs
}

// DefaultHome is $SANDPIT_HOME if set, else the XDG state and cache
// directories (XDG Base Directory Specification 0.8), which default to
// ~/.local/state/sandpit and ~/.cache/sandpit.
func DefaultHome() (Home, error) {
	if dir := os.Getenv("SANDPIT_HOME"); dir != "" {
		if !filepath.IsAbs(dir) {
			return Home{}, &Error{Op: "home", Path: dir, Err: errors.New("SANDPIT_HOME is not an absolute path")}
		}
		return Home{Sandboxes: filepath.Join(dir, "sandboxes"), Cache: filepath.Join(dir, "cache")}, nil
	}
	stateDir, err := xdg("XDG_STATE_HOME", ".local/state")
	if err != nil {
		return Home{}, err
	}
	cacheDir, err := xdg("XDG_CACHE_HOME", ".cache")
	if err != nil {
		return Home{}, err
	}
	return Home{
		Sandboxes: filepath.Join(stateDir, "sandpit", "sandboxes"),
		Cache:     filepath.Join(cacheDir, "sandpit"),
	}, nil
}

// xdg is a base directory: the variable if it holds an absolute path (the
// specification says to ignore others), else fallback in the home directory.
func xdg(variable, fallback string) (string, error) {
	if dir := os.Getenv(variable); filepath.IsAbs(dir) {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	if err != nil || !filepath.IsAbs(home) {
		return "", &Error{Op: "home", Err: fmt.Errorf("neither SANDPIT_HOME, %s nor HOME names a directory: set SANDPIT_HOME", variable)}
	}
	return filepath.Join(home, fallback), nil
}

// prepare makes the directory that holds the sandboxes.
func (h Home) prepare() error {
	if err := os.MkdirAll(h.Sandboxes, 0o700); err != nil {
		return &Error{Op: "prepare home", Path: h.Sandboxes, Err: err}
	}
	return nil
}

// List returns the names of the sandboxes, sorted.
func (h Home) List() ([]string, error) {
	entries, err := os.ReadDir(h.Sandboxes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &Error{Op: "list", Path: h.Sandboxes, Err: err}
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// The hidden names: of a directory being filled, and of one being emptied.
const (
	newPrefix  = ".new-"
	gonePrefix = ".gone-"
)

// sweepAge is how long a hidden directory is left to whoever made it. Filling
// one takes milliseconds.
const sweepAge = time.Minute

// Sweep removes what crashed creations and removals left, and ephemeral
// sandboxes whose creator and monitor were both killed. What is in use, or
// too young to tell, stays.
func (h Home) Sweep() error {
	entries, err := os.ReadDir(h.Sandboxes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &Error{Op: "sweep", Path: h.Sandboxes, Err: err}
	}
	var errs []error
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() {
			continue
		}
		if strings.HasPrefix(name, newPrefix) || strings.HasPrefix(name, gonePrefix) {
			info, err := e.Info()
			if err == nil && time.Since(info.ModTime()) > sweepAge {
				errs = append(errs, os.RemoveAll(filepath.Join(h.Sandboxes, name)))
			}
			continue
		}
		if dir, err := h.Open(name); err == nil {
			errs = append(errs, dir.RemoveEphemeral())
		}
	}
	return errors.Join(errs...)
}
