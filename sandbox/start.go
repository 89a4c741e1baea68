package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/monitor"
	"github.com/sandpit-vm/sandpit/internal/state"
	"github.com/sandpit-vm/sandpit/ociroot"
)

// Start boots a sandbox that has stopped or crashed, with the configuration it
// was created with, the same image, and the files that were written in it
// (unless they were kept in memory, see Config.UpperTmpfs). Like one of Create
// it ends with this process. ErrNotFound, or ErrRunning.
func Start(ctx context.Context, name string) (*Sandbox, error) {
	h, err := Get(ctx, name)
	if err != nil {
		return nil, err
	}
	return h.Start(ctx)
}

// StartDetached is Start for a sandbox that outlives this process.
func StartDetached(ctx context.Context, name string) (*Sandbox, error) {
	h, err := Get(ctx, name)
	if err != nil {
		return nil, err
	}
	return h.StartDetached(ctx)
}

// Start is what the function Start says.
func (h *Handle) Start(ctx context.Context) (*Sandbox, error) { return h.start(ctx, false) }

// StartDetached is Start for a sandbox that outlives this process.
func (h *Handle) StartDetached(ctx context.Context) (*Sandbox, error) { return h.start(ctx, true) }

func (h *Handle) start(ctx context.Context, detached bool) (_ *Sandbox, err error) {
	clock := monitor.NewPhaseClock()
	fail := func(err error) (*Sandbox, error) { return nil, &Error{h.Name(), "start", err} }
	lock, err := h.lock(ctx)
	if err != nil {
		return fail(err)
	}
	var before state.State
	known := h.dir.ReadJSON(state.StateFile, &before) == nil
	defer func() {
		if err != nil && known {
			h.unstart(before)
		}
	}()
	// boot hands it to the monitor; before that, this releases it.
	defer lock.Close()
	var r record
	if err := h.dir.ReadConfig(&r); err != nil {
		return fail(err)
	}
	created := h.state.Created
	if created.IsZero() {
		created = time.Now()
	}
	if err := h.dir.WriteJSON(state.StateFile, state.State{Status: Starting, Created: created, Updated: time.Now()}); err != nil {
		return fail(err)
	}
	home, err := state.DefaultHome()
	if err != nil {
		return fail(err)
	}
	files, err := openFiles(home, r.Config)
	if err != nil {
		return fail(err)
	}
	defer files.Close()
	root, err := reopenRoot(ctx, home, h.dir, r)
	if err != nil {
		return fail(err)
	}
	defer root.close()
	if files.Disks, err = root.oldDisks(h.dir, r.Config); err != nil {
		return fail(err)
	}
	files.Lock = lock
	clock.Mark("files opened")
	sb, err := boot(ctx, h.dir, files, r.Config, root, monitor.Spec{
		Home: home, Detached: detached, Created: created, Clock: clock,
	})
	if err != nil {
		return fail(err)
	}
	return sb, nil
}

// unstart writes the state from before a start that did not come to a monitor
// who had a last word: nothing has become of the sandbox.
func (h *Handle) unstart(before state.State) {
	lock, err := h.dir.Lock()
	if err != nil {
		return // gone, or started by another process
	}
	defer lock.Close()
	var now state.State
	if err := h.dir.ReadJSON(state.StateFile, &now); err == nil && now.Status == Starting {
		// If this fails the state says that the start ended without a word.
		_ = h.dir.WriteJSON(state.StateFile, before)
	}
}

