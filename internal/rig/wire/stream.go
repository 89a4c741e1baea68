package wire

import (
	"fmt"
	"io"
	"sync"
)

// Sender is the sending end of one stream of one command.
type Sender struct {
	conn    *Conn
	command uint32
	stream  Stream

	mu     sync.Mutex // guards what follows
	cond   sync.Cond
	credit int
	err    error // set: Write fails with it
}

// NewSender returns a sender with a full window.
func NewSender(c *Conn, command uint32, s Stream) *Sender {
	w := &Sender{conn: c, command: command, stream: s, credit: Window}
	w.cond.L = &w.mu
	return w
}

// Write sends p in frames, waiting for credit.
func (w *Sender) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		n, err := w.take(min(len(p)-sent, MaxData))
		if err != nil {
			return sent, err
		}
		f := Frame{Kind: KindData, Stream: w.stream, Command: w.command, Payload: p[sent : sent+n]}
		if err := w.conn.Send(f); err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}

// take waits until there is credit and takes up to n of it.
func (w *Sender) take(n int) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.credit == 0 && w.err == nil {
		w.cond.Wait()
	}
	if w.err != nil {
		return 0, w.err
	}
	n = min(n, w.credit)
	w.credit -= n
	return n, nil
}

// Grant returns n bytes of credit. More than was taken is a protocol error.
func (w *Sender) Grant(n uint32) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if uint64(w.credit)+uint64(n) > Window {
		return &Error{Op: "credit", Err: fmt.Errorf("%w: %d bytes granted on top of %d", ErrProtocol, n, w.credit)}
	}
	w.credit += int(n)
	w.cond.Broadcast()
	return nil
}

// Close sends the end of the stream.
func (w *Sender) Close() error {
	return w.conn.Send(Frame{Kind: KindEOF, Stream: w.stream, Command: w.command})
}

// Fail makes every present and later Write return err.
func (w *Sender) Fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.cond.Broadcast()
}

// Receiver is the receiving end of one stream of one command. Deliver, which
// never blocks, is called by the goroutine that reads frames; Read by the one
// that consumes the stream.
type Receiver struct {
	conn    *Conn
	command uint32
	stream  Stream

	mu   sync.Mutex // guards what follows
	cond sync.Cond
	buf  []byte // received and not yet read, at most Window
	owed int    // read and not yet granted back
	err  error  // set: Read returns it once buf is empty
}

// NewReceiver returns an empty receiver.
func NewReceiver(c *Conn, command uint32, s Stream) *Receiver {
	r := &Receiver{conn: c, command: command, stream: s}
	r.cond.L = &r.mu
	return r
}

// Deliver adds the payload of a data frame. It fails when the sender has
// exceeded its window.
func (r *Receiver) Deliver(p []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil // nobody will read it
	}
	if len(r.buf)+r.owed+len(p) > Window {
		return &Error{Op: "deliver", Err: fmt.Errorf("%w: stream %d of command %d exceeds its window", ErrProtocol, r.stream, r.command)}
	}
	r.buf = append(r.buf, p...)
	r.cond.Broadcast()
	return nil
}

// Fail makes Read return err (io.EOF for the end of the stream) once what was
// delivered has been read.
func (r *Receiver) Fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
	r.cond.Broadcast()
}

// Read reads from the stream, and grants credit for what it took in portions
// of a quarter of the window.
func (r *Receiver) Read(p []byte) (int, error) {
	n, grant, err := r.take(p)
	if grant > 0 {
		if serr := r.conn.SendUint32(KindCredit, r.command, r.stream, uint32(grant)); serr != nil && err == nil {
			err = serr
		}
	}
	return n, err
}

func (r *Receiver) take(p []byte) (n, grant int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.buf) == 0 && r.err == nil {
		r.cond.Wait()
	}
	if len(r.buf) == 0 {
		return 0, 0, r.err
	}
	n = copy(p, r.buf)
	if n == len(r.buf) {
		r.buf = r.buf[:0]
	} else {
		r.buf = r.buf[n:]
	}
	r.owed += n
	if r.owed >= Window/4 && r.err == nil {
		grant, r.owed = r.owed, 0
	}
	return n, grant, nil
}

var (
	_ io.WriteCloser = (*Sender)(nil)
	_ io.Reader      = (*Receiver)(nil)
)
