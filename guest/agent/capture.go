package agent

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// captureGrace is how long the host may take for what a command had written
// when its caller went away.
const captureGrace = time.Second

// capture carries what commands without a terminal write to the host's log,
// beside their callers. A command waits until the host has taken what it
// wrote, so nothing is lost; only when the connection itself breaks do
// commands go on without. One goroutine, run, writes to the connection.
type capture struct {
	conn   net.Conn
	log    *slog.Logger
	frames chan *[]byte
	pool   sync.Pool
	ending chan struct{} // closed: no stream is left
	ended  chan struct{} // closed by run

	mu      sync.Mutex
	streams int // that are being pumped
	idle    chan struct{}
}

func newCapture(conn net.Conn, log *slog.Logger) *capture {
	c := &capture{
		conn: conn, log: log,
		frames: make(chan *[]byte),
		ending: make(chan struct{}),
		ended:  make(chan struct{}),
		idle:   make(chan struct{}, 1),
	}
	go c.run()
	return c
}

// startCapture connects to the host if it wants to know what commands write.
// That is before any command runs, which might connect first.
func (a *Agent) startCapture(r *proto.SetupRequest) error {
	if !r.GetCapture() {
		return nil
	}
	if a.config.DialOutput == nil {
		return errString("this agent cannot capture output")
	}
	conn, err := a.config.DialOutput()
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.capture = newCapture(conn, a.log)
	return nil
}

// endCapture lets the host have the last of what commands wrote. They have
// ended.
func (a *Agent) endCapture(limit time.Duration) {
	a.mu.Lock()
	c := a.capture
	a.mu.Unlock()
	if c != nil {
		c.end(limit)
	}
}

// run writes the frames, and ends with the host's own end of the connection:
// then it has everything.
func (c *capture) run() {
	defer close(c.ended)
	defer c.conn.Close()
	for {
		select {
		case b := <-c.frames:
			_, err := c.conn.Write(*b)
			c.pool.Put(b)
			if err != nil {
				c.log.Error("commands' output is not captured any more", "err", err)
				return
			}
		case <-c.ending:
			if half, ok := c.conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
				_, _ = io.Copy(io.Discard, c.conn)
			}
			return
		}
	}
}

// end waits until the streams have been pumped and the host has them.
func (c *capture) end(limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	_ = c.conn.SetDeadline(time.Now().Add(limit))
	for c.pumping() > 0 {
		select {
		case <-c.idle:
			continue
		case <-c.ended:
		case <-timer.C:
			c.log.Warn("the host does not take the captured output")
		}
		break
	}
	close(c.ending)
	<-c.ended // the deadline sees to it
}

func (c *capture) pumping() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams
}

// captured is one stream of one command. All methods of a nil one do nothing.
type captured struct {
	to     *capture
	id     string
	stream uint32
}

// captured is where a stream of the command goes, nil if it is not captured.
func (x *execution) captured(stream uint32) *captured {
	x.agent.mu.Lock()
	defer x.agent.mu.Unlock()
	if x.agent.capture == nil {
		return nil
	}
	return &captured{x.agent.capture, x.start.GetId(), stream}
}

func (s *captured) begin() {
	if s == nil {
		return
	}
	s.to.mu.Lock()
	defer s.to.mu.Unlock()
	s.to.streams++
}

func (s *captured) end() {
	if s == nil {
		return
	}
	s.to.mu.Lock()
	defer s.to.mu.Unlock()
	if s.to.streams--; s.to.streams == 0 {
		select {
		case s.to.idle <- struct{}{}:
		default:
		}
	}
}

// write returns when the host has taken p, when the connection has broken, or
// some time after ctx.
func (s *captured) write(ctx context.Context, p []byte) {
	if s == nil || len(p) == 0 {
		return
	}
	b, _ := s.to.pool.Get().(*[]byte)
	if b == nil {
		b = new([]byte)
	}
	frame, err := proto.AppendOutputRecord((*b)[:0], &proto.OutputRecord{Id: s.id, Stream: s.stream, Data: p})
	if err != nil {
		s.to.log.Error("capture", "err", err)
		return
	}
	*b = frame
	select {
	case s.to.frames <- b:
		return
	case <-s.to.ended:
		return
	case <-ctx.Done():
	}
	grace := time.NewTimer(captureGrace)
	defer grace.Stop()
	select {
	case s.to.frames <- b:
	case <-s.to.ended:
	case <-grace.C:
	}
}

// maxPipe is the largest that an unprivileged command may make its pipe
// (fcntl(2), F_SETPIPE_SZ).
const maxPipe = 1 << 20

// captureRest captures what is in the pipe of a command whose caller reads no
// more.
func (o *output) captureRest(ctx context.Context) {
	if o.capture == nil {
		return
	}
	rc, err := o.file.SyscallConn()
	if err != nil {
		return
	}
	buf := o.chunks.get()
	defer o.chunks.put(buf)
	for total := 0; total < maxPipe; {
		n := 0
		_ = rc.Control(func(fd uintptr) { n, err = readFD(int(fd), *buf) })
		if n <= 0 || err != nil {
			return
		}
		o.capture.write(ctx, (*buf)[:n])
		total += n
	}
}
