package agent

import (
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Frames of ttrpc, as its PROTOCOL.md has them: length (4 bytes, big endian),
// stream (4), type (1), flags (1), and as many bytes as the length says.
const (
	frameHeader  = 10
	frameRequest = 1
	frameData    = 3
	maxFrame     = proto.MaxArgBytes + 512<<10
	// maxFileFrame is a chunk of data and two names.
	maxFileFrame = proto.MaxChunk + 16<<10
)

// streaming are the calls that stream, by service and method, and how long
// their frames may be.
var streaming = map[[2]string]uint32{
	{"sandpit.agent.v1.Agent", "Exec"}:    maxFrame,
	{"sandpit.agent.v1.Files", "Session"}: maxFileFrame,
}

// guard is a connection that lets only the protocol's frames through to
// ttrpc's server, which trusts its peer (data for a call that does not stream
// would crash it): a connection carries either calls or one call that streams
// (an Exec, a Session of files), and data belongs to that one. Any other input,
// and any error, ends the connection; ttrpc would keep a call alive after some.
type guard struct {
	net.Conn
	log *slog.Logger

	// Reading, by one goroutine.
	pending []byte // checked bytes that are not yet read
	rest    int    // bytes of a data frame still to pass through
	head    [frameHeader]byte
	stream  uint32 // of the call that streams
	limit   uint32 // of the frames of that stream
	control bool   // some other call was made

	once   sync.Once
	closed chan struct{}

	// execs counts the open connections that carry an Exec; nil counts nothing.
	execs *atomic.Int64
	mu    sync.Mutex
	count bool // this one is counted
	ended bool
}

func newGuard(conn net.Conn, log *slog.Logger) *guard {
	return &guard{Conn: conn, log: log, closed: make(chan struct{})}
}

// Close closes the connection.
func (g *guard) Close() error {
	err := g.Conn.Close()
	g.once.Do(func() { close(g.closed) })
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.count {
		g.execs.Add(-1)
	}
	g.count, g.ended = false, true
	return err
}

// carry counts the connection among those that carry an Exec, until it closes.
func (g *guard) carry() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.execs != nil && !g.ended && !g.count {
		g.execs.Add(1)
		g.count = true
	}
}

// Read returns bytes of whole, permitted frames.
func (g *guard) Read(p []byte) (int, error) {
	for len(g.pending) == 0 && g.rest == 0 {
		if err := g.next(); err != nil {
			return 0, g.end(err)
		}
	}
	if len(g.pending) > 0 {
		n := copy(p, g.pending)
		g.pending = g.pending[n:]
		return n, nil
	}
	n, err := g.Conn.Read(p[:min(len(p), g.rest)])
	g.rest -= n
	if err != nil && n == 0 {
		return 0, g.end(err)
	}
	return n, nil
}

// end closes the connection and turns every error into its end.
func (g *guard) end(err error) error {
	if v := new(violation); errors.As(err, v) {
		g.log.Warn("connection closed: protocol violation", "err", string(*v))
	}
	g.Close()
	return io.EOF
}

// violation is a frame that the protocol does not allow.
type violation string

func (v violation) Error() string { return string(v) }

// next reads a frame's header, and the whole frame if it is a request.
func (g *guard) next() error {
	if _, err := io.ReadFull(g.Conn, g.head[:]); err != nil {
		return err
	}
	length := binary.BigEndian.Uint32(g.head[:4])
	stream := binary.BigEndian.Uint32(g.head[4:8])
	if length > maxFrame {
		return violation("frame too long")
	}
	switch g.head[8] {
	case frameData:
		if g.stream == 0 || stream != g.stream {
			return violation("data outside a call that streams")
		}
		if length > g.limit {
			return violation("frame too long")
		}
		g.pending = g.head[:]
		g.rest = int(length)
		return nil
	case frameRequest:
		if g.stream != 0 || stream == 0 {
			return violation("a call beside one that streams")
		}
		frame := make([]byte, frameHeader+int(length))
		copy(frame, g.head[:])
		if _, err := io.ReadFull(g.Conn, frame[frameHeader:]); err != nil {
			return err
		}
		call, err := requestCall(frame[frameHeader:])
		if err != nil {
			return err
		}
		limit, streams := streaming[call]
		switch {
		case !streams:
			g.control = true
		case g.control:
			return violation("a call that streams beside others")
		default:
			g.stream, g.limit = stream, limit
			if call[1] == "Exec" {
				g.carry()
			}
		}
		g.pending = frame
		return nil
	}
	return violation("frame of an unknown type")
}

// requestCall finds the names of service and method in an encoded ttrpc
// request: fields 1 and 2.
func requestCall(b []byte) (call [2]string, err error) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return call, violation("malformed request")
		}
		b = b[n:]
		if (num == 1 || num == 2) && typ == protowire.BytesType {
			v, n := protowire.ConsumeString(b)
			if n < 0 {
				return call, violation("malformed request")
			}
			call[num-1], b = v, b[n:]
			continue
		}
		n = protowire.ConsumeFieldValue(num, typ, b)
		if n < 0 {
			return call, violation("malformed request")
		}
		b = b[n:]
	}
	return call, nil
}

// connQueue hands connections to ttrpc's server, which takes listeners only.
type connQueue struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newConnQueue() *connQueue {
	return &connQueue{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (q *connQueue) push(c net.Conn) error {
	select {
	case q.conns <- c:
		return nil
	case <-q.done:
		return net.ErrClosed
	}
}

// Accept implements net.Listener.
func (q *connQueue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (q *connQueue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

// Addr implements net.Listener.
func (q *connQueue) Addr() net.Addr { return &net.UnixAddr{Name: "agent", Net: "unix"} }
