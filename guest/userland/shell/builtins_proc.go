package shell

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unwrap returns the errno inside an error of package os.
func unwrap(err error) error {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}

// waitBuiltin waits for children. A trapped signal ends it early.
func waitBuiltin(s *Shell, args []string) int {
	var list []*process
	if len(args) == 1 {
		for _, p := range s.procs {
			list = append(list, p)
		}
	}
	for _, a := range args[1:] {
		var p *process
		if strings.HasPrefix(a, "%") {
			if j := s.findJob(a); j != nil {
				p = j.procs[len(j.procs)-1]
			}
		} else {
			pid, err := strconv.Atoi(a)
			if err != nil {
				return s.fail(2, "wait: %s: not a pid or job", a)
			}
			p = s.procs[pid]
		}
		if p == nil {
			list = append(list, finished(127))
			continue
		}
		list = append(list, p)
	}
	status := 0
	for _, p := range list {
		for done := false; !done; {
			select {
			case <-p.done:
				done = true
			case sig := <-s.signals():
				if s.runTrap(sig); s.flow != flowNone {
					return s.status
				}
				if n, ok := sig.(syscall.Signal); ok {
					return 128 + int(n)
				}
			}
		}
		delete(s.procs, p.pid)
		if len(args) > 1 {
			status = p.exitStatus()
		}
		s.forget(p)
	}
	return status
}

// forget removes the job whose last process was waited for.
func (s *Shell) forget(p *process) {
	s.jobs = slices.DeleteFunc(s.jobs, func(j *job) bool { return j.procs[len(j.procs)-1] == p })
}

func killBuiltin(s *Shell, args []string) int {
	sig := unix.SIGTERM
	args = args[1:]
	if len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && args[0] != "--" {
		opt := args[0]
		args = args[1:]
		if opt == "-l" || opt == "-L" {
			return s.listSignals(args)
		}
		spec := opt[1:]
		if opt == "-s" || opt == "-n" {
			if len(args) == 0 {
				return s.fail(2, "kill: %s: option requires an argument", opt)
			}
			spec, args = args[0], args[1:]
		}
		name, ok := signalName(spec)
		switch {
		case spec == "0":
			sig = 0
		case !ok || signalNumber(name) == 0:
			return s.fail(1, "kill: %s: invalid signal", spec)
		default:
			sig = signalNumber(name)
		}
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return s.fail(2, "kill: usage: kill [-s signal | -signal] pid | %%job …")
	}
	status := 0
	for _, a := range args {
		pid := 0
		if strings.HasPrefix(a, "%") {
			j := s.findJob(a)
			if j == nil {
				status = s.fail(1, "kill: %s: no such job", a)
				continue
			}
			pid = -j.pgid
			if !s.jobControl {
				pid = j.procs[len(j.procs)-1].pid
			}
		} else {
			var err error
			if pid, err = strconv.Atoi(a); err != nil {
				status = s.fail(1, "kill: %s: not a pid", a)
				continue
			}
		}
		if err := unix.Kill(pid, sig); err != nil {
			status = s.fail(1, "kill: (%s) - %s", a, message(err))
		} else if pid == os.Getpid() && sig != 0 {
			s.awaitOwn(signalNameOf(sig))
		}
	}
	return status
}

func signalNameOf(sig syscall.Signal) string {
	return strings.TrimPrefix(unix.SignalName(sig), "SIG")
}

// awaitOwn gives a signal that the shell sent to itself the time to arrive:
// the runtime delivers it through another thread, but the next command must
// not run before it.
func (s *Shell) awaitOwn(name string) {
	action, trapped := s.traps[name]
	if trapped && action == "" {
		return
	}
	for end := time.Now().Add(50 * time.Millisecond); time.Now().Before(end) && len(s.sigs) == 0; {
		time.Sleep(100 * time.Microsecond)
	}
}

func (s *Shell) listSignals(args []string) int {
	if len(args) > 0 {
		for _, a := range args {
			n, err := strconv.Atoi(a)
			if err == nil && n > 128 {
				a = strconv.Itoa(n - 128)
			}
			name, ok := signalName(a)
			switch {
			case !ok:
				return s.fail(1, "kill: %s: invalid signal", a)
			case err == nil:
				s.write(1, name+"\n")
			default:
				s.write(1, strconv.Itoa(int(signalNumber(name)))+"\n")
			}
		}
		return 0
	}
	var names []string
	for n := range 32 {
		if name := unix.SignalName(syscall.Signal(n)); name != "" {
			names = append(names, strings.TrimPrefix(name, "SIG"))
		}
	}
	return s.print(strings.Join(names, " ") + "\n")
}

func jobsBuiltin(s *Shell, args []string) int {
	for _, j := range slices.Clone(s.jobs) {
		state := "Done"
		for _, p := range j.procs {
			if !p.ended() {
				state = "Running"
			}
		}
		if j.stopped {
			state = "Stopped"
		}
		if len(args) > 1 && args[1] == "-p" {
			s.write(1, fmt.Sprintln(j.pgid))
			continue
		}
		s.write(1, fmt.Sprintf("[%d]  %-8s %s\n", j.id, state, j.text))
		if state == "Done" {
			s.removeJob(j)
		}
	}
	return 0
}

func fgBuiltin(s *Shell, args []string) int {
	if !s.jobControl {
		return s.fail(1, "%s: no job control", args[0])
	}
	spec := "%"
	if len(args) > 1 {
		spec = args[1]
	}
	j := s.findJob(spec)
	if j == nil {
		return s.fail(1, "%s: %s: no such job", args[0], spec)
	}
	j.stopped = false
	s.write(1, j.text+"\n")
	if args[0] == "bg" {
		unix.Kill(-j.pgid, unix.SIGCONT)
		return 0
	}
	s.foreground(j.pgid)
	unix.Kill(-j.pgid, unix.SIGCONT)
	status := s.finish(j)
	s.foreground(unix.Getpgrp())
	if !j.stopped {
		s.removeJob(j)
	}
	return status
}

// fileInfo is used by test: an lstat or stat that may fail.
func fileInfo(path string, follow bool) (os.FileInfo, bool) {
	stat := os.Lstat
	if follow {
		stat = os.Stat
	}
	fi, err := stat(path)
	return fi, err == nil
}
