package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// How a Terminal is left before its command ends, and what Reattach finds.
var (
	// ErrDetached is returned by Wait of a terminal that was left, by its keys
	// or by Detach. The command goes on.
	ErrDetached = errors.New("detached from the terminal, which goes on")
	// ErrTaken is returned by Wait when another caller has attached to the
	// terminal: one at a time has it. The command goes on.
	ErrTaken = errors.New("another caller has attached to the terminal, which goes on")
	// ErrNoTerminal is an ID that no terminal of the sandbox has, or has had in
	// the last ten minutes.
	ErrNoTerminal = errors.New("no such terminal; Execs lists those that run")
)

// AttachOptions describe an interactive terminal, for Attach, or how to come
// back to one, for Reattach, which takes Size, Resize, Stdin, Stdout and
// DetachKeys only.
type AttachOptions struct {
	// ID names the terminal for Reattach: 1 to 64 letters, digits, '.', '_' and
	// '-', not in use in the sandbox. Default a random one.
	ID string
	// Args is the command line. Default the sandbox's Shell.
	Args []string
	// Env, Dir, User, Rlimits and Timeout are as in Cmd, with the same defaults.
	Env     []string
	Dir     string
	User    string
	Rlimits []Rlimit
	Timeout time.Duration
	// Main makes the command the sandbox's main one, as Cmd.Main does.
	Main bool

	// Size is the terminal's size. Default 24 rows of 80 columns, and for
	// Reattach the size that it has.
	Size TTYSize
	// Resize, if not nil, gives the sizes that follow, until it is closed.
	Resize <-chan TTYSize

	// Stdin is what is typed; nil types nothing. Its end types Ctrl-D, which
	// ends most shells; if it fails the terminal is left. A Read in progress
	// goes on when the terminal has ended or was left: nothing can interrupt it.
	Stdin io.Reader
	// Stdout receives what the terminal shows, control sequences and all: a
	// terminal in raw mode, or something that knows what to do with them. Nil
	// discards it. A writer that is behind holds the command up; one that fails
	// leaves the terminal.
	Stdout io.Writer

	// DetachKeys leave the terminal when they are typed: names separated by
	// commas, each a character or ctrl- and one of a to z, @, [, \, ], ^ and _.
	// Default "ctrl-p,ctrl-q"; "none" is none. The first keys of a sequence are
	// held back until it is clear that they do not begin it, a second at most.
	// They work while the command, or the guest, takes nothing, too, unless more
	// than a mebibyte was typed before them.
	DetachKeys string
}

// Terminal is a command on an interactive terminal in a sandbox. It outlives
// the caller that started it, and the process: whoever knows its ID can come
// back to it with Reattach, as long as the sandbox runs.
type Terminal struct {
	sb   *Sandbox
	ctx  context.Context
	id   string
	exec *proto.Exec

	mu       sync.Mutex
	stdinErr error
	waited   bool
	leaving  bool
	silent   bool // the guest was asked to let go and did not answer
}

// Attach starts a command on a terminal that can be left and returned to. A
// *StartError says why the guest could not start it; ErrDraining is under it if
// the sandbox takes no more.
//
// The end of ctx leaves the terminal, as Detach does; so does the end of the
// process, however it comes.
func (s *Sandbox) Attach(ctx context.Context, opts AttachOptions) (*Terminal, error) {
	keys, err := opts.check(false)
	if err != nil {
		return nil, err
	}
	start := &proto.ExecStart{
		Id:        opts.ID,
		Args:      opts.Args,
		Env:       opts.Env,
		Dir:       opts.Dir,
		User:      opts.User,
		Rlimits:   rlimitsProto(opts.Rlimits),
		TimeoutNs: int64(opts.Timeout),
		Tty:       true,
		Stdin:     true,
		Keep:      true,
		Main:      opts.Main,
		Rows:      uint32(opts.Size.Rows),
		Cols:      uint32(opts.Size.Cols),
	}
	if start.Id == "" {
		start.Id = strings.ToLower(rand.Text()[:12])
	}
	if len(start.Args) == 0 {
		start.Args = []string{s.cfg.Shell}
	}
	if start.Dir == "" {
		start.Dir = s.cfg.Workdir
	}
	if start.User == "" {
		start.User = s.cfg.User
	}
	t := &Terminal{sb: s, ctx: ctx, id: start.Id}
	err = t.open("attach", opts, keys, func(conn net.Conn) (*proto.Exec, error) {
		return proto.StartExec(ctx, conn, start, opts.Stdout, nil)
	})
	if err != nil {
		var guest *proto.StartError
		if errors.As(err, &guest) {
			return nil, s.startError(start.Args[0], err)
		}
		return nil, err
	}
	return t, nil
}

