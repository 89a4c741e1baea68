package ociroot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

// Options are a store's. The zero value is good.
type Options struct {
	Downloads    int            // layers at once; 0: 4
	StallTimeout time.Duration  // how long a registry may send next to nothing; 0: 30 s
	Limits       flatten.Limits // of one image; zero fields: flatten's defaults
	UserAgent    string         // "": "sandpit"
}

// Store is a cache of images and of the root file systems made from them. Any
// number of processes may use one directory.
type Store struct {
	dir   string
	o     Options
	pause time.Duration // before the second try of a request

	// dialer is the network's, unless a test has a network of its own.
	dialer func(ctx context.Context, network, address string) (net.Conn, error)
}

// layoutFile is what makes a directory an OCI image layout.
const layoutFile = `{"imageLayoutVersion":"1.0.0"}`

// OpenStore opens the cache in dir, an absolute path, and makes it if it is
// missing (0700). A directory that other users can write is refused: they could
// put another root there.
func OpenStore(dir string, o Options) (*Store, error) {
	switch {
	case !filepath.IsAbs(dir):
		return nil, &Error{Op: "open store", Ref: dir, Err: fmt.Errorf("%w: the directory must be an absolute path", ErrOptions)}
	case o.Downloads < 0 || o.Downloads > 64:
		return nil, &Error{Op: "open store", Ref: dir, Err: fmt.Errorf("%w: Downloads %d is not in 0 to 64", ErrOptions, o.Downloads)}
	case o.StallTimeout < 0:
		return nil, &Error{Op: "open store", Ref: dir, Err: fmt.Errorf("%w: StallTimeout is negative", ErrOptions)}
	}
	if o.Downloads == 0 {
		o.Downloads = 4
	}
	if o.StallTimeout == 0 {
		o.StallTimeout = 30 * time.Second
	}
	if o.UserAgent == "" {
		o.UserAgent = "sandpit"
	}
	s := &Store{dir: filepath.Clean(dir), o: o, pause: firstPause, dialer: (&net.Dialer{Timeout: 20 * time.Second}).DialContext}
	if _, err := os.Lstat(s.indexPath()); errors.Is(err, fs.ErrNotExist) {
		if err := s.create(context.Background()); err != nil {
			return nil, fail("create store", dir, err)
		}
	}
	if err := ownDirectory(s.dir); err != nil {
		return nil, fail("open store", dir, err)
	}
	return s, nil
}

// Dir is the store's directory.
func (s *Store) Dir() string { return s.dir }

// Layout is the directory of the OCI image layout, for other tools to read.
func (s *Store) Layout() string { return filepath.Join(s.dir, "oci") }

// create makes what is missing; index.json comes last and tells that all is
// there.
func (s *Store) create(ctx context.Context) error {
	for _, d := range []string{s.blobDir(), s.path("roots"), s.path("partial"), s.path("tmp"), s.path("leases"), s.path("locks")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	return s.locked(ctx, func() error {
		if _, err := os.Lstat(s.indexPath()); !errors.Is(err, fs.ErrNotExist) {
			return err // somebody else was faster
		}
		if err := s.replace(filepath.Join(s.Layout(), "oci-layout"), []byte(layoutFile)); err != nil {
			return err
		}
		return s.writeIndex(&index{SchemaVersion: 2, MediaType: mediaIndex, Manifests: []v1.Descriptor{}})
	})
}

func ownDirectory(dir string) error {
	fi, err := os.Stat(dir)
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || st.Uid != 0 && int64(st.Uid) != int64(os.Geteuid()) || fi.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("other users can write the directory (mode %v): chmod 700 it, and check whose it is: %w", fi.Mode().Perm(), fs.ErrPermission)
	}
	return nil
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *Store) blobDir() string            { return filepath.Join(s.Layout(), "blobs", "sha256") }
func (s *Store) blobPath(h v1.Hash) string  { return filepath.Join(s.blobDir(), h.Hex) }
func (s *Store) indexPath() string          { return filepath.Join(s.Layout(), "index.json") }
func (s *Store) rootPath(hex string) string { return s.path("roots", hex+".erofs") }
func (s *Store) infoPath(hex string) string { return s.path("roots", hex+".json") }

// locked runs f while this caller is the only one who changes index.json,
// announces what it needs, or collects garbage. f must be quick.
func (s *Store) locked(ctx context.Context, f func() error) error {
	l, err := lock(ctx, s.path("lock"), os.O_RDWR|os.O_CREATE, exclusive, nil)
	if err != nil {
		return err
	}
	defer l.Close() // the file stays: its name is never locked for anything else
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return f()
}

// once runs f while no other operation called name runs, in any process. f
// has to look first whether another one has just done its work.
func (s *Store) once(ctx context.Context, name string, waiting func(), f func() error) error {
	l, err := lock(ctx, s.path("locks", name), os.O_RDWR|os.O_CREATE, exclusive, waiting)
	if err != nil {
		return err
	}
	defer unlock(l)
	return f()
}

// temp makes a new file in tmp, locked for as long as it is open, so that its
// death shows.
func (s *Store) temp() (*os.File, error) {
	return lock(context.Background(), s.path("tmp", rand.Text()), os.O_RDWR|os.O_CREATE, exclusive, nil)
}

// discard removes a file of temp that did not become anything.
func discard(f *os.File) {
	os.Remove(f.Name())
	f.Close()
}

// replace puts data under path, synced, whole or not at all.
func (s *Store) replace(path string, data []byte) error {
	f, err := s.temp()
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		discard(f)
		return err
	}
	if err := publish(f, path); err != nil {
		discard(f)
		return err
	}
	f.Close()
	return syncDir(filepath.Dir(path))
}

// publish gives a finished file its final name. The directory is not synced.
func publish(f *os.File, path string) error {
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// sweepTemp removes temporary files whose writers are dead, and reports how
// many bytes they held.
func (s *Store) sweepTemp() (freed int64, err error) {
	entries, err := os.ReadDir(s.path("tmp"))
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, e := range entries {
		n, err := removeUnlocked(s.path("tmp", e.Name()))
		freed += n
		errs = append(errs, err)
	}
	return freed, errors.Join(errs...)
}

// removeUnlocked removes a file unless somebody has it locked, and reports its
// size if it is gone.
func removeUnlocked(path string) (int64, error) {
	f, err := tryLock(path, os.O_RDONLY, exclusive)
	switch {
	case errors.Is(err, errBusy), errors.Is(err, fs.ErrNotExist):
		return 0, nil
	case err != nil:
		return 0, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if err := os.Remove(path); err != nil {
		return 0, err
	}
	return diskSize(fi), nil
}

// diskSize is what a file takes on the disk.
func diskSize(fi fs.FileInfo) int64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return fi.Size()
}
