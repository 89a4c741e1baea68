package rig

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// runDirect runs the command on the host: by exec, or, with a time limit, as a
// child.
func runDirect(c Config) (int, error) {
	path, err := exec.LookPath(c.Args[0])
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return 126, err
		}
		return 127, err
	}
	if c.Timeout == 0 {
		err := unix.Exec(path, c.Args, environ(EnvDirect))
		return 126, &Error{Op: "exec " + path, Err: err}
	}
	signals, stop := notify()
	defer stop()
	cmd := exec.Command(path, c.Args[1:]...)
	cmd.Args[0] = c.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = os.Stdin, os.Stdout, os.Stderr, environ(EnvDirect)
	// A process group of its own can be killed whole, but must not be one in
	// the background of a terminal that it wants to read.
	group := !term.IsTerminal(int(os.Stdin.Fd()))
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: group}
	if err := cmd.Start(); err != nil {
		return 126, err
	}
	target := cmd.Process.Pid
	if group {
		target = -target
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	limit := time.After(c.Timeout)
	for timedOut := false; ; {
		select {
		case err := <-done:
			if timedOut {
				return exitTimeout, nil
			}
			return waitCode(cmd, err)
		case s := <-signals:
			if sig, ok := s.(unix.Signal); ok && sig != unix.SIGWINCH {
				_ = unix.Kill(target, sig)
			}
		case <-limit:
			if timedOut {
				_ = unix.Kill(target, unix.SIGKILL)
				continue
			}
			timedOut = true
			fmt.Fprintf(os.Stderr, "kvmrig: time limit of %v exceeded\n", c.Timeout)
			_ = unix.Kill(target, unix.SIGTERM)
			limit = time.After(killAfter)
		}
	}
}

func waitCode(cmd *exec.Cmd, err error) (int, error) {
	if cmd.ProcessState == nil {
		return exitRig, err
	}
	if ws, ok := cmd.ProcessState.Sys().(unix.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}
