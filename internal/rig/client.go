package rig

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/rig/wire"
)

const (
	exitTimeout = 124 // as timeout(1)
	exitRig     = 125 // the rig itself failed, as docker and env(1)
)

// client runs one command over a connection to L1 or to a warm rig.
type client struct {
	conn    *wire.Conn
	id      uint32
	timeout time.Duration
	stdin   *os.File
	stdout  io.Writer
	stderr  io.Writer
	signals <-chan os.Signal
	term    *terminal // nil without --tty
	onStart func(wire.Started)

	in       *wire.Sender
	out, err *wire.Receiver
	failed   [2]error // of writing the two outputs; read after their goroutines

	// control is what the main goroutine has to send. It must not send
	// itself: with an L1 that hangs, that would block.
	control chan wire.Frame
}

// event is what the reading goroutine tells the main one.
type event struct {
	kind    wire.Kind
	started wire.Started
	exit    wire.Exit
	err     error
}

// run starts the command and carries its streams to its end. It returns the
// exit code for kvmrig; an error means that L1 or the connection failed.
func (c *client) run(spec wire.Spec) (int, error) {
	c.in = wire.NewSender(c.conn, c.id, wire.Stdin)
	c.out = wire.NewReceiver(c.conn, c.id, wire.Stdout)
	c.err = wire.NewReceiver(c.conn, c.id, wire.Stderr)
	events := make(chan event, 4)
	c.control = make(chan wire.Frame, 16)
	var joined, output sync.WaitGroup
	defer func() {
		_ = c.conn.Close() // ends the reading goroutine, and any that sends
		close(c.control)
		c.in.Fail(io.EOF)
		joined.Wait()
		output.Wait()
	}()
	joined.Go(func() { c.read(events) })
	joined.Go(func() {
		for f := range c.control {
			_ = c.conn.Send(f) // a failure is seen by the reading side too
		}
	})
	output.Go(func() { c.failed[0] = c.write(c.stdout, c.out) })
	output.Go(func() { c.failed[1] = c.write(c.stderr, c.err) })
	if err := c.conn.SendJSON(wire.KindStart, c.id, spec); err != nil {
		return 0, err
	}
	go c.feed() // not joined: see the package's comment
	exit, timedOut, err := c.wait(events)
	if err != nil {
		return 0, err
	}
	output.Wait()
	switch {
	case timedOut:
		return exitTimeout, nil
	case errors.Join(c.failed[:]...) != nil:
		return exitRig, &Error{Op: "write the command's output", Err: errors.Join(c.failed[:]...)}
	case exit.Error != "":
		fmt.Fprintf(c.stderr, "kvmrig: %s\n", exit.Error)
		return exit.Code, nil
	case exit.Signal != 0:
		return 128 + exit.Signal, nil
	}
	return exit.Code, nil
}

// read dispatches frames until the connection ends. It never blocks on a
// consumer: events has room for the few that there can be.
func (c *client) read(events chan<- event) {
	for {
		e, err := c.receive()
		if err != nil {
			c.out.Fail(io.EOF)
			c.err.Fail(io.EOF)
			events <- event{err: err}
			return
		}
		if e.kind == wire.KindPong {
			// A lost answer matters, an unread one does not.
			select {
			case events <- e:
			default:
			}
		} else if e.kind != 0 {
			events <- e
		}
		if e.kind == wire.KindExit {
			return
		}
	}
}

func (c *client) receive() (e event, err error) {
	f, err := c.conn.Receive()
	if err != nil {
		return e, err
	}
	output := c.out
	if f.Stream == wire.Stderr {
		output = c.err
	}
	switch f.Kind {
	case wire.KindData:
		return e, output.Deliver(f.Payload)
	case wire.KindEOF:
		output.Fail(io.EOF)
	case wire.KindCredit:
		return e, c.in.Grant(f.Uint32())
	case wire.KindStarted:
		e.kind = f.Kind
		return e, f.JSON(&e.started)
	case wire.KindPong:
		e.kind = f.Kind
	case wire.KindExit:
		e.kind = f.Kind
		// A command that was not started has no streams that end.
		c.out.Fail(io.EOF)
		c.err.Fail(io.EOF)
		return e, f.JSON(&e.exit)
	default:
		return e, fmt.Errorf("%w: frame of kind %d", wire.ErrProtocol, f.Kind)
	}
	return e, nil
}

// feed sends the standard input.
func (c *client) feed() {
	buf := make([]byte, wire.MaxData)
	for !inBackground(c.stdin) {
		n, err := c.stdin.Read(buf)
		if n > 0 {
			if _, err := c.in.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			break
		}
	}
	_ = c.in.Close()
}

// write copies an output stream to its file. When the file fails (a full disk),
// the rest is discarded: the command shall not hang for it.
func (c *client) write(w io.Writer, r *wire.Receiver) error {
	_, err := io.Copy(w, struct{ io.Reader }{r})
	if err != nil {
		_, _ = io.Copy(io.Discard, struct{ io.Reader }{r})
	}
	return err
}

// cutShort is the error of a run that was ended with the rig itself.
type cutShort struct {
	code int
	why  string
}

func (e *cutShort) Error() string { return e.why }

func killedBy(sig unix.Signal) error {
	return &cutShort{128 + int(sig), "ended by " + unix.SignalName(sig)}
}

// notify subscribes to the signals that a command may want to see.
func notify() (chan os.Signal, func()) {
	c := make(chan os.Signal, 16)
	signal.Notify(c, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	return c, func() { signal.Stop(c) }
}
