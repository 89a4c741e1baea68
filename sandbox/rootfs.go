package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/defaultroot"
	"github.com/sandpit-vm/sandpit/guest/upper"
	"github.com/sandpit-vm/sandpit/internal/monitor"
	"github.com/sandpit-vm/sandpit/internal/state"
	"github.com/sandpit-vm/sandpit/ociroot"
	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

// Serials of the guest's disks.
const (
	rootSerial  = "root"
	upperSerial = "upper"
)

// rootFS is a sandbox's root file system before the sandbox exists.
type rootFS struct {
	image  ImageConfig // what the image says; empty for those that say nothing
	digest string      // of the OCI image
	// builtin is the digest of the embedded default image.
	builtin string
	file    *os.File // the root disk; nil for tree
	tree    *os.File // the directory it is to be made of
	format  string
	fstype  string
	direct  bool // the guest writes to file
	ours    bool // file is an EROFS image that we made
}

// close closes what disks has not taken over.
func (r *rootFS) close() {
	for _, f := range []*os.File{r.file, r.tree} {
		if f != nil {
			f.Close()
		}
	}
	r.file, r.tree = nil, nil
}

// openRoot opens what cfg.Root names, after a pull if it must be.
func openRoot(ctx context.Context, home state.Home, cfg *Config) (*rootFS, error) {
	switch src := cfg.Root.(type) {
	case OCI:
		return openOCI(ctx, home, cfg, src)
	case Dir:
		tree, err := os.OpenFile(src.Path, os.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil, err
		}
		return &rootFS{tree: tree}, nil
	case Disk:
		return openDisk(src)
	}
	f, err := defaultroot.Image().Open(home.Cache)
	if err != nil {
		return nil, fmt.Errorf("default image: %w", err)
	}
	return &rootFS{builtin: defaultroot.Image().Digest(), file: f, ours: true}, nil
}

func openOCI(ctx context.Context, home state.Home, cfg *Config, src OCI) (*rootFS, error) {
	store, err := openImages(home)
	if err != nil {
		return nil, err
	}
	im, err := store.Pull(ctx, src.Ref, ociroot.PullOptions{
		Policy:   cfg.PullPolicy,
		Auth:     cfg.RegistryAuth,
		Insecure: cfg.RegistryInsecure,
		CAFile:   cfg.RegistryCAFile,
		Limits:   cfg.ImageLimits,
		Progress: cfg.PullProgress,
	})
	if err != nil {
		return nil, err
	}
	f, err := store.OpenRoot(ctx, im)
	if err != nil {
		return nil, err
	}
	return &rootFS{image: im.Config, digest: im.Digest, file: f, ours: true}, nil
}

// openRegular opens a regular file. What it is was checked when the sandbox was
// created, which may be long ago: a FIFO would be waited at for ever.
func openRegular(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func openDisk(src Disk) (*rootFS, error) {
	flags, lock := os.O_RDWR, int16(unix.F_WRLCK)
	if src.ReadOnly {
		flags, lock = os.O_RDONLY, unix.F_RDLCK
	}
	f, err := openRegular(src.Path, flags)
	if err != nil {
		return nil, err
	}
	// The lock belongs to the open file, which the monitor inherits: it lasts
	// as long as the sandbox runs.
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: lock, Whence: unix.SEEK_SET})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		err = errors.New("another sandbox uses this disk image, and one of the two writes to it")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", src.Path, err)
	}
	fstype := src.FSType
	if fstype == "" {
		fstype = "auto"
	}
	return &rootFS{file: f, format: src.Format, fstype: fstype, direct: !src.ReadOnly}, nil
}

// disks makes what is the sandbox's own, in its directory, and returns its
// disks.
func (r *rootFS) disks(ctx context.Context, dir *state.Dir, cfg Config) (_ []monitor.Disk, err error) {
	if r.tree != nil {
		if err := r.flatten(ctx, dir.File(state.RootFile), cfg.ImageLimits); err != nil {
			return nil, err
		}
	}
	disks, err := r.rootDisk(cfg)
	if err != nil {
		return nil, err
	}
	if !r.direct && !cfg.UpperTmpfs {
		f, err := upper.Create(dir.File(state.UpperFile), int64(cfg.UpperSize)<<20)
		if err != nil {
			return nil, fmt.Errorf("upper disk: %w", err)
		}
		disks = append(disks, monitor.Disk{Serial: upperSerial, File: f})
	}
	r.file = nil // the caller's now
	return disks, nil
}

// pmemShare is how many times the guest's memory an image may have to be
// persistent memory: the guest's kernel keeps 64 bytes for each of its pages, a
// 64th of the image.
const pmemShare = 4

// rootDisk is the root disk in its list of disks. An image of ours is
// persistent memory, which the guest reads without exits and which all guests
// share; an unknown kernel may have no driver for it.
func (r *rootFS) rootDisk(cfg Config) ([]monitor.Disk, error) {
	info, err := r.file.Stat()
	if err != nil {
		return nil, err
	}
	return []monitor.Disk{{
		Serial: rootSerial, Format: r.format, File: r.file, ReadOnly: !r.direct,
		PMem: r.ours && cfg.Kernel == "" && info.Size()>>20 <= int64(cfg.Memory)*pmemShare,
	}}, nil
}

// flatten makes a root disk of the tree.
func (r *rootFS) flatten(ctx context.Context, path string, limits ImageLimits) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	b := flatten.New(f, flatten.Options{Limits: limits})
	if err := b.Tree(ctx, r.tree); err != nil {
		return err
	}
	if _, err := b.Close(); err != nil {
		return err
	}
	// The guest's disk cannot be written through this one.
	r.file, err = os.Open(path)
	r.ours = true
	return err
}
