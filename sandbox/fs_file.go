package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// File is an open file or directory of a sandbox. It is used like an [os.File],
// from any goroutine, and has a connection of its own; at most 128 are open in a
// sandbox at a time. The context that it was opened with governs it until
// Close: its end ends what is under way and what comes after.
//
// Copying out of a File (WriteTo, which io.Copy uses) and into it (ReadFrom)
// keeps several pieces on their way. Read and Write with a large slice do so
// too; with a small one each costs a round trip.
type File struct {
	fs      *FS
	name    string
	ctx     context.Context
	session *proto.FileSession
	append  bool
	info    *fileInfo // when it was opened

	mu     sync.Mutex // over what follows, and an operation at the position
	pos    int64
	dir    []fs.DirEntry // read and not yet returned
	dirEnd bool

	closing sync.Mutex
	closed  bool
}

// handle is the one handle of a File's session.
const handle = 1

// Open opens a file for reading, or a directory.
func (f *FS) Open(ctx context.Context, name string) (*File, error) {
	return f.OpenFile(ctx, name, os.O_RDONLY, 0)
}

// Create makes or empties a file, mode 0666 before the umask, and opens it for
// reading and writing.
func (f *FS) Create(ctx context.Context, name string) (*File, error) {
	return f.OpenFile(ctx, name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
}

// OpenFile opens a file with flags of package os. What is neither a file nor a
// directory is refused (errors.ErrUnsupported), but for /dev/null, zero, full,
// random and urandom.
func (f *FS) OpenFile(ctx context.Context, name string, flag int, perm fs.FileMode) (*File, error) {
	flags, err := openFlags(flag)
	if err == nil && len(name) >= maxGuestName {
		err = syscall.ENAMETOOLONG
	}
	if err != nil {
		return nil, f.pathError("open", name, err)
	}
	s, err := f.session(ctx)
	if err != nil {
		return nil, f.pathError("open", name, err)
	}
	resp, err := s.Do(&proto.FileRequest{
		Kind: proto.FileRequest_OPEN, Path: guestPath(name), Handle: handle, Flags: flags, Mode: unixMode(perm),
	})
	if err != nil {
		s.Close()
		return nil, f.pathError("open", name, err)
	}
	return &File{
		fs: f, name: name, ctx: ctx, session: s,
		append: flag&os.O_APPEND != 0, info: newFileInfo(name, resp.GetAttr()),
	}, nil
}

// Name returns the name that the file was opened with.
func (f *File) Name() string { return f.name }

func (f *File) fail(op string, err error) error {
	if errors.Is(err, proto.ErrFileSessionClosed) {
		err = fs.ErrClosed
	}
	return f.fs.pathError(op, f.name, err)
}

func (f *File) do(r *proto.FileRequest) (*proto.FileResponse, error) {
	r.Handle = handle
	return f.session.Do(r)
}

// closeLimit is how long the guest may take to answer that a file is closed.
const closeLimit = 5 * time.Second

// Close closes the file. It reports what the guest says of it; that data has
// reached a disk only Sync tells. A guest that is silent for five seconds is not
// waited for any longer: Close fails, and so does what is under way, with
// fs.ErrClosed.
func (f *File) Close() error {
	f.closing.Lock()
	closed := f.closed
	f.closed = true
	f.closing.Unlock()
	if closed {
		return &fs.PathError{Op: "close", Path: f.name, Err: fs.ErrClosed}
	}
	defer f.session.Close()
	limit := time.AfterFunc(f.fs.closeLimit, func() { f.session.Close() })
	defer limit.Stop()
	_, err := f.do(&proto.FileRequest{Kind: proto.FileRequest_CLOSE})
	if errors.Is(err, proto.ErrFileSessionClosed) {
		err = fmt.Errorf("the guest did not answer within %v; the file is let go of", f.fs.closeLimit)
	}
	return f.fail("close", err)
}

// Stat returns the file's attributes now.
func (f *File) Stat() (fs.FileInfo, error) {
	resp, err := f.do(&proto.FileRequest{Kind: proto.FileRequest_STAT})
	if err != nil {
		return nil, f.fail("stat", err)
	}
	return newFileInfo(f.name, resp.GetAttr()), nil
}

// Sync has the guest write the file to its disk.
func (f *File) Sync() error {
	_, err := f.do(&proto.FileRequest{Kind: proto.FileRequest_SYNC})
	return f.fail("sync", err)
}

// Truncate changes the file's size, not the position.
func (f *File) Truncate(size int64) error {
	_, err := f.do(&proto.FileRequest{Kind: proto.FileRequest_TRUNCATE, Offset: size})
	return f.fail("truncate", err)
}

// Chmod changes the file's permissions.
func (f *File) Chmod(mode fs.FileMode) error {
	_, err := f.do(&proto.FileRequest{Kind: proto.FileRequest_SET, Set: &proto.FileSet{HasMode: true, Mode: unixMode(mode)}})
	return f.fail("chmod", err)
}

// Chown changes the file's owner; -1 leaves it.
func (f *File) Chown(uid, gid int) error {
	_, err := f.do(&proto.FileRequest{Kind: proto.FileRequest_SET, Set: ownerSet(uid, gid)})
	return f.fail("chown", err)
}

// Seek sets the position of the next Read or Write.
func (f *File) Seek(offset int64, whence int) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += f.pos
	case io.SeekEnd:
		info, err := f.Stat()
		if err != nil {
			return 0, err
		}
		offset += info.Size()
	default:
		return 0, f.fail("seek", syscall.EINVAL)
	}
	if offset < 0 || f.info.IsDir() {
		return 0, f.fail("seek", syscall.EINVAL)
	}
	if err := f.check(); err != nil {
		return 0, f.fail("seek", err)
	}
	f.pos = offset
	return offset, nil
}

