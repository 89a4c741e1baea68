package rig

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/rig/wire"
)

// Run runs the command and returns the exit code for the process: the
// command's, 128 + n when it died of signal n, 124 when it exceeded its time,
// 125 with an error when the rig failed. With direct access it does not return.
func Run(c Config) (int, error) {
	started := time.Now()
	if len(c.Args) == 0 {
		return exitRig, errors.New("no command")
	}
	c.Shares = append(testOutputs(c.Args), c.Shares...)
	c, err := c.validate()
	if err != nil {
		return exitRig, err
	}
	if c.Mode == Direct {
		return runDirect(c)
	}
	if !c.Fresh && !c.Verbose {
		// Whoever started a warm rig wants it used; it need not be asked
		// what the host can do.
		if conn, _, err := dialWarm(c); err == nil {
			c.note(started, "connected to the warm rig")
			return runEmulated(c, started, conn, nil)
		} else if !errors.Is(err, ErrNotWarm) {
			c.note(started, "not used: %v", err)
		}
	}
	// While ring 0 is measured, L1's parts are gathered in case.
	prepared := prepare(c)
	if c.Mode == Auto {
		speed, usable, err := Probe()
		if err != nil {
			c.note(started, "measuring ring 0: %v", err)
		} else {
			c.note(started, "measured ring 0: %.0f million instructions/s", speed/1e6)
		}
		if usable {
			return runDirect(c)
		}
	}
	return runEmulated(c, started, nil, prepared)
}

// note prints a phase for --time.
func (c Config) note(since time.Time, format string, a ...any) {
	if c.Time {
		fmt.Fprintf(os.Stderr, "kvmrig: %7.3f s  %s\n", time.Since(since).Seconds(), fmt.Sprintf(format, a...))
	}
}

// spec describes the command for L1.
func (c Config) spec(t *terminal) (wire.Spec, error) {
	dir, err := os.Getwd()
	if err != nil {
		return wire.Spec{}, &Error{Op: "working directory", Err: err}
	}
	s := wire.Spec{
		Args:     wire.Bytes(c.Args...),
		Env:      wire.Bytes(environ(EnvEmulated)...),
		Dir:      []byte(dir),
		UnixNano: time.Now().UnixNano(),
	}
	if t != nil {
		s.TTY = true
		s.Rows, s.Cols = t.size()
	}
	return s, nil
}

// environ returns the environment with EnvVar set.
func environ(where string) []string {
	env := make([]string, 0, len(os.Environ())+1)
	for _, kv := range os.Environ() {
		if len(kv) <= len(EnvVar) || kv[:len(EnvVar)+1] != EnvVar+"=" {
			env = append(env, kv)
		}
	}
	return append(env, EnvVar+"="+where)
}

// runEmulated runs the command in the warm rig, or without one in an L1 of its
// own.
func runEmulated(c Config, started time.Time, warm *wire.Conn, prepared <-chan parts) (code int, err error) {
	signals, stop := notify()
	defer stop()
	cl := &client{id: 1, timeout: c.Timeout, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, signals: signals}
	cl.onStart = func(s wire.Started) { c.note(started, "command started (L1's clock: %.3f s)", float64(s.Now)/1e9) }

	cl.conn = warm
	var m *machine
	if warm == nil {
		if m, err = bootOrInterrupt(c, prepared, signals, started); err != nil {
			return exitCode(err), err
		}
		defer m.kill()
		cl.conn = m.conn
	}
	if c.TTY {
		if cl.term, err = openTerminal(os.Stdin); err != nil {
			return exitRig, err
		}
		defer cl.term.restore()
	}
	spec, err := c.spec(cl.term)
	if err != nil {
		return exitRig, err
	}
	spec.Refresh = m == nil
	code, err = cl.run(spec)
	c.note(started, "command ended")
	var cut *cutShort
	var own *Error
	switch {
	case errors.As(err, &cut):
		return cut.code, cut
	case errors.As(err, &own):
		return exitRig, err
	case err != nil && m != nil:
		return exitRig, m.diagnose(err)
	case err != nil:
		return exitRig, &Error{Op: "warm rig", Err: err}
	}
	return code, nil
}

// bootOrInterrupt boots L1. A signal that comes meanwhile ends the attempt.
func bootOrInterrupt(c Config, prepared <-chan parts, signals <-chan os.Signal, started time.Time) (*machine, error) {
	type booted struct {
		m     *machine
		ready wire.Ready
		err   error
	}
	cancel := make(chan struct{})
	result := make(chan booted, 1)
	go func() {
		var b booted
		b.m, b.ready, b.err = boot(c, prepared, cancel)
		result <- b
	}()
	for {
		select {
		case b := <-result:
			if b.err == nil {
				c.note(started, "L1 ready (its clock: init %.3f s, port %.3f, root %.3f, ready %.3f)",
					float64(b.ready.Init)/1e9, float64(b.ready.Port)/1e9, float64(b.ready.Root)/1e9, float64(b.ready.Ready)/1e9)
			}
			return b.m, b.err
		case s := <-signals:
			if sig, ok := s.(unix.Signal); ok && (sig == unix.SIGINT || sig == unix.SIGTERM || sig == unix.SIGHUP || sig == unix.SIGQUIT) {
				close(cancel)
				<-result
				return nil, killedBy(sig)
			}
		}
	}
}

// exitCode returns the code for a run that failed before its command started.
func exitCode(err error) int {
	var cut *cutShort
	if errors.As(err, &cut) {
		return cut.code
	}
	return exitRig
}
