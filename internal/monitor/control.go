package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/sandpit-vm/sandpit/guest/proto"
	"github.com/sandpit-vm/sandpit/internal/state"
)

// The control socket speaks one request and one answer, a line of JSON each.
// After a dial that was answered OK the connection is the agent's: bytes pass
// both ways until either side closes.

// Call is a request on the control socket.
type Call struct {
	Op    string        // one of the Op constants
	Grace time.Duration `json:",omitempty"` // of OpStop
	// HostOnly, of OpMetrics, leaves the guest alone.
	HostOnly bool `json:",omitempty"`
}

// The operations of the control socket.
const (
	OpDial = "dial" // connect to the agent
	OpStop = "stop" // shut down gracefully, within Grace
	OpKill = "kill" // switch off
	OpWait = "wait" // answer again when the sandbox has ended
	OpBoot = "boot" // how the boot went

	OpDrain = "drain" // admit nothing new, stop when all has ended
	OpTouch = "touch" // count as activity

	OpMetrics = "metrics" // what the sandbox uses
)

// Answer is the answer to a Call.
type Answer struct {
	Error string       `json:",omitempty"`
	Boot  *Boot        `json:",omitempty"`
	Final *state.State `json:",omitempty"` // the second answer to OpWait

	Metrics *Metrics `json:",omitempty"`
}

const (
	maxCall       = 4096             // bytes of a Call
	maxClients    = 1024             // connections at a time
	callTimeout   = 10 * time.Second // for a client to say what it wants
	spliceBufSize = 128 << 10
)

// control serves the control socket.
type control struct {
	m        *monitor
	listener *net.UnixListener
	isReady  chan struct{}
	boot     *Boot // set before isReady is closed
	isEnded  chan struct{}
	final    *state.State // set before isEnded is closed
	// asking has room for one question about the guest's metrics.
	asking chan struct{}

	mu      sync.Mutex
	clients map[net.Conn]struct{}
	closed  bool
	wg      sync.WaitGroup
}

func newControl(m *monitor, l *net.UnixListener) *control {
	return &control{m: m, listener: l, isReady: make(chan struct{}), isEnded: make(chan struct{}), asking: make(chan struct{}, 1), clients: make(map[net.Conn]struct{})}
}

// ready lets clients reach the agent.
func (c *control) ready(b *Boot) {
	c.boot = b
	close(c.isReady)
}

func (c *control) serve() {
	for {
		conn, err := c.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors, most likely: a pause lets some go.
			c.m.log.Warn("control socket", "err", err)
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if !c.add(conn) {
			answer(conn, fmt.Errorf("the sandbox is ending, or has too many clients (%d)", maxClients))
			conn.Close()
		}
	}
}

// add starts serving a client; false if there are too many.
func (c *control) add(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.clients) >= maxClients {
		return false
	}
	c.clients[conn] = struct{}{}
	c.wg.Go(func() {
		defer c.remove(conn)
		c.client(conn.(*net.UnixConn))
	})
	return true
}

func (c *control) remove(conn net.Conn) {
	conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.clients, conn)
}

// refuse takes no more clients.
func (c *control) refuse() {
	c.listener.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}

// end tells those who wait how the sandbox ended, and waits until they know.
// The others are done by now, for the guest's connections ended with it; a
// client that does not close its end is not waited for long.
func (c *control) end(final *state.State) {
	c.final = final
	close(c.isEnded)
	impatience := time.AfterFunc(time.Second, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for conn := range c.clients {
			conn.Close()
		}
	})
	defer impatience.Stop()
	c.wg.Wait()
}

