package l1

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/rig/wire"
)

// server runs the commands that arrive on one connection.
type server struct {
	conn   *wire.Conn
	reaper *reaper
	shares bool // there are writable shares to flush

	mu       sync.Mutex // guards commands
	commands map[uint32]*command
}

func newServer(c *wire.Conn, shares bool) *server {
	return &server{conn: c, shares: shares, reaper: newReaper(), commands: make(map[uint32]*command)}
}

// serve reads frames until the connection ends. It never waits for a command.
func (s *server) serve() error {
	for {
		f, err := s.conn.Receive()
		if err != nil {
			return err
		}
		switch f.Kind {
		case wire.KindStart:
			err = s.start(f)
		case wire.KindPing:
			err = s.conn.Send(wire.Frame{Kind: wire.KindPong})
		default:
			s.deliver(f)
		}
		if err != nil {
			return err
		}
	}
}

func (s *server) start(f wire.Frame) error {
	var spec wire.Spec
	if err := f.JSON(&spec); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.commands[f.Command] != nil {
		return fmt.Errorf("command %d started twice", f.Command)
	}
	c := newCommand(s, f.Command, spec)
	s.commands[f.Command] = c
	go func() {
		exit := c.run()
		s.mu.Lock()
		delete(s.commands, c.id)
		s.mu.Unlock()
		// A failure to send is seen by the reading side too.
		_ = s.conn.SendJSON(wire.KindExit, c.id, exit)
	}()
	return nil
}

// deliver passes a frame to its command. One that has just ended is not an
// error: the host cannot know yet.
func (s *server) deliver(f wire.Frame) {
	s.mu.Lock()
	c := s.commands[f.Command]
	s.mu.Unlock()
	if c == nil {
		return
	}
	if err := c.take(f); err != nil {
		// One client's mistake in a warm rig is not the others'.
		fmt.Fprintf(os.Stdout, "kvmrig: L1: command %d: %v\n", c.id, err)
		c.abort()
	}
}

// take handles a frame of the command.
func (c *command) take(f wire.Frame) error {
	switch f.Kind {
	case wire.KindData:
		if f.Stream == wire.Stdin {
			return c.stdin.Deliver(f.Payload)
		}
	case wire.KindEOF:
		if f.Stream == wire.Stdin {
			c.stdin.Fail(io.EOF)
			return nil
		}
	case wire.KindCredit:
		switch f.Stream {
		case wire.Stdout:
			return c.stdout.Grant(f.Uint32())
		case wire.Stderr:
			return c.stderr.Grant(f.Uint32())
		}
	case wire.KindSignal:
		c.signal(unix.Signal(f.Uint32()))
		return nil
	case wire.KindResize:
		rows, cols := f.Size()
		c.resize(rows, cols)
		return nil
	case wire.KindAbort:
		c.abort()
		return nil
	}
	return fmt.Errorf("unexpected frame of kind %d, stream %d", f.Kind, f.Stream)
}

// refresh makes L1 forget the names and attributes of the host's files: the 9p
// mount caches them without asking again. Twice, because the overlay's entries
// hold on to those below them in the first pass. Contents need no dropping: a
// changed file has another 9p version and so another inode.
func refresh() {
	for range 2 {
		_ = os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0)
	}
}

// flush writes back what commands wrote to shares.
func (s *server) flush() {
	if s.shares {
		unix.Sync()
	}
}

var errAborted = errors.New("aborted")
