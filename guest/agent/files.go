package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Bounds of what the file service holds at a time. With the bytes of data that
// a session may have on their way (files.window) they bound its memory.
const (
	maxFileSessions = 128
	maxFileHandles  = 1024 // of all sessions
)

// files serves the Files service: the guest's files, as root sees them. Names
// are resolved as for any program of the guest. A session is served by the
// goroutine of its call.
type files struct {
	agent *Agent

	mu       sync.Mutex
	stopped  bool
	handles  int // open, or being opened
	sessions map[*fileSession]struct{}
}

func newFiles(a *Agent) *files {
	return &files{agent: a, sessions: map[*fileSession]struct{}{}}
}

// Op implements the call.
func (f *files) Op(ctx context.Context, r *proto.FileRequest) (_ *proto.FileResponse, err error) {
	defer f.agent.recovered("file operation", &err)
	k := r.GetKind()
	if k >= proto.FileRequest_COPY || k == proto.FileRequest_REMOVE && r.GetAll() || r.GetHandle() != 0 {
		return nil, statusInvalid("this file operation needs a session")
	}
	if err := checkFileRequest(r); err != nil {
		return nil, err
	}
	if err := f.agent.beginWork(); err != nil {
		return refused(err), nil
	}
	defer f.agent.endWork()
	s := newFileSession(ctx, f)
	defer s.end()
	return s.do(r), nil
}

// Session implements the streaming call.
func (f *files) Session(ctx context.Context, stream proto.Files_SessionServer) (err error) {
	defer f.agent.recovered("file session", &err)
	r, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := f.agent.beginWork(); err != nil {
		return stream.Send(refused(err))
	}
	defer f.agent.endWork()
	s := newFileSession(ctx, f)
	window := f.admit(s)
	defer f.release(s) // when its files are closed: stop looks for them there
	defer s.end()
	if window == 0 {
		return stream.Send(&proto.FileResponse{Failure: &proto.FileFailure{Refusal: proto.FileFailure_TOO_MANY, Errno: int32(unix.EMFILE)}})
	}
	for {
		if err := checkFileRequest(r); err != nil {
			return err
		}
		resp := s.do(r)
		resp.Window, window = window, 0
		err := stream.Send(resp)
		s.sent()
		if err != nil {
			return err
		}
		if r, err = stream.Recv(); err != nil {
			return nil // the caller went away
		}
	}
}

// admit counts a session and says how many bytes of data it may have on their
// way. 0: there are too many.
func (f *files) admit(s *fileSession) uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.sessions)
	if f.stopped || n >= maxFileSessions {
		return 0
	}
	f.sessions[s] = struct{}{}
	if n < maxFileSessions/8 {
		return proto.Window * proto.MaxChunk / 2
	}
	return 2 * proto.MaxChunk
}

func (f *files) release(s *fileSession) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.sessions, s)
}

// reserve counts n more handles, or fewer.
func (f *files) reserve(n int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n > 0 && f.stopped {
		return unix.ESHUTDOWN
	}
	if f.handles+n > maxFileHandles {
		return unix.EMFILE
	}
	f.handles += n
	return nil
}

// stop closes every file, for what is open for writing keeps a file system
// from being unmounted. It waits no longer than the limit.
func (f *files) stop(limit time.Duration) {
	f.mu.Lock()
	f.stopped = true
	var ending sync.WaitGroup
	for s := range f.sessions {
		ending.Go(s.end)
	}
	f.mu.Unlock()
	done := make(chan struct{})
	go func() {
		ending.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(limit):
		f.agent.log.Warn("file operations that do not end")
	}
}

// refused is the answer when there is to be no file operation at all.
func refused(err error) *proto.FileResponse {
	refusal := proto.FileFailure_NOT_READY
	if f := asFailure(err); f.kind == proto.StartFailure_DRAINING {
		refusal = proto.FileFailure_DRAINING
	}
	return &proto.FileResponse{Failure: &proto.FileFailure{Refusal: refusal, Errno: int32(unix.EAGAIN)}}
}

// checkFileRequest refuses what no caller that keeps to the protocol sends.
func checkFileRequest(r *proto.FileRequest) error {
	switch {
	case len(r.GetData()) > proto.MaxChunk || r.GetLength() > proto.MaxChunk:
		return statusInvalid("more data at once than 64 KiB")
	case r.GetHandle() > proto.MaxFileHandles:
		return statusInvalid("no such handle")
	}
	return nil
}

// checkPath gives the errors that a system call would give, or should.
func checkPath(path []byte) (string, error) {
	p := string(path)
	switch {
	case p == "":
		return "", unix.ENOENT
	case p[0] != '/' || strings.IndexByte(p, 0) >= 0:
		return "", unix.EINVAL
	case len(p) >= unix.PathMax:
		return "", unix.ENAMETOOLONG
	}
	return p, nil
}

// fileFailure is an error as the caller gets it. A *fs.PathError carries its
// operation and name along.
func fileFailure(err error) *proto.FileFailure {
	f := &proto.FileFailure{Errno: int32(unix.EIO)}
	var errno unix.Errno
	switch {
	case errors.As(err, &errno) && errno != 0:
		f.Errno = int32(errno)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		f.Errno = int32(unix.ECANCELED)
	}
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		f.Op, f.Path = pe.Op, []byte(pe.Path)
	case errors.As(err, &le):
		f.Op, f.Path = le.Op, []byte(le.New)
	}
	if len(f.Path) >= unix.PathMax/2 {
		f.Path = nil // it might not fit the frame
	}
	return f
}
