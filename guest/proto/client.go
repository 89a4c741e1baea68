package proto

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/containerd/ttrpc"
)

// Frames that the guest sends: a chunk of output and what is around it, at
// most. ttrpc alone would take 4 MiB each.
const (
	frameHeader   = 10 // length, stream, type, flags
	maxReplyFrame = MaxChunk + 4<<10
)

// maxOpenStreams bounds the calls of one connection that have no answer yet.
const maxOpenStreams = 4096

// The types of ttrpc's frames, and the flags of a request that begins a call
// that streams and of a message that is the last of its stream.
const (
	frameRequest  = 1
	frameResponse = 2
	frameData     = 3

	flagLast      = 1
	flagStreaming = 1 | 2
)

// NewClient makes a ttrpc client of a connection to the agent, for
// NewAgentClient. The guest is not trusted: a frame that is longer than the
// protocol allows ends the connection before memory is set aside for it, and so
// does one that belongs to no call.
func NewClient(conn net.Conn, opts ...ttrpc.ClientOpts) *ttrpc.Client {
	return ttrpc.NewClient(newLimitedConn(conn), opts...)
}

func newLimitedConn(conn net.Conn) *limitedConn {
	return &limitedConn{Conn: conn, open: make(map[uint32]bool)}
}

var (
	errFrameTooLong   = errors.New("the agent sent a frame that is too long")
	errTooManyStreams = fmt.Errorf("more than %d calls that the agent has not answered", maxOpenStreams)
)

// limitedConn checks every frame that passes: its length, and that it belongs
// to a call that was made and has not been answered. ttrpc's client would write
// a line to the process's log for each one that does not. One goroutine reads,
// one at a time writes.
type limitedConn struct {
	net.Conn
	in, out frames
	err     error // of what was read

	mu   sync.Mutex
	open map[uint32]bool // streams; true: of a call that streams
}

// frames finds the headers in a stream of frames.
type frames struct {
	head [frameHeader]byte
	have int // bytes of the header seen
	rest int // bytes of the frame still to come
}

// next goes on to the end of the next header, or of p. It returns what is left
// of p, and whether there is a header.
func (f *frames) next(p []byte) ([]byte, bool) {
	skip := min(f.rest, len(p))
	f.rest -= skip
	p = p[skip:]
	n := copy(f.head[f.have:], p)
	f.have += n
	if f.have < frameHeader {
		return p[n:], false
	}
	f.have = 0
	return p[n:], true
}

func (f *frames) length() uint32 { return binary.BigEndian.Uint32(f.head[:4]) }
func (f *frames) stream() uint32 { return binary.BigEndian.Uint32(f.head[4:8]) }
func (f *frames) kind() byte     { return f.head[8] }
func (f *frames) flags() byte    { return f.head[9] }

// Read hands on what it reads, up to the header of a frame that is refused.
func (c *limitedConn) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.Conn.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		good := n - len(rest) + min(c.in.rest, len(rest))
		var header bool
		if rest, header = c.in.next(rest); !header {
			break
		}
		if c.err = c.received(); c.err != nil {
			// What came before may be the end of a call.
			c.Conn.Close()
			if good == 0 {
				return 0, c.err
			}
			return good, nil
		}
		c.in.rest = int(c.in.length())
	}
	return n, err
}

// received judges a header of the agent's.
func (c *limitedConn) received() error {
	if c.in.length() > maxReplyFrame {
		return errFrameTooLong
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	streaming, open := c.open[c.in.stream()]
	switch kind := c.in.kind(); {
	case !open:
		return fmt.Errorf("the agent sent a frame of type %d for call %d, which is not under way", kind, c.in.stream())
	case kind == frameResponse, kind == frameData && streaming:
	default:
		return fmt.Errorf("the agent sent a frame of type %d in answer to call %d", kind, c.in.stream())
	}
	if c.in.kind() == frameResponse || c.in.flags()&flagLast != 0 {
		delete(c.open, c.in.stream())
	}
	return nil
}

// Write notes the calls that begin.
func (c *limitedConn) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		var header bool
		if rest, header = c.out.next(rest); !header {
			break
		}
		if err := c.sent(); err != nil {
			c.Conn.Close()
			return 0, err
		}
		c.out.rest = int(c.out.length())
	}
	return c.Conn.Write(p)
}

func (c *limitedConn) sent() error {
	if c.out.kind() != frameRequest {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.open) >= maxOpenStreams {
		return errTooManyStreams
	}
	c.open[c.out.stream()] = c.out.flags()&flagStreaming != 0
	return nil
}

// lostError is ErrLost around its cause, and the caller's context.
type lostError struct {
	cause error
	ctx   context.Context
}

// Lost is the context's error if it has ended, else ErrLost around the cause. It
// has a method Done, which is the context's.
func Lost(ctx context.Context, cause error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return &lostError{cause, ctx}
}

func (e *lostError) Error() string         { return ErrLost.Error() + ": " + e.cause.Error() }
func (e *lostError) Unwrap() []error       { return []error{ErrLost, e.cause} }
func (e *lostError) Done() <-chan struct{} { return e.ctx.Done() }
