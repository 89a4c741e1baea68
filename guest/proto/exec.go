package proto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/containerd/ttrpc"
)

// Exec is the caller's side of one running command. It owns its connection.
// One goroutine receives; one each copies stdout and stderr to their writers.
type Exec struct {
	// conn is what ends the Exec. The client is not closed but finds its
	// connection closed: its own Close makes it log, to nobody's use, what was
	// still on its way.
	conn   *limitedConn
	client *ttrpc.Client
	stream Agent_ExecClient
	pid    int
	stop   func() bool // the context's hook
	ctx    context.Context

	stdinFree chan struct{} // a token per stdin message that may be sent
	stdinErr  chan struct{} // closed: the command does not read any more

	out, err *outputPump
	pumps    sync.WaitGroup

	done chan struct{} // closed when the exit, or the connection's end, is known
	exit *ExecExit     // set before done
	fail error         // set before done, when exit is nil

	mu       sync.Mutex
	errno    syscall.Errno // of stdinErr
	stdinEOF bool
}

// StartError says why a command did not start.
type StartError struct {
	Failure *StartFailure
}

func (e *StartError) Error() string { return e.Failure.GetMessage() }

// Unwrap is the guest's errno, nil if there was none.
func (e *StartError) Unwrap() error {
	if n := e.Failure.GetErrno(); n != 0 {
		return syscall.Errno(n)
	}
	return nil
}

// ErrLost is returned when the connection ended before the command did; the
// agent then kills the command.
var ErrLost = errors.New("connection to the guest lost")

// How a caller's time with a kept command ends before the command does.
var (
	ErrDetached = errors.New("detached from the command, which goes on")
	ErrTaken    = errors.New("another caller attached to the command, which goes on")
)

// StartExec starts a command over a fresh connection, which it owns from now
// on, failing or not. Output goes to the writers (nil discards it) until Wait
// returns. It returns a *StartError if the guest could not start the command.
// The end of ctx closes the connection, which kills the command unless it is
// kept.
func StartExec(ctx context.Context, conn net.Conn, start *ExecStart, stdout, stderr io.Writer) (*Exec, error) {
	return newExec(ctx, conn, &ExecInput{Input: &ExecInput_Start{Start: start}}, stdout, stderr)
}

// AttachExec attaches to a kept command over a fresh connection, which it owns
// from now on, failing or not. What the command's terminal showed last goes to
// stdout first. The *StartError of a command that is not there is a NO_EXEC.
func AttachExec(ctx context.Context, conn net.Conn, attach *AttachStart, stdout io.Writer) (*Exec, error) {
	return newExec(ctx, conn, &ExecInput{Input: &ExecInput_Attach{Attach: attach}}, stdout, nil)
}

func newExec(ctx context.Context, conn net.Conn, first *ExecInput, stdout, stderr io.Writer) (*Exec, error) {
	limited := newLimitedConn(conn)
	e := &Exec{
		conn:      limited,
		client:    ttrpc.NewClient(limited),
		ctx:       ctx,
		stop:      context.AfterFunc(ctx, func() { limited.Close() }),
		stdinFree: make(chan struct{}, Window),
		stdinErr:  make(chan struct{}),
		done:      make(chan struct{}),
	}
	for range Window {
		e.stdinFree <- struct{}{}
	}
	if err := e.start(first); err != nil {
		e.stop()
		limited.Close()
		return nil, err
	}
	e.out = newOutputPump(stdout, e.credit(func(n uint32) isExecInput_Input { return &ExecInput_StdoutCredit{n} }),
		e.credit(func(uint32) isExecInput_Input { return &ExecInput_StdoutClosed{true} }))
	e.err = newOutputPump(stderr, e.credit(func(n uint32) isExecInput_Input { return &ExecInput_StderrCredit{n} }),
		e.credit(func(uint32) isExecInput_Input { return &ExecInput_StderrClosed{true} }))
	e.pumps.Go(e.out.run)
	e.pumps.Go(e.err.run)
	go e.receive()
	return e, nil
}

func (e *Exec) start(input *ExecInput) error {
	stream, err := NewAgentClient(e.client).Exec(e.ctx)
	if err != nil {
		return e.lost(err)
	}
	e.stream = stream
	if err := stream.Send(input); err != nil {
		return e.lost(err)
	}
	first, err := stream.Recv()
	if err != nil {
		return e.lost(err)
	}
	switch m := first.GetOutput().(type) {
	case *ExecOutput_Started:
		e.pid = int(m.Started.GetPid())
		return nil
	case *ExecOutput_Failure:
		return &StartError{Failure: m.Failure}
	}
	return fmt.Errorf("start exec: unexpected first message %T", first.GetOutput())
}

// lost turns an error of the stream into the caller's: the context's own error
// if it has ended, else ErrLost around the cause.
func (e *Exec) lost(err error) error { return Lost(e.ctx, err) }