// Reattach returns to a terminal, from whatever process. What it shows is
// written to Stdout first: the characters, the looks, the cursor and the modes
// that programs have set, in place of what the caller's terminal showed.
// Whoever was attached gets ErrTaken. It works on a draining sandbox, too.
//
// For ten minutes after its command has ended, a terminal's last screen and
// status can still be had, those of the last 64.
func (s *Sandbox) Reattach(ctx context.Context, id string, opts AttachOptions) (*Terminal, error) {
	keys, err := opts.check(true)
	if err != nil {
		return nil, err
	}
	if !validExecID(id) { // nothing can have it, and it may come from a guest
		return nil, &Error{s.name, "reattach", fmt.Errorf("%.100q is no ID: %w", id, ErrNoTerminal)}
	}
	t := &Terminal{sb: s, ctx: ctx, id: id}
	err = t.open("reattach", opts, keys, func(conn net.Conn) (*proto.Exec, error) {
		return proto.AttachExec(ctx, conn, &proto.AttachStart{Id: id, Rows: uint32(opts.Size.Rows), Cols: uint32(opts.Size.Cols)}, opts.Stdout)
	})
	var guest *proto.StartError
	if errors.As(err, &guest) {
		if guest.Failure.GetKind() == proto.StartFailure_NO_EXEC {
			return nil, &Error{s.name, "reattach", fmt.Errorf("%s: %w", guest.Failure.GetMessage(), ErrNoTerminal)}
		}
		return nil, s.startError(id, err)
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// open makes the connection and starts what carries the caller's streams.
func (t *Terminal) open(op string, opts AttachOptions, keys []byte, start func(net.Conn) (*proto.Exec, error)) error {
	conn, err := t.sb.dialAgent(t.ctx)
	if err != nil {
		return &Error{t.sb.name, op, err}
	}
	t.exec, err = start(conn)
	var guest *proto.StartError
	switch {
	case err == nil:
	case errors.As(err, &guest), t.ctx.Err() != nil:
		return err
	default:
		return &Error{t.sb.name, op, t.sb.lost(err)}
	}
	if opts.Stdin != nil {
		go t.typeStdin(opts.Stdin, keys)
	}
	if opts.Resize != nil {
		go t.follow(opts.Resize)
	}
	return nil
}

// check reports everything that is wrong with the options.
func (o *AttachOptions) check(again bool) (keys []byte, err error) {
	var bad ConfigError
	keys, err = parseDetachKeys(o.DetachKeys)
	if err != nil {
		bad.add("DetachKeys", "%v", err)
	}
	if again {
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"ID", o.ID != ""}, {"Args", o.Args != nil}, {"Env", o.Env != nil}, {"Dir", o.Dir != ""}, {"User", o.User != ""},
			{"Rlimits", o.Rlimits != nil}, {"Timeout", o.Timeout != 0}, {"Main", o.Main},
		} {
			if f.set {
				bad.add(f.name, "the terminal has it already: Reattach takes Size, Resize, Stdin, Stdout and DetachKeys")
			}
		}
		return keys, bad.orNil()
	}
	if o.ID != "" && !validExecID(o.ID) {
		bad.add("ID", "%q: want 1 to %d letters, digits, '.', '_' and '-'", o.ID, proto.MaxExecID)
	}
	if len(o.Args) > 0 && o.Args[0] == "" {
		bad.add("Args", "the command's name is empty")
	}
	if o.Timeout < 0 {
		bad.add("Timeout", "%v: want a positive time, or none", o.Timeout)
	}
	return keys, bad.orNil()
}

func validExecID(id string) bool {
	for i := range len(id) {
		c := id[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			return false
		}
	}
	return id != "" && len(id) <= proto.MaxExecID
}

// ID is what Reattach finds the terminal by.
func (t *Terminal) ID() string { return t.id }

// PID is the process ID of the command in the guest.
func (t *Terminal) PID() int { return t.exec.PID() }

// resizeTimeout is after which a size is given up, for the next one.
const resizeTimeout = 5 * time.Second

// follow sets the sizes that the caller gives.
func (t *Terminal) follow(sizes <-chan TTYSize) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			// A terminal that has ended has no size, and a guest that does
			// not answer leaves it as it was; nothing to report.
			ctx, cancel := context.WithTimeout(t.ctx, resizeTimeout)
			_ = t.resize(ctx, size)
			cancel()
		case <-t.exec.Done():
			return
		}
	}
}

