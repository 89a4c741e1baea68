package lifecycle

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// workerEnv makes this test binary a worker.
const workerEnv = "SANDPIT_LIFECYCLE_WORKER"

// opTimeout is what no operation may take: longer than any of them waits for a
// guest.
const opTimeout = 90 * time.Second

// request is what a worker is told, one line of JSON.
type request struct {
	op
	// Cancel the context after this, if op.Cancel.
	After time.Duration
	// Look asks for the worker's own state instead.
	Look bool
}

// answer is what it says.
type answer struct {
	Result string
	// Detail is for people.
	Detail string
	// Statuses are the answer to opList.
	Statuses map[string]string
	// Files and Goroutines are the worker's own.
	Files, Goroutines int
}

// worker does what the driver says, in a process of its own.
type worker struct {
	held     map[string]*sandbox.Sandbox
	commands map[string]*command
}

// command is one that runs until its input ends.
type command struct {
	cmd     *sandbox.Cmd
	stdin   io.Closer
	release func() error
}

// work serves the driver until it closes its end.
func work() error {
	w := &worker{held: map[string]*sandbox.Sandbox{}, commands: map[string]*command{}}
	in := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var r request
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			return err
		}
		if err := out.Encode(w.serve(r)); err != nil {
			return err
		}
	}
	return in.Err()
}

func (w *worker) serve(r request) answer {
	if r.Look {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			return answer{Result: classify(err), Detail: err.Error()}
		}
		return answer{Result: rOK, Files: len(entries), Goroutines: runtime.NumGoroutine()}
	}
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	if r.Cancel {
		time.AfterFunc(r.After, cancel)
	}
	if r.Kind == opList {
		return list(ctx)
	}
	result, err := w.do(ctx, r.op)
	if err != nil {
		return answer{Result: classify(err), Detail: err.Error()}
	}
	return answer{Result: result}
}

// classify names an error by what a caller can branch on.
func classify(err error) string {
	var (
		boot  *sandbox.BootError
		exit  *sandbox.ExitError
		start *sandbox.StartError
	)
	switch {
	case errors.Is(err, errNoObject):
		return rNoObject
	case errors.Is(err, errNoCommand):
		return rNoCommand
	case errors.Is(err, errHasCommand):
		return rHasCommand
	case errors.Is(err, sandbox.ErrExists):
		return rExists
	case errors.Is(err, sandbox.ErrNotFound):
		return rNotFound
	case errors.Is(err, sandbox.ErrRunning):
		return rRunning
	case errors.Is(err, sandbox.ErrDraining):
		return rDraining
	case errors.Is(err, sandbox.ErrNotRunning):
		return rNotRunning
	case errors.Is(err, context.Canceled):
		return rContext
	case errors.As(err, &boot):
		return rBoot
	case errors.As(err, &exit) && (exit.Signal != 0 || exit.Code > 128):
		return rLost
	case errors.As(err, &start):
		return "other: start: " + string(start.Reason)
	// What became of a command whose connection was cut has no name.
	case strings.Contains(err.Error(), "the sandbox ended first"),
		strings.Contains(err.Error(), "connection to the guest lost"),
		strings.Contains(err.Error(), "the agent does not answer"):
		return rLost
	}
	return "other: " + err.Error()
}

func list(ctx context.Context) answer {
	handles, err := sandbox.List(ctx)
	if err != nil {
		return answer{Result: classify(err), Detail: err.Error()}
	}
	a := answer{Result: rOK, Statuses: map[string]string{}}
	for _, h := range handles {
		if _, twice := a.Statuses[h.Name()]; twice {
			return answer{Result: "other: listed twice: " + h.Name()}
		}
		a.Statuses[h.Name()] = string(h.Status())
	}
	return a
}

var (
	errNoObject   = errors.New("no object")
	errNoCommand  = errors.New("no command")
	errHasCommand = errors.New("has a command")
)

