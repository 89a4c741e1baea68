package monitor

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sandpit-vm/sandpit/guest/proto"
	"github.com/sandpit-vm/sandpit/internal/logfile"
	"github.com/sandpit-vm/sandpit/internal/state"
	"github.com/sandpit-vm/sandpit/virtio"
)

// How much is kept: the guest decides how much it writes.
const (
	consoleFileBytes, consoleBackups = 1 << 20, 1
	outputFileBytes, outputBackups   = 10 << 20, 3
)

// lastOutput is how long the end of the captured output is waited for once the
// machine has ended: it lies in memory, but a disk may be slow.
const lastOutput = 2 * time.Second

// logs are what the sandbox leaves to read: what its console showed and, if
// that is asked for, what its commands wrote.
type logs struct {
	log     *slog.Logger
	root    *os.Root // of the sandbox's directory: nothing else is opened
	console *consoleLog
	output  *outputLog // nil: not asked for
}

// openLogs opens the logs and the port that the output comes by.
func (m *monitor) openLogs(vsock *virtio.Vsock) (err error) {
	l := &logs{log: m.log}
	if l.root, err = os.OpenRoot(m.dir.Path); err != nil {
		return err
	}
	m.logs = l
	w, err := logfile.Open(l.root, state.ConsoleLog, logfile.Limits{FileBytes: consoleFileBytes, Backups: consoleBackups})
	if err != nil {
		return err
	}
	l.console = &consoleLog{log: w}
	if !m.spec.Capture {
		return nil
	}
	limits := logfile.Limits{FileBytes: outputFileBytes, Backups: outputBackups}
	if n := m.spec.OutputFileBytes; n > 0 {
		limits.FileBytes = n
	}
	if w, err = logfile.Open(l.root, state.OutputLog, limits); err != nil {
		return err
	}
	listener, err := vsock.Listen(proto.OutputPort)
	if err != nil {
		return errors.Join(err, w.Close())
	}
	l.output = newOutputLog(w, listener, m.log)
	return nil
}

// close writes what is left once the machine has ended. It may be called again,
// and for logs that were not opened.
func (l *logs) close() {
	if l == nil || l.root == nil {
		return
	}
	var writers []*logfile.Writer
	if l.console != nil {
		l.console.flush()
		writers = append(writers, l.console.log)
	}
	if l.output != nil && l.output.wait(lastOutput) {
		writers = append(writers, l.output.log)
	}
	for _, w := range writers {
		if lost := w.Lost(); lost.Entries > 0 {
			l.log.Error("entries of a log were not written", "entries", lost.Entries, "bytes", lost.Bytes, "err", lost.Err)
		}
		if err := w.Close(); err != nil {
			l.log.Error("log", "err", err)
		}
	}
	l.root.Close()
	l.root = nil
}

// consoleLog is the serial port's writer: it makes lines of bytes.
type consoleLog struct {
	log *logfile.Writer

	mu  sync.Mutex
	buf []byte
}

// maxConsoleLine is where a line without an end is written as it is.
const maxConsoleLine = 4 << 10

// Write never fails: the guest's console must not stop because the host's disk
// is full.
func (c *consoleLog) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range p {
		if n := len(c.buf); b == '\n' && n > 0 && c.buf[n-1] == '\r' {
			c.buf = c.buf[:n-1] // the serial port's own
		}
		c.buf = append(c.buf, b)
		if b == '\n' || len(c.buf) >= maxConsoleLine {
			c.flushLocked()
		}
	}
	return len(p), nil
}

// flush writes an unfinished line.
func (c *consoleLog) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushLocked()
}

func (c *consoleLog) flushLocked() {
	c.log.Append(logfile.Console, "", c.buf)
	c.buf = c.buf[:0]
}

// outputLog takes what the agent says that commands wrote. One goroutine reads
// the one connection; the guest waits for it.
type outputLog struct {
	log      *logfile.Writer
	listener net.Listener
	slog     *slog.Logger
	done     chan struct{}
}

func newOutputLog(w *logfile.Writer, l net.Listener, log *slog.Logger) *outputLog {
	o := &outputLog{log: w, listener: l, slog: log, done: make(chan struct{})}
	go o.run()
	return o
}

// wait waits until what the guest has sent is written; false if that takes too
// long.
func (o *outputLog) wait(limit time.Duration) bool {
	o.listener.Close()
	select {
	case <-o.done:
		return true
	case <-time.After(limit):
		o.slog.Error("the end of the captured output was not written in time")
		return false
	}
}

func (o *outputLog) run() {
	defer close(o.done)
	conn, err := o.listener.Accept()
	// One agent, one connection, before any command runs.
	o.listener.Close()
	if err != nil {
		return
	}
	// The agent waits for this end before it switches the power off.
	defer conn.Close()
	r := proto.NewOutputReader(conn)
	for {
		record, err := r.Next()
		if err == nil {
			o.log.Append(source(record.GetStream()), record.GetId(), record.GetData())
			continue
		}
		var broken *net.OpError
		switch {
		case errors.Is(err, io.EOF):
		case errors.As(err, &broken):
			o.slog.Debug("captured output", "err", err) // the machine's end, most likely
		default:
			err = fmt.Errorf("the guest sent what is no output of commands, and its output is not captured any more: %w", err)
			o.slog.Warn("captured output", "err", err)
			o.log.Notice("%v", err)
		}
		return
	}
}

func source(stream uint32) string {
	if stream == proto.StreamStderr {
		return logfile.Stderr
	}
	return logfile.Stdout
}
