package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// patcher applies patches to the root file system. Names are resolved as the
// guest's programs would resolve them, but never onto another file system: no
// link of the image leads a patch into /proc, /sys or /dev.
type patcher struct {
	mu   sync.Mutex
	root int      // the root directory; -1 before the first patch
	file *os.File // the FILE or APPEND that DATA goes to
}

// patchResolve is how names are resolved (openat2(2)).
const patchResolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// Patch implements the call.
func (a *Agent) Patch(_ context.Context, r *proto.PatchRequest) (_ *proto.Empty, err error) {
	defer a.recovered("patch", &err)
	a.mu.Lock()
	held := a.setup == setupHeld
	a.mu.Unlock()
	if !held {
		return nil, status.Error(codes.FailedPrecondition, "patches are applied before the first command only")
	}
	if err := a.patches.apply(r); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if r.GetDone() {
		a.mu.Lock()
		a.setup = setupDone
		a.mu.Unlock()
	}
	return &proto.Empty{}, nil
}

func (p *patcher) apply(r *proto.PatchRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(r.GetData()) > proto.MaxPatchData {
		return &Error{Op: "patch", Path: shorten(r.GetPath()), Err: fmt.Errorf("%d bytes at once: more than %d", len(r.GetData()), proto.MaxPatchData)}
	}
	if r.GetKind() == proto.PatchRequest_DATA {
		return p.write(r.GetData())
	}
	// Whatever comes next, the file before is complete.
	if err := p.finish(); err != nil || r.GetKind() == proto.PatchRequest_NONE {
		return err
	}
	if err := p.change(r); err != nil {
		return &Error{Op: strings.ToLower(r.GetKind().String()), Path: shorten(r.GetPath()), Err: err}
	}
	return nil
}

func (p *patcher) write(data []byte) error {
	if p.file == nil {
		return &Error{Op: "patch", Err: errString("data without a file before it")}
	}
	if _, err := p.file.Write(data); err != nil {
		return &Error{Op: "write", Path: p.file.Name(), Err: unwrapPath(err)}
	}
	return nil
}

// finish closes what DATA went to.
func (p *patcher) finish() error {
	if p.file == nil {
		return nil
	}
	f := p.file
	p.file = nil
	if err := f.Close(); err != nil {
		return &Error{Op: "close", Path: f.Name(), Err: unwrapPath(err)}
	}
	return nil
}

func (p *patcher) change(r *proto.PatchRequest) error {
	name := r.GetPath()
	if !strings.HasPrefix(name, "/") || strings.IndexByte(name, 0) >= 0 {
		return errString("not an absolute path")
	}
	name = path.Clean(name)
	if name == "/" {
		return errString("the root itself cannot be patched")
	}
	if r.GetKind() == proto.PatchRequest_APPEND {
		return p.append(name, r)
	}
	// What is mounted in the root is not part of it, and not to be emptied.
	if fd, err := p.open(name, unix.O_PATH|unix.O_NOFOLLOW); err == nil {
		unix.Close(fd)
	} else if err == unix.EXDEV {
		return err
	}
	parent, err := p.openDir(path.Dir(name), r.GetKind() != proto.PatchRequest_REMOVE)
	if errors.Is(err, fs.ErrNotExist) && r.GetKind() == proto.PatchRequest_REMOVE {
		return nil // neither is what is to be removed
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	base := path.Base(name)
	switch r.GetKind() {
	case proto.PatchRequest_REMOVE:
		return unwrapPath(parent.RemoveAll(base))
	case proto.PatchRequest_MKDIR:
		return makeDir(parent, base, r)
	}
	if err := makeWay(parent, base, r.GetReplace()); err != nil {
		return err
	}
	if r.GetKind() == proto.PatchRequest_SYMLINK {
		if err := parent.Symlink(r.GetTarget(), base); err != nil {
			return unwrapPath(err)
		}
		return unwrapPath(parent.Lchown(base, int(r.GetUid()), int(r.GetGid())))
	}
	f, err := parent.OpenFile(base, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return unwrapPath(err)
	}
	// The owner first: a change of it takes the setuid bit away.
	err = f.Chown(int(r.GetUid()), int(r.GetGid()))
	if err == nil {
		err = f.Chmod(patchMode(r, 0o644))
	}
	if err == nil {
		_, err = f.Write(r.GetData())
	}
	if err != nil {
		f.Close()
		return unwrapPath(err)
	}
	p.file = f
	return nil
}

func (p *patcher) append(name string, r *proto.PatchRequest) error {
	fd, err := p.open(name, unix.O_WRONLY|unix.O_APPEND|unix.O_NONBLOCK)
	if err == unix.ENXIO { // a FIFO that nobody reads
		return errString("not a regular file")
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errString("not a regular file")
	}
	if err == nil {
		_, err = f.Write(r.GetData())
	}
	if err != nil {
		f.Close()
		return unwrapPath(err)
	}
	p.file = f
	return nil
}

// open opens a name of the root file system.
func (p *patcher) open(name string, flags uint64) (int, error) {
	if p.root < 0 {
		fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		p.root = fd
	}
	return unix.Openat2(p.root, name, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: patchResolve})
}

// openDir opens a directory, if need be after making it.
func (p *patcher) openDir(name string, create bool) (*os.Root, error) {
	fd, err := p.open(name, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) && create && name != "/" {
		parent, err := p.openDir(path.Dir(name), true)
		if err != nil {
			return nil, err
		}
		defer parent.Close()
		// A dangling link has the name: it is an error, for what it points at
		// is not ours to make.
		if err := parent.Mkdir(path.Base(name), 0o755); err != nil {
			return nil, unwrapPath(err)
		}
		return p.openDir(name, false)
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", fd))
	return root, unwrapPath(err)
}

// makeDir makes a directory or, if there is one, gives it what was asked for.
func makeDir(parent *os.Root, base string, r *proto.PatchRequest) error {
	info, err := parent.Lstat(base)
	exists := err == nil && info.IsDir() && !r.GetMustCreate()
	if !exists {
		if err := makeWay(parent, base, r.GetReplace()); err != nil {
			return err
		}
		if err := parent.Mkdir(base, 0o700); err != nil {
			return unwrapPath(err)
		}
	}
	if !exists || r.GetHasOwner() {
		if err := parent.Lchown(base, int(r.GetUid()), int(r.GetGid())); err != nil {
			return unwrapPath(err)
		}
	}
	if !exists || r.GetHasMode() {
		return unwrapPath(parent.Chmod(base, patchMode(r, 0o755)))
	}
	return nil
}

// makeWay removes what has the name, if that was asked for.
func makeWay(parent *os.Root, base string, replace bool) error {
	_, err := parent.Lstat(base)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return unwrapPath(err)
	case !replace:
		return fmt.Errorf("%w; set Replace to replace it", fs.ErrExist)
	}
	return unwrapPath(parent.RemoveAll(base))
}

// patchMode is the mode asked for, as Go has it.
func patchMode(r *proto.PatchRequest, def uint32) fs.FileMode {
	mode := def
	if r.GetHasMode() {
		mode = r.GetMode()
	}
	m := fs.FileMode(mode & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= flag
		}
	}
	return m
}

// unwrapPath takes away the path that the caller adds.
func unwrapPath(err error) error {
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		return pe.Err
	case errors.As(err, &le):
		return le.Err
	}
	return err
}
