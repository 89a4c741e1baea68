package main

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// runOnTerminal runs a command that has a terminal of its own in the guest. If
// ours is one too, it becomes raw, so that every key, Ctrl-C among them,
// reaches the guest, and its size is passed on.
func runOnTerminal(cmd *sandbox.Cmd) error {
	cmd.TTY = &sandbox.TTYSize{Rows: 24, Cols: 80}
	out := int(os.Stdout.Fd())
	if size, ok := terminalSize(out); ok {
		cmd.TTY = &size
	}
	if t := os.Getenv("TERM"); t != "" && t != "dumb" {
		cmd.Env = append(cmd.Env, "TERM="+t)
	}
	if in := int(os.Stdin.Fd()); cmd.Stdin != nil && term.IsTerminal(in) {
		old, err := term.MakeRaw(in)
		if err != nil {
			return err
		}
		defer term.Restore(in, old)
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := followSize(cmd, out)
	defer stop()
	return cmd.Wait()
}

func terminalSize(fd int) (sandbox.TTYSize, bool) {
	cols, rows, err := term.GetSize(fd)
	if err != nil || cols <= 0 || rows <= 0 {
		return sandbox.TTYSize{}, false
	}
	return sandbox.TTYSize{Rows: uint16(min(rows, 65535)), Cols: uint16(min(cols, 65535))}, true
}

// followSize passes changes of our terminal's size on until stop is called.
func followSize(cmd *sandbox.Cmd, fd int) (stop func()) {
	changes := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(changes, syscall.SIGWINCH)
	go func() {
		defer close(done)
		for range changes {
			if size, ok := terminalSize(fd); ok {
				// A command that has ended has no size; nothing to report.
				_ = cmd.Resize(size)
			}
		}
	}()
	return func() {
		signal.Stop(changes)
		close(changes)
		<-done
	}
}
