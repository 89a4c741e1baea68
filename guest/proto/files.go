package proto

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/containerd/ttrpc"
)

// Limits of the Files service.
const (
	MaxFileHandles  = 64           // of a session
	firstFileWindow = 2 * MaxChunk // bytes on their way before the guest has said how many
)

// FileSession is the caller's side of a session of file operations. It owns
// its connection. Requests are answered in order; one goroutine receives.
// Any number of goroutines may use it.
type FileSession struct {
	conn   *limitedConn
	stream Files_SessionClient
	ctx    context.Context
	stop   func() bool // the context's hook

	sending sync.Mutex // over a request and its place in the queue

	mu      sync.Mutex
	room    sync.Cond // of mu: an answer has come, or the end
	queue   []*FileCall
	bytes   int // of data in the queue
	window  int
	started bool // the first answer was there
	failed  error

	done chan struct{} // closed when nothing more will be answered
}

// FileCall is a request that was sent.
type FileCall struct {
	size   int           // of its data
	answer chan struct{} // closed when the next two are set
	resp   *FileResponse
	err    error
}

// FileError is a file operation that the guest refused or failed.
type FileError struct {
	Failure *FileFailure
}

func (e *FileError) Error() string {
	return fmt.Sprintf("file operation: errno %d, refusal %v", e.Failure.GetErrno(), e.Failure.GetRefusal())
}

// StartFileSession begins a session over a fresh connection, which it owns from
// now on, failing or not. The end of ctx closes the connection. Whether the
// guest takes the session, its first answer tells.
func StartFileSession(ctx context.Context, conn net.Conn) (*FileSession, error) {
	limited := newLimitedConn(conn)
	s := &FileSession{
		conn: limited, ctx: ctx, window: firstFileWindow,
		stop: context.AfterFunc(ctx, func() { limited.Close() }),
		done: make(chan struct{}),
	}
	s.room.L = &s.mu
	stream, err := NewFilesClient(ttrpc.NewClient(limited)).Session(ctx)
	if err != nil {
		s.stop()
		limited.Close()
		return nil, s.lost(err)
	}
	s.stream = stream
	go s.receive()
	return s, nil
}

// lost is the context's error if it has ended, else ErrLost around the cause.
func (s *FileSession) lost(err error) error { return Lost(s.ctx, err) }

// Start sends a request, when there is room for it. The request's data is not
// kept.
func (s *FileSession) Start(r *FileRequest) *FileCall {
	c := &FileCall{size: len(r.GetData()), answer: make(chan struct{})}
	s.sending.Lock()
	defer s.sending.Unlock()
	if err := s.enqueue(c); err != nil {
		c.err = err
		close(c.answer)
		return c
	}
	if err := s.stream.Send(r); err != nil {
		s.fail(s.lost(err))
		s.conn.Close() // the receiver answers the call
	}
	return c
}

// enqueue waits for room. A request of more than the window waits until
// nothing else is on its way.
func (s *FileSession) enqueue(c *FileCall) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.failed == nil && (len(s.queue) >= Window || s.bytes+c.size > s.window && s.bytes > 0) {
		s.room.Wait()
	}
	if s.failed != nil {
		return s.failed
	}
	s.queue = append(s.queue, c)
	s.bytes += c.size
	return nil
}

// Do sends a request and waits for its answer.
func (s *FileSession) Do(r *FileRequest) (*FileResponse, error) { return s.Start(r).Wait() }

// Wait waits for the answer. The error is a *FileError, ErrLost or the
// context's. The response is there beside a *FileError too.
func (c *FileCall) Wait() (*FileResponse, error) {
	<-c.answer
	return c.resp, c.err
}

// Answered reports whether Wait would return at once.
func (c *FileCall) Answered() bool {
	select {
	case <-c.answer:
		return true
	default:
		return false
	}
}

// Close ends the session. Calls that are not answered fail.
func (s *FileSession) Close() error {
	s.fail(ErrFileSessionClosed)
	s.stop()
	return s.conn.Close()
}

// ErrFileSessionClosed is returned by calls of a session that was closed.
var ErrFileSessionClosed = errors.New("the session is closed")

// Done is closed when the session has ended, by whomever.
func (s *FileSession) Done() <-chan struct{} { return s.done }

// fail ends the session; the first reason counts.
func (s *FileSession) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
	}
	s.room.Broadcast()
}

// receive hands out the answers, and goes on receiving until the connection
// has ended: what nobody receives would make the client log it.
func (s *FileSession) receive() {
	defer s.stop()
	for {
		resp, err := s.stream.Recv()
		if err == nil {
			err = s.take(resp)
		} else {
			err = s.lost(err)
		}
		if err != nil {
			s.fail(err)
			s.conn.Close()
			break
		}
	}
	s.mu.Lock()
	queue, failed := s.queue, s.failed
	s.queue, s.bytes = nil, 0
	s.mu.Unlock()
	for _, c := range queue {
		c.err = failed
		close(c.answer)
	}
	close(s.done)
	for {
		if _, err := s.stream.Recv(); err != nil {
			return
		}
	}
}

// take is one answer. The guest is not trusted: what it says has its bounds.
func (s *FileSession) take(resp *FileResponse) error {
	if len(resp.GetData()) > MaxChunk {
		return errors.New("files: the agent sent more data at once than the protocol allows")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return errors.New("files: the agent answered what was not asked")
	}
	c := s.queue[0]
	s.queue = s.queue[1:]
	s.bytes -= c.size
	if !s.started {
		s.started = true
		s.window = min(max(int(resp.GetWindow()), MaxChunk), Window*MaxChunk)
	}
	s.room.Broadcast()
	c.resp = resp
	if f := resp.GetFailure(); f != nil {
		c.err = &FileError{Failure: f}
	}
	close(c.answer)
	return nil
}