// Resize sets the size of the terminal.
func (t *Terminal) Resize(size TTYSize) error { return t.resize(t.ctx, size) }

func (t *Terminal) resize(ctx context.Context, size TTYSize) error {
	return t.beside(ctx, "resize", func(agent proto.AgentClient) error {
		_, err := agent.Resize(ctx, &proto.ResizeRequest{Id: t.id, Rows: uint32(size.Rows), Cols: uint32(size.Cols)})
		return err
	})
}

// Signal sends a signal to the command's process group. SIGKILL reaches all its
// descendants, whatever group they are in.
func (t *Terminal) Signal(sig syscall.Signal) error {
	return t.beside(t.ctx, "signal", func(agent proto.AgentClient) error {
		_, err := agent.Signal(t.ctx, &proto.SignalRequest{Id: t.id, Signal: int32(sig)})
		return err
	})
}

// Kill is Signal with SIGKILL.
func (t *Terminal) Kill() error { return t.Signal(syscall.SIGKILL) }

func (t *Terminal) beside(ctx context.Context, op string, call func(proto.AgentClient) error) error {
	agent, err := t.sb.agentClient(ctx)
	if err == nil {
		err = call(agent)
	}
	if err != nil {
		return &Error{t.sb.name, op, err}
	}
	return nil
}

// detachTimeout is how long the guest may take to answer that the terminal was
// left.
const detachTimeout = 2 * time.Second

// Detach leaves the terminal; Wait returns ErrDetached, after two seconds at
// most if the guest does not answer. What was typed before still reaches the
// command. Leaving a terminal that has ended, or was left before, is no error.
func (t *Terminal) Detach() error {
	t.mu.Lock()
	if !t.leaving {
		t.leaving = true
		// The request may wait too.
		time.AfterFunc(detachTimeout, t.abandon)
	}
	t.mu.Unlock()
	if err := t.exec.Detach(); err != nil && t.ctx.Err() == nil && !t.abandoned() {
		return &Error{t.sb.name, "detach", err}
	}
	return nil
}

// abandon closes the connection, which a guest that works takes for Detach.
func (t *Terminal) abandon() {
	select {
	case <-t.exec.Done():
		return
	default:
	}
	t.mu.Lock()
	t.silent = true
	t.mu.Unlock()
	_ = t.exec.Close()
}

func (t *Terminal) abandoned() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.silent
}

// Wait waits until the command has ended, or the terminal was left or lost, and
// everything it showed is written. It returns nil or an *ExitError if the
// command has ended; ErrDetached, ErrTaken or the context's error if it goes
// on. In every case but the last, and a lost connection, what programs had
// switched on in Stdout's terminal (its alternate screen, mouse reports and the
// like) has been switched off again, unless os.ErrDeadlineExceeded is beside
// ErrDetached: the guest did not answer.
func (t *Terminal) Wait() error {
	t.mu.Lock()
	if t.waited {
		t.mu.Unlock()
		return &Error{t.sb.name, "wait", errors.New("Wait was already called")}
	}
	t.waited = true
	t.mu.Unlock()

	exit, err := t.exec.Wait()
	switch {
	case exit != nil:
		if exitErr := newExitError(exit); exitErr != nil {
			return exitErr
		}
		if err != nil {
			return &Error{t.sb.name, "attach", err}
		}
		return nil
	case errors.Is(err, proto.ErrTaken):
		return &Error{t.sb.name, "attach", ErrTaken}
	case errors.Is(err, proto.ErrDetached):
		return t.left(err)
	case t.abandoned():
		return t.left(errors.Join(proto.ErrDetached, fmt.Errorf("the guest did not answer within %v: %w", detachTimeout, os.ErrDeadlineExceeded)))
	case t.ctx.Err() != nil:
		return t.ctx.Err()
	}
	return &Error{t.sb.name, "attach", t.sb.lost(err)}
}

// left is ErrDetached, with the failure of a stream if that is the reason.
func (t *Terminal) left(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if !errors.Is(e, proto.ErrDetached) {
				return &Error{t.sb.name, "attach", fmt.Errorf("%w: %w", ErrDetached, e)}
			}
		}
	}
	if t.stdinErr != nil {
		return &Error{t.sb.name, "attach", fmt.Errorf("%w: %w", ErrDetached, t.stdinErr)}
	}
	return &Error{t.sb.name, "attach", ErrDetached}
}
