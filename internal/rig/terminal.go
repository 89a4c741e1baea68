package rig

import (
	"os"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// terminal is the user's terminal while a command has it.
type terminal struct {
	fd    int
	saved *term.State // nil when standard input is no terminal
}

// openTerminal puts the terminal into raw mode: L1's pty does the rest.
func openTerminal(f *os.File) (*terminal, error) {
	t := &terminal{fd: int(f.Fd())}
	if !term.IsTerminal(t.fd) {
		return t, nil
	}
	saved, err := term.MakeRaw(t.fd)
	if err != nil {
		return nil, &Error{Op: "raw terminal", Err: err}
	}
	t.saved = saved
	return t, nil
}

// size returns the terminal's size, or 24 × 80 when there is none.
func (t *terminal) size() (rows, cols uint16) {
	ws, err := unix.IoctlGetWinsize(t.fd, unix.TIOCGWINSZ)
	if err != nil || ws.Row == 0 || ws.Col == 0 {
		return 24, 80
	}
	return ws.Row, ws.Col
}

func (t *terminal) restore() {
	if t != nil && t.saved != nil {
		_ = term.Restore(t.fd, t.saved)
	}
}

// inBackground reports whether f is the terminal of this process while another
// process group has it: reading it would stop kvmrig, though the command may
// not want any input.
func inBackground(f *os.File) bool {
	group, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	return err == nil && group != unix.Getpgrp()
}
