package agent

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// chunkPool lends the buffers of all outputs. A buffer is held only while
// there is something to read, so that a quiet command costs none.
type chunkPool struct{ pool sync.Pool }

func (c *chunkPool) get() *[]byte {
	if b, ok := c.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, proto.MaxChunk)
	return &b
}

func (c *chunkPool) put(b *[]byte) { c.pool.Put(b) }

// output carries one stream of a command to its caller, as far as the caller
// has given credit.
type output struct {
	file   *os.File
	chunks *chunkPool
	send   func([]byte) error
	credit chan struct{} // a token per message that may be sent
	keep   bool          // the file is a terminal's: run leaves it open
	ended  atomic.Bool

	capture *captured     // nil: none
	once    sync.Once     // of hangUp
	hungUp  chan struct{} // closed by hangUp
}

func newOutput(file *os.File, chunks *chunkPool, send func([]byte) error) *output {
	o := &output{file: file, chunks: chunks, send: send, credit: make(chan struct{}, proto.Window), hungUp: make(chan struct{})}
	for range proto.Window {
		o.credit <- struct{}{}
	}
	return o
}

func (o *output) addCredit(n uint32) error {
	for range min(n, proto.Window+1) {
		select {
		case o.credit <- struct{}{}:
		default:
			return errString("more credit than messages were sent")
		}
	}
	return nil
}

// hangUp closes the pipe: the command's next write gets EPIPE. What is captured
// is read to its end first, by run.
func (o *output) hangUp() {
	if o.capture == nil {
		o.file.Close()
		return
	}
	o.once.Do(func() {
		close(o.hungUp)
		_ = o.file.SetReadDeadline(time.Unix(1, 0))
	})
}

// end gives the output so much time to reach its end.
func (o *output) end(grace time.Duration) {
	o.ended.Store(true)
	_ = o.file.SetReadDeadline(time.Now().Add(grace))
}

// run reads and sends until the end of the file, the end of its grace, or ctx,
// and closes the file. A terminal stays open: its end only says that nobody
// has it open just now, and closing it would hang up.
func (o *output) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = o.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if !o.keep {
		defer o.file.Close()
	}
	o.capture.begin()
	defer o.capture.end()
	for {
		select {
		case <-o.credit:
		case <-o.hungUp:
			o.captureRest(ctx)
			return
		case <-ctx.Done():
			o.captureRest(ctx)
			return
		}
		n, err := o.forward(ctx)
		if err == nil && n > 0 {
			continue
		}
		switch {
		case ctx.Err() != nil || o.isHungUp():
			o.captureRest(ctx)
		case errors.Is(err, os.ErrDeadlineExceeded) && o.ended.Load():
			o.forwardRest(ctx)
			o.captureRest(ctx) // a pipe may be larger than a message
		}
		return
	}
}

func (o *output) isHungUp() bool {
	select {
	case <-o.hungUp:
		return true
	default:
		return false
	}
}

// forward waits for output and sends one message of it. 0 is the end.
func (o *output) forward(ctx context.Context) (int, error) {
	rc, err := o.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	var readErr error
	var buf *[]byte
	err = rc.Read(func(fd uintptr) bool {
		buf = o.chunks.get()
		n, readErr = readFD(int(fd), *buf)
		if errors.Is(readErr, unix.EAGAIN) {
			o.chunks.put(buf)
			buf = nil
			return false
		}
		return true
	})
	if buf == nil {
		return 0, err
	}
	defer o.chunks.put(buf)
	if err != nil || readErr != nil || n == 0 {
		return 0, errors.Join(err, readErr)
	}
	o.capture.write(ctx, (*buf)[:n])
	if err := o.send((*buf)[:n]); err != nil {
		return 0, err
	}
	return n, nil
}

// forwardRest sends what a pipe that others still hold open has at this
// moment, one message at most: the size of a pipe.
func (o *output) forwardRest(ctx context.Context) {
	rc, err := o.file.SyscallConn()
	if err != nil {
		return
	}
	buf := o.chunks.get()
	defer o.chunks.put(buf)
	n := 0
	_ = rc.Control(func(fd uintptr) {
		for n < len(*buf) {
			m, err := readFD(int(fd), (*buf)[n:])
			if m <= 0 || err != nil {
				return
			}
			n += m
		}
	})
	if n > 0 {
		o.capture.write(ctx, (*buf)[:n])
		_ = o.send((*buf)[:n])
	}
}

func readFD(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}

func (x *execution) sendStdout(b []byte) error {
	return x.stream.Send(&proto.ExecOutput{Output: &proto.ExecOutput_Stdout{Stdout: b}})
}

func (x *execution) sendStderr(b []byte) error {
	return x.stream.Send(&proto.ExecOutput{Output: &proto.ExecOutput_Stderr{Stderr: b}})
}