func (e *Exec) credit(message func(uint32) isExecInput_Input) func(uint32) {
	return func(n uint32) {
		// An error shows up in the receive loop too.
		_ = e.stream.Send(&ExecInput{Input: message(n)})
	}
}

// receive dispatches what the agent sends, and goes on receiving until the
// connection has ended: what nobody receives would make the client log it. The
// queues of the pumps hold a whole window, so it never waits.
func (e *Exec) receive() {
	e.receiveUntilExit()
	e.out.end()
	e.err.end()
	close(e.done)
	for {
		if _, err := e.stream.Recv(); err != nil {
			e.conn.Close() // nobody receives from it any more
			return
		}
	}
}

func (e *Exec) receiveUntilExit() {
	for {
		m, err := e.stream.Recv()
		if err != nil {
			e.fail = e.lost(err)
			return
		}
		switch m := m.GetOutput().(type) {
		case *ExecOutput_Stdout:
			err = e.out.push(m.Stdout)
		case *ExecOutput_Stderr:
			err = e.err.push(m.Stderr)
		case *ExecOutput_StdinCredit:
			err = e.addStdinCredit(m.StdinCredit)
		case *ExecOutput_StdinError:
			e.endStdin(syscall.Errno(m.StdinError.GetErrno()))
		case *ExecOutput_Exit:
			e.exit = m.Exit
			return
		case *ExecOutput_Detached:
			e.fail = ErrDetached
			if m.Detached.GetTaken() {
				e.fail = ErrTaken
			}
			return
		default:
			err = fmt.Errorf("exec: unexpected message %T", m)
		}
		if err != nil {
			e.fail = err
			e.conn.Close()
			return
		}
	}
}

func (e *Exec) addStdinCredit(n uint32) error {
	for range min(n, Window+1) {
		select {
		case e.stdinFree <- struct{}{}:
		default:
			return errors.New("exec: the agent returned more stdin credit than it was given")
		}
	}
	return nil
}

func (e *Exec) endStdin(errno syscall.Errno) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.errno != 0 {
		return
	}
	if errno == 0 {
		errno = syscall.EPIPE
	}
	e.errno = errno
	close(e.stdinErr)
}

// PID is the command's process ID in the guest.
func (e *Exec) PID() int { return e.pid }

// Done is closed when the command's exit, or the loss of the connection, is
// known. Output may still be on its way to the writers: see Wait.
func (e *Exec) Done() <-chan struct{} { return e.done }

// Write sends p to the command's stdin and waits while the command does not
// read. It fails with EPIPE when the command has closed its stdin or ended.
func (e *Exec) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		select {
		case <-e.stdinErr: // takes precedence over a free slot
			return n, e.stdinError()
		default:
		}
		select {
		case <-e.stdinFree:
		case <-e.stdinErr:
			return n, e.stdinError()
		case <-e.done:
			return n, syscall.EPIPE
		}
		chunk := p[:min(len(p), MaxChunk)]
		e.mu.Lock()
		closed := e.stdinEOF
		e.mu.Unlock()
		if closed {
			return n, os.ErrClosed
		}
		if err := e.stream.Send(&ExecInput{Input: &ExecInput_Stdin{Stdin: chunk}}); err != nil {
			return n, e.lost(err)
		}
		n += len(chunk)
		p = p[len(chunk):]
	}
	return n, nil
}

func (e *Exec) stdinError() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.errno
}

// CloseStdin gives the command the end of its stdin. Later calls do nothing.
func (e *Exec) CloseStdin() error {
	e.mu.Lock()
	closed := e.stdinEOF
	e.stdinEOF = true
	e.mu.Unlock()
	if closed {
		return nil
	}
	select {
	case <-e.done:
		return nil
	default:
	}
	if err := e.stream.Send(&ExecInput{Input: &ExecInput_StdinEof{StdinEof: true}}); err != nil {
		return e.lost(err)
	}
	return nil
}

// Wait waits for the command's end and for its output to be written, and
// closes the connection. The error is ErrLost, ErrDetached, ErrTaken, the
// context's, or, beside a non-nil exit, the first error of a writer.
func (e *Exec) Wait() (*ExecExit, error) {
	<-e.done
	e.pumps.Wait()
	e.stop()
	e.conn.Close()
	if e.exit == nil {
		if errors.Is(e.fail, ErrDetached) {
			// A writer that failed is why, if one did.
			return nil, errors.Join(e.fail, e.out.failed)
		}
		return nil, e.fail
	}
	return e.exit, errors.Join(e.out.failed, e.err.failed)
}

// Detach lets go of a kept command. Wait tells when that is done.
func (e *Exec) Detach() error {
	select {
	case <-e.done:
		return nil
	default:
	}
	if err := e.stream.Send(&ExecInput{Input: &ExecInput_Detach{Detach: true}}); err != nil {
		return e.lost(err)
	}
	return nil
}

// Close abandons the command: the agent kills it and its descendants, unless it
// is kept.
func (e *Exec) Close() error { return e.conn.Close() }
