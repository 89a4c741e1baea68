package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// FS is the files of a running sandbox, as the guest's root sees them. Its
// methods do what those of package os do, and may be called from any goroutine.
//
// Names are the guest's. A relative one is below /, whatever the sandbox's
// Workdir. Permissions of what is made are before the guest's umask, 022.
//
// A failure of the guest's is an [*fs.PathError] or an [*os.LinkError] around a
// [syscall.Errno], so that errors.Is(err, fs.ErrNotExist) works. A failure of
// the host's is an [*Error]: ErrNotRunning, [ErrDraining], a lost connection. The
// end of a context is under either.
type FS struct {
	sandbox string
	// shared is the connection for single operations (newSharedClient), dial one
	// for a File or a tree.
	shared func(context.Context) (*ttrpc.Client, error)
	dial   func(context.Context) (net.Conn, error)
	// lost explains a connection that ended.
	lost       func(error) error
	closeLimit time.Duration
}

// Bounds of what is held in memory for the guest.
const (
	// MaxReadFile is the largest file, in bytes, that [FS.ReadFile] reads.
	// [FS.Open] has no limit.
	MaxReadFile = 256 << 20
	// MaxReadDir is how many entries [FS.ReadDir] reads at most. [File.ReadDir]
	// has no limit.
	MaxReadDir = 1 << 20

	maxListBytes  = 64 << 20 // of names
	maxGuestName  = syscall.PathMax - 1
	maxLinkTarget = syscall.PathMax - 1
)

// FS returns the sandbox's files.
func (s *Sandbox) FS() *FS {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fs == nil {
		s.fs = newFS(s.name, s.filesConn, s.dialAgent, s.lost)
	}
	return s.fs
}

func newFS(name string, shared func(context.Context) (*ttrpc.Client, error), dial func(context.Context) (net.Conn, error), lost func(error) error) *FS {
	return &FS{sandbox: name, shared: shared, dial: dial, lost: lost, closeLimit: closeLimit}
}

// call does a single operation.
func (f *FS) call(ctx context.Context, r *proto.FileRequest) (*proto.FileResponse, error) {
	if len(r.GetPath()) > maxGuestName || len(r.GetTarget()) > maxGuestName {
		return nil, syscall.ENAMETOOLONG
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	client, err := f.shared(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := proto.NewFilesClient(client).Op(ctx, r)
	switch {
	case err != nil:
		return nil, proto.Lost(ctx, err)
	case resp.GetFailure() != nil:
		return resp, &proto.FileError{Failure: resp.GetFailure()}
	case len(resp.GetData()) > proto.MaxChunk:
		return nil, errors.New("the guest sent more data than the protocol allows")
	}
	return resp, nil
}

// session opens a connection of its own.
func (f *FS) session(ctx context.Context) (*proto.FileSession, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	conn, err := f.dial(ctx)
	if err != nil {
		return nil, err
	}
	return proto.StartFileSession(ctx, conn)
}

// once does one operation on a connection of its own: the end of ctx stops it in
// the guest too.
func (f *FS) once(ctx context.Context, r *proto.FileRequest) error {
	if len(r.GetPath()) > maxGuestName || len(r.GetTarget()) > maxGuestName {
		return syscall.ENAMETOOLONG
	}
	s, err := f.session(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Do(r)
	return err
}

// pathError is a failure as package os would give it. Within a tree the guest
// may name another path.
func (f *FS) pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	var guest *proto.FileError
	if errors.As(err, &guest) && guest.Failure.GetRefusal() == proto.FileFailure_NONE {
		if o := guest.Failure.GetOp(); validOp(o) {
			op = o
		}
		if p := guest.Failure.GetPath(); len(p) > 0 && len(p) <= maxGuestName {
			name = string(p)
		}
	}
	cause, ours := f.cause(err)
	if ours {
		return &Error{f.sandbox, op + " " + name, cause}
	}
	return &fs.PathError{Op: op, Path: name, Err: cause}
}

func (f *FS) linkError(op, oldname, newname string, err error) error {
	if err == nil {
		return nil
	}
	cause, ours := f.cause(err)
	if ours {
		return &Error{f.sandbox, op + " " + oldname + " " + newname, cause}
	}
	return &os.LinkError{Op: op, Old: oldname, New: newname, Err: cause}
}

// cause is what is under the error, and whether it is the host's.
func (f *FS) cause(err error) (cause error, ours bool) {
	var guest *proto.FileError
	var errno syscall.Errno
	switch {
	case errors.As(err, &guest):
		switch guest.Failure.GetRefusal() {
		case proto.FileFailure_NONE:
			if n := guest.Failure.GetErrno(); n > 0 && n < 4096 {
				return syscall.Errno(n), false
			}
			return syscall.EIO, false
		case proto.FileFailure_DRAINING:
			return ErrDraining, true
		case proto.FileFailure_TOO_MANY:
			return errors.New("too many files are open, or being copied, in this sandbox; close some"), true
		}
		return errors.New("the guest is not set up yet"), true
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, fs.ErrClosed), errors.Is(err, fs.ErrInvalid):
		return err, false
	case errors.Is(err, proto.ErrLost):
		return f.lost(err), true
	case errors.As(err, &errno):
		var op *net.OpError
		return err, errors.As(err, &op) // of the connection, or ours to give
	}
	return err, true
}

// validOp accepts names of operations: the guest's words go no further.
func validOp(op string) bool {
	if op == "" || len(op) > 16 {
		return false
	}
	for i := range len(op) {
		if c := op[i] | 0x20; c < 'a' || c > 'z' {
			return false
		}
	}
	return true
}

// guestPath is a name as it goes over the wire.
func guestPath(name string) []byte {
	if name == "" || name[0] == '/' {
		return []byte(name)
	}
	return []byte("/" + name)
}
