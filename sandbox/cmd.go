package sandbox

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Cmd is a command in a sandbox, prepared or running. It is used like a Cmd of
// os/exec and, like it, once.
type Cmd struct {
	// Args is the command line; Args[0] is looked up in the guest's PATH
	// unless it contains a slash.
	Args []string
	// Env are variables ("K=V") over the sandbox's; of several values of one
	// variable the last counts.
	Env []string
	// Dir is the working directory. Default the sandbox's Workdir.
	Dir string
	// User runs the command: name, uid, name:group or uid:gid, names being the
	// guest's. Default the sandbox's User.
	User string

	// Stdin is the command's input; nil is /dev/null. It is copied by a
	// goroutine, as fast as the command reads. Wait does not wait for a Read
	// in progress, which nothing can interrupt.
	Stdin io.Reader
	// Stdout and Stderr receive the command's output; nil discards it. Output
	// that is not taken blocks the command, and no other. If both are the same
	// comparable writer, only one goroutine at a time calls Write.
	Stdout, Stderr io.Writer

	// TTY, when set, gives the command a terminal of this size. Its output is
	// all Stdout then.
	TTY *TTYSize
	// Timeout, when positive, is how long the command may run. The guest
	// enforces it: the command and all its descendants are killed, what they
	// wrote before is kept, and Wait returns an *ExitError around ErrTimeout.
	Timeout time.Duration
	// Rlimits are resource limits (setrlimit(2)) of the command.
	Rlimits []Rlimit
	// Main makes the command the sandbox's main one: when it ends, by itself or
	// killed, the sandbox shuts down, and ExitStatus.Code is the command's.
	Main bool

	sb  *Sandbox
	ctx context.Context
	id  string

	exec     *proto.Exec
	stdin    *io.PipeReader // of StdinPipe
	outputs  []outputPipe   // of StdoutPipe and StderrPipe
	copied   chan struct{}  // closed when Stdin's copier has ended
	stdinErr error          // set before copied
	finished chan struct{}  // closed when the command and its output have ended
	exit     *proto.ExecExit
	err      error // both set before finished

	mu      sync.Mutex
	started bool
	waited  bool
}

// TTYSize is the size of a terminal in characters.
type TTYSize struct{ Rows, Cols uint16 }

// Rlimit is a resource limit: Name is one of "as", "core", "cpu", "data",
// "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss",
// "rtprio", "rttime", "sigpending", "stack". RlimInfinity is no limit.
type Rlimit struct {
	Name       string
	Soft, Hard uint64
}

// RlimInfinity is no limit (RLIM_INFINITY).
const RlimInfinity = ^uint64(0)

// Command prepares a command. When ctx ends before the command does, the
// command and all its descendants are killed.
func (s *Sandbox) Command(ctx context.Context, name string, args ...string) *Cmd {
	return &Cmd{
		Args: append([]string{name}, args...),
		Dir:  s.cfg.Workdir,
		User: s.cfg.User,
		sb:   s,
		ctx:  ctx,
	}
}

// Shell prepares a script for the sandbox's shell.
func (s *Sandbox) Shell(ctx context.Context, script string) *Cmd {
	return s.Command(ctx, s.cfg.Shell, "-c", script)
}

// Start starts the command and returns once it runs. A *StartError says why
// the guest could not start it.
func (c *Cmd) Start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.started {
		return &Error{c.sb.name, "exec", errors.New("the Cmd was already started")}
	}
	c.started = true
	if err := c.start(); err != nil {
		c.closePipes()
		return err
	}
	return nil
}

// request is the guest's share of the command.
func (c *Cmd) request() *proto.ExecStart {
	c.id = rand.Text()
	start := &proto.ExecStart{
		Id:        c.id,
		Args:      c.Args,
		Env:       c.Env,
		Dir:       c.Dir,
		User:      c.User,
		Stdin:     c.Stdin != nil,
		TimeoutNs: int64(c.Timeout),
		Main:      c.Main,
		Rlimits:   rlimitsProto(c.Rlimits),
	}
	if c.TTY != nil {
		start.Tty, start.Rows, start.Cols = true, uint32(c.TTY.Rows), uint32(c.TTY.Cols)
	}
	return start
}