// config is a small sandbox that knows which creation it is of.
func (o op) config() sandbox.Config {
	return sandbox.Config{
		Memory:    sandbox.MinMemory,
		Ephemeral: o.Ephemeral,
		Env:       []string{"CREATION=" + strconv.Itoa(o.ID)},
	}
}

func (w *worker) do(ctx context.Context, o op) (string, error) {
	if o.Held && w.held[o.Name] == nil {
		return "", errNoObject
	}
	switch o.Kind {
	case opCreate, opStart, opConnect:
		sb, err := w.make(ctx, o)
		if err != nil {
			return "", err
		}
		w.held[o.Name] = sb
		return rOK, nil
	case opExec:
		return w.exec(ctx, o)
	case opBusy:
		return rOK, w.busy(ctx, o)
	case opRelease:
		return rOK, w.release(o)
	case opDetach:
		return rOK, w.held[o.Name].Detach()
	case opClose:
		defer delete(w.held, o.Name)
		return rOK, w.held[o.Name].Close()
	case opDrain, opKill, opStop:
		if o.Held {
			return end(ctx, o.Kind, w.held[o.Name])
		}
		h, err := sandbox.Get(ctx, o.Name)
		if err != nil {
			return "", err
		}
		return end(ctx, o.Kind, h)
	case opRemove:
		return rOK, sandbox.Remove(ctx, o.Name)
	case opStatus:
		h, err := sandbox.Get(ctx, o.Name)
		if err != nil {
			return "", err
		}
		return string(h.Status()), nil
	}
	return "", fmt.Errorf("unknown operation %q", o.Kind)
}

func (w *worker) make(ctx context.Context, o op) (*sandbox.Sandbox, error) {
	switch {
	case o.Kind == opCreate && o.Detached:
		return sandbox.CreateDetached(ctx, o.Name, o.config())
	case o.Kind == opCreate:
		return sandbox.Create(ctx, o.Name, o.config())
	case o.Kind == opStart && o.Detached:
		return sandbox.StartDetached(ctx, o.Name)
	case o.Kind == opStart:
		return sandbox.Start(ctx, o.Name)
	}
	return sandbox.Connect(ctx, o.Name)
}

// ender is a *sandbox.Sandbox or a *sandbox.Handle.
type ender interface {
	Drain(context.Context) error
	Kill(context.Context) error
	StopAndWait(context.Context) (sandbox.ExitStatus, error)
}

func end(ctx context.Context, k kind, e ender) (string, error) {
	switch k {
	case opDrain:
		return rOK, e.Drain(ctx)
	case opKill:
		return rOK, e.Kill(ctx)
	}
	status, err := e.StopAndWait(ctx)
	return "ok:" + status.Reason, err
}

// object is the worker's own, or one that release lets go of.
func (w *worker) object(ctx context.Context, o op) (sb *sandbox.Sandbox, release func() error, err error) {
	if o.Held {
		return w.held[o.Name], func() error { return nil }, nil
	}
	if sb, err = sandbox.Connect(ctx, o.Name); err != nil {
		return nil, nil, err
	}
	return sb, sb.Close, nil
}

func (w *worker) exec(ctx context.Context, o op) (string, error) {
	sb, release, err := w.object(ctx, o)
	if err != nil {
		return "", err
	}
	out, err := sb.Shell(ctx, "echo $CREATION").Output()
	if err := errors.Join(err, release()); err != nil {
		return "", err
	}
	return "ok:" + string(bytes.TrimSpace(out)), nil
}

func (w *worker) busy(ctx context.Context, o op) error {
	if w.commands[o.Name] != nil {
		return errHasCommand
	}
	sb, release, err := w.object(ctx, o)
	if err != nil {
		return err
	}
	cmd := sb.Command(context.Background(), "cat")
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return errors.Join(err, release())
	}
	w.commands[o.Name] = &command{cmd, stdin, release}
	return nil
}

func (w *worker) release(o op) error {
	c := w.commands[o.Name]
	if c == nil {
		return errNoCommand
	}
	delete(w.commands, o.Name)
	return errors.Join(c.stdin.Close(), c.cmd.Wait(), c.release())
}