func (c *control) client(conn *net.UnixConn) {
	conn.SetReadDeadline(time.Now().Add(callTimeout))
	var call Call
	if err := readLine(conn, &call); err != nil {
		answer(conn, fmt.Errorf("unreadable request: %w", err))
		return
	}
	conn.SetReadDeadline(time.Time{})
	switch call.Op {
	case OpDial:
		c.dial(conn)
	case OpStop:
		c.m.stops.request(stopRequest{reason: ReasonStopped, detail: "asked to stop", grace: max(call.Grace, time.Millisecond)})
		answer(conn, nil)
	case OpKill:
		c.m.stops.request(stopRequest{reason: ReasonKilled, detail: "killed"})
		answer(conn, nil)
	case OpWait:
		c.wait(conn)
	case OpBoot:
		if err := c.starting(); err != nil {
			answer(conn, err)
			return
		}
		reply(conn, Answer{Boot: c.boot})
	case OpDrain:
		err := c.starting()
		if err == nil {
			err = c.m.drain()
		}
		answer(conn, err)
	case OpTouch:
		c.m.activity.touch()
		answer(conn, nil)
	case OpMetrics:
		c.replyMetrics(conn, call.HostOnly)
	default:
		answer(conn, fmt.Errorf("unknown operation %q", call.Op))
	}
}

// wait tells the client when the sandbox has ended, unless it loses patience.
func (c *control) wait(conn *net.UnixConn) {
	if answer(conn, nil) != nil {
		return
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		// Nothing more is expected: the read ends with the client or with us.
		io.Copy(io.Discard, io.LimitReader(conn, maxCall))
	}()
	select {
	case <-c.isEnded:
		reply(conn, Answer{Final: c.final})
	case <-gone:
	}
	conn.Close()
	<-gone
}

// errStarting is an ErrGone too: nothing runs yet.
var errStarting = fmt.Errorf("%w: it is still starting", ErrGone)

// starting is an error until the agent is ready.
func (c *control) starting() error {
	select {
	case <-c.isReady:
		return nil
	default:
		return errStarting
	}
}

// dial connects the client to the agent.
func (c *control) dial(conn *net.UnixConn) {
	if err := c.starting(); err != nil {
		answer(conn, err)
		return
	}
	guest, err := c.m.link.dial(proto.Port)
	if err != nil {
		answer(conn, fmt.Errorf("the agent does not answer: %w", err))
		return
	}
	defer guest.Close()
	if answer(conn, nil) != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		pass(guest, conn, &c.m.activity)
	}()
	pass(conn, guest, &c.m.activity)
	<-done
}

// halfCloser is a connection whose sending side can be closed alone.
type halfCloser interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// pass copies src to dst and passes the end of src on. When dst does not take
// any more both are closed, which ends the other direction too.
func pass(dst, src halfCloser, a *activity) {
	if _, err := io.CopyBuffer(activeWriter{dst, a}, onlyReader{src}, make([]byte, spliceBufSize)); err != nil {
		dst.Close()
		src.Close()
		return
	}
	if err := dst.CloseWrite(); err != nil {
		dst.Close()
		src.Close()
	}
}

// activeWriter and onlyReader hide ReadFrom and WriteTo, which would allocate
// buffers of their own. What passes is activity.
type (
	activeWriter struct {
		w io.Writer
		a *activity
	}
	onlyReader struct{ io.Reader }
)

func (w activeWriter) Write(p []byte) (int, error) {
	w.a.touch()
	return w.w.Write(p)
}

// readLine reads one line of JSON, and not a byte more.
func readLine(r io.Reader, v any) error { return readLineMax(r, v, maxCall) }

func readLineMax(r io.Reader, v any, limit int) error {
	var line []byte
	var b [1]byte
	for {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return err
		}
		if b[0] == '\n' {
			return json.Unmarshal(line, v)
		}
		if line = append(line, b[0]); len(line) > limit {
			return fmt.Errorf("longer than %d bytes", limit)
		}
	}
}

func answer(conn net.Conn, err error) error {
	var a Answer
	if err != nil {
		a.Error = err.Error()
	}
	return reply(conn, a)
}

func reply(conn net.Conn, a Answer) error {
	conn.SetWriteDeadline(time.Now().Add(callTimeout))
	defer conn.SetWriteDeadline(time.Time{})
	return json.NewEncoder(conn).Encode(a)
}