func rlimitsProto(limits []Rlimit) []*proto.Rlimit {
	var out []*proto.Rlimit
	for _, r := range limits {
		out = append(out, &proto.Rlimit{Name: r.Name, Soft: r.Soft, Hard: r.Hard})
	}
	return out
}

// check reports what no guest could make of the command.
func (c *Cmd) check() error {
	var bad ConfigError
	if len(c.Args) == 0 || c.Args[0] == "" {
		bad.add("Args", "there is no command")
	}
	if c.Timeout < 0 {
		bad.add("Timeout", "%v: want a positive time, or none", c.Timeout)
	}
	return bad.orNil()
}

func (c *Cmd) start() error {
	if err := c.check(); err != nil {
		return err
	}
	start := c.request()
	stdout, stderr := c.Stdout, c.Stderr
	if stdout != nil && stderr != nil && sameWriter(stdout, stderr) {
		w := &lockedWriter{w: stdout}
		stdout, stderr = w, w
	}
	conn, err := c.sb.dialAgent(c.ctx)
	if err != nil {
		return &Error{c.sb.name, "exec", err}
	}
	c.exec, err = proto.StartExec(c.ctx, conn, start, stdout, stderr)
	if err != nil {
		return c.sb.startError(c.Args[0], err)
	}
	if c.Stdin != nil {
		c.copied = make(chan struct{})
		go c.copyStdin()
	}
	c.finished = make(chan struct{})
	go c.finish()
	return nil
}

// finish waits for the command and its output, and gives the readers of its
// pipes their end, whether or not Wait was called.
func (c *Cmd) finish() {
	defer close(c.finished)
	c.exit, c.err = c.exec.Wait()
	c.closePipes()
}

// closePipes ends the pipes from our side.
func (c *Cmd) closePipes() {
	for _, p := range c.outputs {
		p.w.Close()
	}
	if c.stdin != nil {
		c.stdin.CloseWithError(io.ErrClosedPipe) // the caller's writes fail now
	}
}

// copyStdin feeds the command until either side has enough.
func (c *Cmd) copyStdin() {
	defer close(c.copied)
	_, err := io.CopyBuffer(writerOnly{c.exec}, c.Stdin, make([]byte, proto.MaxChunk))
	// A command may end, or close its input, before it has read everything.
	if errors.Is(err, syscall.EPIPE) {
		err = nil
	}
	c.stdinErr = errors.Join(err, c.exec.CloseStdin())
}

// writerOnly hides everything but Write.
type writerOnly struct{ io.Writer }

// Wait waits for the command to end and for its output to be written. A
// non-zero status is an *ExitError.
func (c *Cmd) Wait() error {
	c.mu.Lock()
	if !c.started || c.exec == nil {
		c.mu.Unlock()
		return &Error{c.sb.name, "wait", errors.New("the Cmd was not started")}
	}
	if c.waited {
		c.mu.Unlock()
		return &Error{c.sb.name, "wait", errors.New("Wait was already called")}
	}
	c.waited = true
	c.mu.Unlock()

	<-c.exec.Done()
	for _, p := range c.outputs {
		p.r.Close() // what was not read by now is not wanted
	}
	<-c.finished
	exit, err := c.exit, c.err
	if len(c.outputs) > 0 && errors.Is(err, io.ErrClosedPipe) {
		err = nil
	}
	if c.copied != nil {
		select {
		case <-c.copied:
			if exit != nil && c.stdinErr != nil && !errors.Is(c.stdinErr, proto.ErrLost) {
				err = errors.Join(err, c.stdinErr)
			}
		default: // a Read is in progress
		}
	}
	switch {
	case exit == nil && c.ctx.Err() != nil:
		return c.ctx.Err()
	case exit == nil:
		return &Error{c.sb.name, "exec", c.sb.lost(err)}
	}
	if exitErr := newExitError(exit); exitErr != nil {
		return exitErr
	}
	if err != nil {
		return &Error{c.sb.name, "exec", err}
	}
	return nil
}