// lock takes the sandbox for a start. A monitor that has said its last word
// holds on for some milliseconds.
func (h *Handle) lock(ctx context.Context) (*os.File, error) {
	for {
		lock, err := h.dir.Lock()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, ErrNotFound
		case !errors.Is(err, state.ErrLocked):
			return lock, err
		case !h.isEnding():
			return nil, ErrRunning
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

// reopenRoot opens the root that a sandbox was created with.
func reopenRoot(ctx context.Context, home state.Home, dir *state.Dir, r record) (*rootFS, error) {
	switch r.Config.Root.(type) {
	case OCI:
		store, err := openImages(home)
		if err != nil {
			return nil, err
		}
		f, err := store.OpenRoot(ctx, &ociroot.Image{Digest: r.ImageDigest})
		if err != nil {
			return nil, fmt.Errorf("the image it was created with: %w", err)
		}
		return &rootFS{digest: r.ImageDigest, file: f, ours: true}, nil
	case Dir:
		f, err := os.OpenFile(dir.File(state.RootFile), os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return nil, err
		}
		return &rootFS{file: f, ours: true}, nil
	}
	root, err := openRoot(ctx, home, &r.Config)
	if err == nil && root.builtin != r.DefaultImage {
		root.close()
		// What was written over one image means nothing over another.
		return nil, fmt.Errorf("it was created with the embedded default image of another version of this program (%.12s, not %.12s); start it with that version, or create it again",
			r.DefaultImage, root.builtin)
	}
	return root, err
}

// oldDisks are the disks of a sandbox that ran before.
func (r *rootFS) oldDisks(dir *state.Dir, cfg Config) ([]monitor.Disk, error) {
	disks, err := r.rootDisk(cfg)
	if err != nil {
		return nil, err
	}
	if !r.direct && !cfg.UpperTmpfs {
		f, err := os.OpenFile(dir.File(state.UpperFile), os.O_RDWR|unix.O_NOFOLLOW, 0)
		if err != nil {
			return nil, fmt.Errorf("upper disk: %w", err)
		}
		disks = append(disks, monitor.Disk{Serial: upperSerial, File: f})
	}
	r.file = nil // the caller's now
	return disks, nil
}

// makeRoom removes the sandbox that has a name, if there is one, after a
// graceful stop if it runs.
func makeRoom(ctx context.Context, home state.Home, name string) error {
	for {
		h, err := get(home, name)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			// Not even its state can be read; nothing of it is worth keeping.
			dir, openErr := home.Open(name)
			if openErr != nil {
				return errors.Join(err, openErr)
			}
			return dir.Remove()
		}
		err = h.Remove(ctx)
		if !errors.Is(err, ErrRunning) {
			return err
		}
		err = h.Stop(ctx)
		if errors.Is(err, ErrNotRunning) {
			// It is about to be started, or to end: there will be somebody to
			// ask, or nothing.
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(endPoll):
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := h.waitUnlocked(ctx); err != nil {
			return err
		}
	}
}

// waitUnlocked waits until no monitor holds the sandbox.
func (h *Handle) waitUnlocked(ctx context.Context) error {
	for {
		locked, err := h.dir.Locked()
		if errors.Is(err, fs.ErrNotExist) || err == nil && !locked {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(endPoll):
		}
	}
}

// endPoll is between looks at the lock of a sandbox that was asked to stop.
const endPoll = 20 * time.Millisecond

// Prune deletes the state of all sandboxes that do not run, and returns their
// names. One that cannot be deleted does not keep the others: the error joins
// what went wrong.
func Prune(ctx context.Context) ([]string, error) {
	handles, err := List(ctx)
	errs := []error{err}
	var names []string
	for _, h := range handles {
		if _, ended := h.ExitStatus(); !ended {
			continue
		}
		err := h.Remove(ctx)
		switch {
		case err == nil:
			names = append(names, h.Name())
		case errors.Is(err, ErrRunning) || errors.Is(err, ErrNotFound):
			// Started, or removed, meanwhile.
		default:
			errs = append(errs, err)
		}
	}
	return names, errors.Join(errs...)
}

// RemovePersisted stops the sandbox, if it runs, and deletes its state.
func (s *Sandbox) RemovePersisted(ctx context.Context) error {
	if _, err := s.StopAndWait(ctx); err != nil {
		return err
	}
	if s.cfg.Ephemeral {
		return nil
	}
	err := Remove(ctx, s.name)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
