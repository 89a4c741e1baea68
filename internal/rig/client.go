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

	killAfter = 2 * time.Second  // from SIGTERM to SIGKILL on a timeout
	giveUp    = 10 * time.Second // from SIGKILL to giving up on L1
	pingEvery = 5 * time.Second
	maxPings  = 12 // unanswered, and L1 counts as dead
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
	var reading, output sync.WaitGroup
	defer func() {
		_ = c.conn.Close() // ends the reading goroutine
		c.in.Fail(io.EOF)
		reading.Wait()
		output.Wait()
	}()
	reading.Go(func() { c.read(events) })
	output.Go(func() { c.write(c.stdout, c.out) })
	output.Go(func() { c.write(c.stderr, c.err) })
	if err := c.conn.SendJSON(wire.KindStart, c.id, spec); err != nil {
		return 0, err
	}
	go c.feed() // not joined: see the package's comment
	exit, code, err := c.wait(events)
	if err != nil {
		return 0, err
	}
	output.Wait()
	switch {
	case code != 0:
		return code, nil
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
	for {
		n, err := c.stdin.Read(buf)
		if n > 0 {
			if _, err := c.in.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			_ = c.in.Close()
			return
		}
	}
}

// write copies an output stream to its file. When the file fails (a full disk),
// the rest is discarded: the command shall not hang for it.
func (c *client) write(w io.Writer, r *wire.Receiver) {
	if _, err := io.Copy(w, struct{ io.Reader }{r}); err != nil {
		_, _ = io.Copy(io.Discard, struct{ io.Reader }{r})
	}
}

// wait handles signals, the time limit and the connection until the command
// ends. A code other than 0 replaces the command's own.
func (c *client) wait(events <-chan event) (wire.Exit, int, error) {
	var (
		limit       <-chan time.Time
		timedOut    bool
		stage       int
		asked       bool // the user has asked once to end it
		unanswered  int
		none        wire.Exit
		tick        = time.NewTicker(pingEvery)
		nextAlarm   = func(d time.Duration) { limit = time.After(d) }
		sendSignal  = func(s unix.Signal) { _ = c.conn.SendUint32(wire.KindSignal, c.id, 0, uint32(s)) }
		timeoutCode = func() int {
			if timedOut {
				return exitTimeout
			}
			return 0
		}
	)
	defer tick.Stop()
	for {
		select {
		case e := <-events:
			unanswered = 0
			switch {
			case e.err != nil:
				return none, 0, e.err
			case e.kind == wire.KindExit:
				return e.exit, timeoutCode(), nil
			case e.kind == wire.KindStarted:
				if c.onStart != nil {
					c.onStart(e.started)
				}
				if c.timeout > 0 {
					nextAlarm(c.timeout)
				}
			}
		case <-limit:
			stage++
			switch stage {
			case 1:
				timedOut = true
				fmt.Fprintf(c.stderr, "kvmrig: time limit of %v exceeded\n", c.timeout)
				sendSignal(unix.SIGTERM)
				nextAlarm(killAfter)
			case 2:
				sendSignal(unix.SIGKILL)
				nextAlarm(giveUp)
			default:
				return none, exitTimeout, errors.New("the command could not be killed")
			}
		case s := <-c.signals:
			sig, _ := s.(unix.Signal)
			switch {
			case sig == unix.SIGWINCH:
				if c.term != nil {
					rows, cols := c.term.size()
					_ = c.conn.SendSize(c.id, rows, cols)
				}
			case (sig == unix.SIGINT || sig == unix.SIGTERM) && asked:
				return none, 128 + int(sig), &interrupted{sig}
			default:
				asked = asked || sig == unix.SIGINT || sig == unix.SIGTERM
				sendSignal(sig)
			}
		case <-tick.C:
			// Ticks, not time: they stand still while kvmrig itself is stopped.
			if unanswered++; unanswered > maxPings {
				return none, 0, fmt.Errorf("%w: no answer for %v", ErrDied, pingEvery*maxPings)
			}
			_ = c.conn.Send(wire.Frame{Kind: wire.KindPing})
		}
	}
}

// interrupted is the error of a run that the user has cut short.
type interrupted struct{ sig unix.Signal }

func (e *interrupted) Error() string { return "killed by " + unix.SignalName(e.sig) }

// notify subscribes to the signals that a command may want to see.
func notify() (chan os.Signal, func()) {
	c := make(chan os.Signal, 16)
	signal.Notify(c, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	return c, func() { signal.Stop(c) }
}