// Run is Start and Wait.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns what it wrote to stdout. If it fails and
// Stderr is nil, the *ExitError holds the end of what it wrote to stderr.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, &ConfigError{[]FieldError{{"Stdout", "Output sets it"}}}
	}
	var out bytes.Buffer
	c.Stdout = &out
	var tail *tailWriter
	if c.Stderr == nil {
		tail = &tailWriter{}
		c.Stderr = tail
	}
	err := c.Run()
	var exitErr *ExitError
	if tail != nil && errors.As(err, &exitErr) {
		exitErr.Stderr = tail.buf
	}
	return out.Bytes(), err
}

// CombinedOutput runs the command and returns what it wrote to stdout and
// stderr, in the order it arrived.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, &ConfigError{[]FieldError{{"Stdout, Stderr", "CombinedOutput sets them"}}}
	}
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// StdinPipe returns a pipe to the command's stdin. Closing it is the end of the
// input.
func (c *Cmd) StdinPipe() (io.WriteCloser, error) {
	if c.Stdin != nil || c.started {
		return nil, &Error{c.sb.name, "exec", errors.New("StdinPipe: Stdin is set, or the Cmd was started")}
	}
	r, w := io.Pipe()
	c.Stdin, c.stdin = r, r
	return w, nil
}

// outputPipe is what StdoutPipe or StderrPipe made.
type outputPipe struct {
	r *io.PipeReader
	w *io.PipeWriter
}

// StdoutPipe returns a pipe from the command's stdout. Wait closes it when the
// command has ended: read to its end first.
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) { return c.outputPipe("StdoutPipe", &c.Stdout) }

// StderrPipe returns a pipe from the command's stderr, as StdoutPipe does.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) { return c.outputPipe("StderrPipe", &c.Stderr) }

func (c *Cmd) outputPipe(call string, to *io.Writer) (io.ReadCloser, error) {
	if *to != nil || c.started {
		return nil, &Error{c.sb.name, "exec", errors.New(call + ": the stream is set, or the Cmd was started")}
	}
	r, w := io.Pipe()
	*to = w
	c.outputs = append(c.outputs, outputPipe{r, w})
	return r, nil
}

// PID is the process ID of the started command in the guest.
func (c *Cmd) PID() int {
	if c.exec == nil {
		return 0
	}
	return c.exec.PID()
}

// ID names the started command in the sandbox's log (LogEntry.Exec).
func (c *Cmd) ID() string { return c.id }

// Signal sends a signal to the command's process group. SIGKILL reaches all its
// descendants, whatever group they are in.
func (c *Cmd) Signal(sig syscall.Signal) error {
	return c.beside("signal", func(ctx context.Context, agent proto.AgentClient) error {
		_, err := agent.Signal(ctx, &proto.SignalRequest{Id: c.id, Signal: int32(sig)})
		return err
	})
}

// Kill is Signal with SIGKILL.
func (c *Cmd) Kill() error { return c.Signal(syscall.SIGKILL) }

// Resize sets the size of the command's terminal.
func (c *Cmd) Resize(size TTYSize) error {
	return c.beside("resize", func(ctx context.Context, agent proto.AgentClient) error {
		_, err := agent.Resize(ctx, &proto.ResizeRequest{Id: c.id, Rows: uint32(size.Rows), Cols: uint32(size.Cols)})
		return err
	})
}

// beside makes a call about the running command on another connection than its
// own, which may be full of data.
func (c *Cmd) beside(op string, call func(context.Context, proto.AgentClient) error) error {
	if c.exec == nil {
		return &Error{c.sb.name, op, errors.New("the Cmd was not started")}
	}
	agent, err := c.sb.agentClient(c.ctx)
	if err == nil {
		err = call(c.ctx, agent)
	}
	if err != nil {
		return &Error{c.sb.name, op, err}
	}
	return nil
}
