package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/term"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// terminalEnv is what a command on a terminal of ours has to know of it.
func terminalEnv(env []string) []string {
	if t := os.Getenv("TERM"); t != "" && t != "dumb" {
		return append(env[:len(env):len(env)], "TERM="+t)
	}
	return env
}

// runOnTerminal runs a command that has a terminal of its own in the guest, and
// to which nobody types.
func runOnTerminal(cmd *sandbox.Cmd) error {
	cmd.TTY = &sandbox.TTYSize{Rows: 24, Cols: 80}
	out := int(os.Stdout.Fd())
	if size, ok := terminalSize(out); ok {
		cmd.TTY = &size
	}
	cmd.Env = terminalEnv(cmd.Env)
	if err := cmd.Start(); err != nil {
		return err
	}
	sizes, stop := followSize(func() (sandbox.TTYSize, bool) { return terminalSize(out) })
	defer stop()
	done := make(chan struct{})
	defer close(done)
	// Nobody waits for it: a silent guest never answers.
	go func() {
		for {
			select {
			case size := <-sizes:
				_ = cmd.Resize(size) // a command that has ended has no size
			case <-done:
				return
			}
		}
	}()
	return cmd.Wait()
}

// interact joins our terminal with one of a sandbox, which open starts or
// returns to. While it lasts ours is raw, so that every key, Ctrl-C among them,
// reaches the guest, and its size is passed on. However it ends, ours is
// afterwards as it was.
//
// If the terminal was left, left is its ID; err is nil then if that was the
// user's wish.
func interact(ctx context.Context, keys string,
	open func(context.Context, sandbox.AttachOptions) (*sandbox.Terminal, error)) (left string, err error) {
	in, out := int(os.Stdin.Fd()), int(os.Stdout.Fd())
	opts := sandbox.AttachOptions{Stdin: os.Stdin, Stdout: os.Stdout, DetachKeys: keys}
	if size, ok := terminalSize(out); ok {
		opts.Size = size
	}
	if term.IsTerminal(in) {
		opts.Stdin = keyboard{os.Stdin}
	} else if keys == "" {
		opts.DetachKeys = "none" // nobody types what comes from a file
	}
	restore, err := makeRaw(in)
	if err != nil {
		return "", err
	}
	defer restore()
	t, err := attended(ctx, out, opts, open)
	restore()
	if t == nil || !errors.Is(err, sandbox.ErrDetached) {
		return "", err
	}
	return t.ID(), ctx.Err()
}

// sayDetached tells how to return to a terminal that was left.
func sayDetached(sb *sandbox.Sandbox, id string) {
	begin := ""
	if isTerminal(os.Stderr) {
		begin = "\n" // the cursor is wherever the terminal had it
	}
	fmt.Fprintf(os.Stderr, "%sdetached; sandpit attach %s %s returns\n", begin, sb.Name(), oneLine(id))
}

// attended carries the streams. The terminal is nil if it could not be opened.
func attended(ctx context.Context, out int, opts sandbox.AttachOptions,
	open func(context.Context, sandbox.AttachOptions) (*sandbox.Terminal, error)) (*sandbox.Terminal, error) {
	// When sandpit is asked to end, it leaves the terminal in order first: the
	// guest says what there is to switch off in ours.
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var (
		mu sync.Mutex
		t  *sandbox.Terminal
	)
	stopped := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		if t == nil {
			cancel()
			return
		}
		_ = t.Detach()
	})
	defer stopped()
	sizes, stop := followSize(func() (sandbox.TTYSize, bool) { return terminalSize(out) })
	defer stop()
	opts.Resize = sizes
	opened, err := open(inner, opts)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	mu.Lock()
	t = opened
	mu.Unlock()
	if ctx.Err() != nil {
		_ = t.Detach() // AfterFunc may have come before
	}
	err = t.Wait()
	var exit *sandbox.ExitError
	told := err == nil || errors.As(err, &exit) || errors.Is(err, sandbox.ErrTaken) ||
		errors.Is(err, sandbox.ErrDetached) && !errors.Is(err, os.ErrDeadlineExceeded)
	if !told && term.IsTerminal(out) {
		// Nobody said what programs had switched on.
		_, _ = io.WriteString(os.Stdout, switchOff)
	}
	return t, err
}

// switchOff ends what full-screen programs switch on: mouse reports, focus
// reports, bracketed paste, cursor keys and keypad, the alternate screen,
// colours; and shows the cursor.
const switchOff = "\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[?2004l\x1b[?1l\x1b>\x1b[?47l\x1b[r\x1b[999;1H\x1b[?7h\x1b[m\x1b(B\x0f\x1b[?25h"

// makeRaw makes a terminal raw, again after each SIGCONT, for the shell that
// continues sandpit does not. restore, which may be called twice, undoes it. What
// is no terminal is left alone.
func makeRaw(fd int) (restore func(), err error) {
	if !term.IsTerminal(fd) {
		return func() {}, nil
	}
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("making the terminal raw: %w", err)
	}
	stop := onSignal(func() { _, _ = term.MakeRaw(fd) }, syscall.SIGCONT)
	return sync.OnceFunc(func() {
		stop()
		_ = term.Restore(fd, old) // it may be gone
	}), nil
}

// errHungUp is the end of a terminal's input: no key ends it.
var errHungUp = errors.New("our terminal has gone")

// keyboard is a terminal's input.
type keyboard struct{ f *os.File }

func (k keyboard) Read(p []byte) (int, error) {
	n, err := k.f.Read(p)
	if n == 0 && errors.Is(err, io.EOF) {
		err = errHungUp
	}
	return n, err
}

func terminalSize(fd int) (sandbox.TTYSize, bool) {
	cols, rows, err := term.GetSize(fd)
	if err != nil || cols <= 0 || rows <= 0 {
		return sandbox.TTYSize{}, false
	}
	return sandbox.TTYSize{Rows: uint16(min(rows, 65535)), Cols: uint16(min(cols, 65535))}, true
}

// followSize gives the size of a terminal at every change, the latest if nobody
// has asked for the one before. stop waits for nothing that a guest does.
func followSize(size func() (sandbox.TTYSize, bool)) (sizes <-chan sandbox.TTYSize, stop func()) {
	latest := make(chan sandbox.TTYSize, 1)
	return latest, onSignal(func() {
		now, ok := size()
		if !ok {
			return
		}
		select {
		case <-latest:
		default:
		}
		latest <- now // this is the only sender
	}, syscall.SIGWINCH)
}

// onSignal does something, which must not wait, at every signal until stop is
// called.
func onSignal(do func(), sig os.Signal) (stop func()) {
	signals := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(signals, sig)
	go func() {
		defer close(done)
		for range signals {
			do()
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
		<-done
	}
}
