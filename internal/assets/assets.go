package assets

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrCorrupt reports bytes that do not have the asset's size or digest.
var ErrCorrupt = errors.New("content does not match its digest")

// Error is what this package returns: the step that failed, the path it failed
// on, the cause and, where there is one, the remedy.
type Error struct {
	Op     string // "open", "decompress", "publish", …
	Path   string
	Err    error
	Remedy string // what the user can do; may be empty
}

func (e *Error) Error() string {
	s := fmt.Sprintf("assets: %s %s: %v", e.Op, e.Path, e.Err)
	if e.Remedy != "" {
		s += " (" + e.Remedy + ")"
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Asset is one file embedded in the binary.
type Asset struct {
	Name       string   // file name: no slash, no leading dot
	SHA256     [32]byte // of the uncompressed bytes
	Size       int64    // of the uncompressed bytes
	Compressed []byte   // one or more zstd frames, window at most 8 MiB
}

// Digest returns the digest of the uncompressed bytes in hexadecimal.
func (a Asset) Digest() string { return hex.EncodeToString(a.SHA256[:]) }

// fileName is the asset's name in the cache.
func (a Asset) fileName() string { return a.Name + "-" + a.Digest() }

// stamp is the modification time of an intact cache file: whole seconds,
// because some file systems keep no more, in 2001 to 2009, when no file of
// ours was written.
func (a Asset) stamp() time.Time {
	n := int64(a.SHA256[0])<<20 | int64(a.SHA256[1])<<12 | int64(a.SHA256[2])<<4
	return time.Unix(1_000_000_000+n, 0)
}

func (a Asset) check() error {
	switch {
	case a.Name == "" || a.Name[0] == '.' || strings.ContainsAny(a.Name, "/\x00") || len(a.Name) > 128:
		return fmt.Errorf("asset name %q: %w", a.Name, fs.ErrInvalid)
	case a.Size < 0:
		return fmt.Errorf("asset size %d: %w", a.Size, fs.ErrInvalid)
	}
	return nil
}

// Open returns the uncompressed asset as a read-only file, positioned at its
// start, from cacheDir/assets; the first call there decompresses it. cacheDir
// is created (0700) if it is missing. Any number of processes may call Open at
// once: one decompresses, the others wait for it.
//
// Errors are *[Error]. A cache file of the wrong size, owner, mode or time is
// replaced; one that is intact is used even if the directory is read-only.
func (a Asset) Open(cacheDir string) (*os.File, error) {
	if err := a.check(); err != nil {
		return nil, &Error{Op: "open", Path: cacheDir, Err: err}
	}
	d, err := openDir(cacheDir)
	if err != nil {
		return nil, err
	}
	defer d.Close()

	if f := a.reuse(d); f != nil {
		return f, nil
	}
	unlock, err := d.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if f := a.reuse(d); f != nil { // another process was faster
		return f, nil
	}
	d.sweep()
	return a.create(d)
}

// Verify reads all of f, which Open returned, and compares size and digest.
// It does not move f's offset.
func (a Asset) Verify(f *os.File) error {
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		return &Error{Op: "verify", Path: f.Name(), Err: err}
	}
	if n != a.Size || [32]byte(h.Sum(nil)) != a.SHA256 {
		return &Error{Op: "verify", Path: f.Name(), Err: ErrCorrupt, Remedy: "remove the file; it is made again when needed"}
	}
	return nil
}

// reuse opens the cached file, or returns nil if it must be made (again).
func (a Asset) reuse(d *dir) *os.File {
	// A FIFO would block the open, a symbolic link lead elsewhere.
	fi, err := d.root.Lstat(a.fileName())
	if err != nil || !fi.Mode().IsRegular() {
		return nil
	}
	f, err := d.root.Open(a.fileName())
	if err != nil {
		return nil
	}
	if !a.intact(f) {
		f.Close()
		return nil
	}
	return f
}

// intact judges an open cache file by what fstat tells.
func (a Asset) intact(f *os.File) bool {
	fi, err := f.Stat()
	if err != nil {
		return false
	}
	return fi.Mode() == 0o444 && fi.Size() == a.Size && fi.ModTime().Equal(a.stamp()) && ownedByUs(fi)
}

// ownedByUs reports whether only this user, or root, can have written the file.
func ownedByUs(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && (st.Uid == 0 || int64(st.Uid) == int64(os.Geteuid()))
}

// create decompresses into a temporary file, checks it and renames it.
// Called with the directory's lock held.
func (a Asset) create(d *dir) (_ *os.File, err error) {
	tmp := a.fileName() + tmpSuffix
	path := filepath.Join(d.path, tmp)
	f, err := d.root.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, newError("create", path, err)
	}
	defer func() {
		f.Close()
		if err != nil {
			d.root.Remove(tmp)
		}
	}()
	if err := a.decompress(f); err != nil {
		return nil, newError("decompress", path, err)
	}
	// Mode and time come last: they are part of what declares the file whole.
	if err := f.Chmod(0o444); err != nil {
		return nil, newError("chmod", path, err)
	}
	if err := unix.Futimes(int(f.Fd()), timevals(a.stamp())); err != nil {
		return nil, newError("stamp", path, err)
	}
	if err := f.Sync(); err != nil {
		return nil, newError("sync", path, err)
	}
	if err := d.root.Rename(tmp, a.fileName()); err != nil {
		return nil, newError("publish", path, err)
	}
	d.sync()
	// The caller's is read-only, and knows its name.
	out, err := d.root.Open(a.fileName())
	if err != nil {
		return nil, newError("open", filepath.Join(d.path, a.fileName()), err)
	}
	return out, nil
}

func timevals(t time.Time) []unix.Timeval {
	tv := unix.NsecToTimeval(t.UnixNano())
	return []unix.Timeval{tv, tv}
}