// check is for what asks the guest nothing.
func (f *File) check() error {
	f.closing.Lock()
	defer f.closing.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	return f.ctx.Err()
}

// Read reads from the position on. 0 and io.EOF is the end.
func (f *File) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.readAt(p, f.pos)
	f.pos += int64(n)
	if n == 0 && err == nil && len(p) > 0 {
		return 0, io.EOF
	}
	return n, err
}

// ReadAt reads at an offset. Less than asked for comes with an error, io.EOF at
// the end.
func (f *File) ReadAt(p []byte, offset int64) (int, error) {
	if offset < 0 {
		return 0, f.fail("readat", syscall.EINVAL)
	}
	n, err := f.readAt(p, offset)
	if n < len(p) && err == nil {
		err = io.EOF
	}
	return n, err
}

// readAt reads until p is full, or the guest gives less than asked for.
func (f *File) readAt(p []byte, offset int64) (int, error) {
	if len(p) == 0 {
		return 0, f.fail("read", f.check())
	}
	var flight pipeline
	defer flight.drain()
	total, sent := 0, 0
	for total < len(p) {
		for sent < len(p) && flight.room() {
			n := min(len(p)-sent, proto.MaxChunk)
			flight.start(f.session, &proto.FileRequest{Kind: proto.FileRequest_READ, Handle: handle, Offset: offset + int64(sent), Length: uint32(n)})
			sent += n
		}
		want := min(len(p)-total, proto.MaxChunk)
		resp, err := flight.next()
		if err != nil {
			return total, f.fail("read", err)
		}
		if len(resp.GetData()) > want {
			return total, f.fail("read", errors.New("the guest sent more data than was asked for"))
		}
		n := copy(p[total:], resp.GetData())
		total += n
		if n < want {
			break
		}
	}
	return total, nil
}

// Write writes at the position, or at the end if the file was opened to append.
func (f *File) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.writeFrom(bytes.NewReader(p))
	return int(n), err
}

// WriteString is Write of a string.
func (f *File) WriteString(s string) (int, error) { return f.Write([]byte(s)) }

// WriteAt writes at an offset. A file that was opened to append has none.
func (f *File) WriteAt(p []byte, offset int64) (int, error) {
	if offset < 0 {
		return 0, f.fail("writeat", syscall.EINVAL)
	}
	if f.append {
		return 0, f.fail("writeat", fmt.Errorf("%w: the file was opened to append", fs.ErrInvalid))
	}
	n, err := f.copyIn(bytes.NewReader(p), offset)
	return int(n), err
}
