package shell

import (
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is one child. Its waiter goroutine fills status and closes done; it
// sends on stopped each time the child stops.
type process struct {
	pid     int
	status  unix.WaitStatus
	done    chan struct{}
	stopped chan struct{}
}

// job is a pipeline of an interactive shell.
type job struct {
	id      int
	pgid    int
	procs   []*process
	text    string
	stopped bool
}

// group says which process group a child joins.
type group struct {
	set  bool
	pgid int // 0: a new one, led by the child; then filled with its number
}

// newGroup returns the group for a new pipeline: the shell's own, unless the
// shell controls a terminal's jobs.
func (s *Shell) newGroup(background bool) *group {
	return &group{set: s.jobControl || background && s.opts.monitor}
}

// start starts a program with the given descriptors.
func (s *Shell) start(path string, args, env []string, fds fdTable, g *group) (*process, error) {
	attr := &syscall.ProcAttr{Env: env, Files: fds.files()}
	if g != nil && g.set {
		attr.Sys = &syscall.SysProcAttr{Setpgid: true, Pgid: g.pgid}
	}
	var pid int
	var err error
	// A file that another process is still writing cannot be executed; a
	// concurrent fork holds such descriptors for an instant.
	for delay := time.Millisecond; ; delay *= 2 {
		pid, err = syscall.ForkExec(path, args, attr)
		if err == syscall.EPERM && attr.Sys != nil && attr.Sys.Pgid != 0 {
			attr.Sys.Pgid, g.pgid = 0, 0 // the group's members are all gone
			continue
		}
		if err != syscall.ETXTBSY || delay > 200*time.Millisecond {
			break
		}
		time.Sleep(delay)
	}
	if err == syscall.ENOEXEC {
		if script := scriptCommand(path, args); script != nil {
			pid, err = syscall.ForkExec(selfPath(), script, attr)
		}
	}
	if err != nil {
		return nil, err
	}
	if g != nil && g.set && g.pgid == 0 {
		g.pgid = pid
	}
	p := &process{pid: pid, done: make(chan struct{}), stopped: make(chan struct{}, 1)}
	s.procs[pid] = p
	go p.wait(s.jobControl)
	return p, nil
}

func (p *process) wait(stops bool) {
	flags := 0
	if stops {
		flags = unix.WUNTRACED
	}
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(p.pid, &ws, flags, nil)
		switch {
		case err == unix.EINTR:
		case err != nil: // someone ignores SIGCHLD for us
			close(p.done)
			return
		case ws.Stopped():
			select {
			case p.stopped <- struct{}{}:
			default:
			}
		default:
			p.status = ws
			close(p.done)
			return
		}
	}
}

// exitStatus is what $? shows for a process that ended.
func (p *process) exitStatus() int {
	if p.status.Signaled() {
		return 128 + int(p.status.Signal())
	}
	return p.status.ExitStatus()
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// waitForeground waits for the processes of a pipeline and returns the status
// of the last, or with pipefail of the last that failed. It forgets them,
// unless they stopped: then they become a job.
func (s *Shell) waitForeground(procs []*process, g *group, text string) int {
	if s.jobControl && g.pgid != 0 {
		s.foreground(g.pgid)
		defer s.foreground(unix.Getpgrp())
	}
	return s.finish(&job{pgid: g.pgid, procs: procs, text: text})
}

// finish waits until a job's processes ended or one stopped.
func (s *Shell) finish(j *job) int {
	status := 0
	interrupted := false
	for i, p := range j.procs {
		select {
		case <-p.done:
		case <-p.stopped:
			return s.suspend(j)
		}
		delete(s.procs, p.pid)
		if st := p.exitStatus(); i == len(j.procs)-1 && (st != 0 || !s.opts.pipefail) || s.opts.pipefail && st != 0 {
			status = st
		}
		if p.status.Signaled() {
			s.reportSignal(p, j)
			interrupted = interrupted || p.status.Signal() == unix.SIGINT
		}
	}
	if interrupted && s.interactive {
		s.flow = flowAbort
	}
	return status
}

// reportSignal tells an interactive user what ended a command.
func (s *Shell) reportSignal(p *process, j *job) {
	if !s.interactive {
		return
	}
	switch sig := p.status.Signal(); sig {
	case unix.SIGINT:
		s.write(2, "\n")
	case unix.SIGPIPE:
	default:
		core := ""
		if p.status.CoreDump() {
			core = " (core dumped)"
		}
		s.write(2, message(signalText(sig))+core+"\n")
	}
}

type textError string

func (t textError) Error() string { return string(t) }

func signalText(sig syscall.Signal) error { return textError(sig.String()) }

func (s *Shell) suspend(j *job) int {
	if j.id == 0 {
		s.addJob(j)
	}
	j.stopped = true
	s.write(2, fmt.Sprintf("\n[%d]+  Stopped  %s\n", j.id, j.text))
	s.flow = flowAbort
	return 128 + int(unix.SIGTSTP)
}

func (s *Shell) addJob(j *job) {
	j.id = 1
	for _, o := range s.jobs {
		j.id = max(j.id, o.id+1)
	}
	s.jobs = append(s.jobs, j)
}

func (s *Shell) removeJob(j *job) {
	s.jobs = slices.DeleteFunc(s.jobs, func(o *job) bool { return o == j })
}

// findJob resolves %n, %%, %+ and %string.
func (s *Shell) findJob(spec string) *job {
	spec = strings.TrimPrefix(spec, "%")
	for i := len(s.jobs) - 1; i >= 0; i-- {
		j := s.jobs[i]
		if spec == "" || spec == "%" || spec == "+" || fmt.Sprint(j.id) == spec || strings.HasPrefix(j.text, spec) {
			return j
		}
	}
	return nil
}

// notifyJobs reports background jobs that ended, before a prompt.
func (s *Shell) notifyJobs() {
	for _, j := range slices.Clone(s.jobs) {
		if j.stopped {
			continue
		}
		running := false
		for _, p := range j.procs {
			running = running || !p.ended()
		}
		if running {
			continue
		}
		s.removeJob(j)
		st := j.procs[len(j.procs)-1].exitStatus()
		what := "Done"
		if st != 0 {
			what = fmt.Sprintf("Exit %d", st)
		}
		s.write(2, fmt.Sprintf("[%d]  %s  %s\n", j.id, what, j.text))
	}
}

// foreground gives the terminal to a process group.
func (s *Shell) foreground(pgid int) {
	if pgid == unix.Getpgrp() {
		// The kernel stops a background group that does this, unless it
		// ignores the signal; children must not inherit that, so only now.
		signal.Ignore(unix.SIGTTOU)
		defer signal.Reset(unix.SIGTTOU)
	}
	unix.IoctlSetPointerInt(s.tty, unix.TIOCSPGRP, pgid)
	if pgid != unix.Getpgrp() {
		// It may have read before the terminal was its own.
		unix.Kill(-pgid, unix.SIGCONT)
	}
}

// background starts a list without waiting for it.
func (s *Shell) background(st *syntaxStmt) {
	fg := *st
	fg.Background = false
	g := s.newGroup(true)
	var procs []*process
	run := func() {
		table := s.fds
		if !g.set && s.fds[0] != nil { // without job control: POSIX 2.9.3.1
			if null, err := open("/dev/null", unix.O_RDONLY); err == nil {
				s.fds = table.clone()
				s.fds.set(0, null)
				defer func() { s.fds.close(); s.fds = table }()
			}
		}
		procs = s.launchList(&fg, g)
	}
	if g.set {
		run()
	} else {
		s.withoutKeyboard(run)
	}
	s.status = 0
	if len(procs) == 0 {
		return
	}
	s.lastBG = procs[len(procs)-1].pid
	if s.interactive {
		text, _ := source([]*syntaxStmt{&fg})
		j := &job{pgid: procs[0].pid, procs: procs, text: strings.TrimSpace(text)}
		s.addJob(j)
		s.write(2, fmt.Sprintf("[%d] %d\n", j.id, s.lastBG))
	}
}

// withoutKeyboard runs fn so that children it starts ignore SIGINT and SIGQUIT.
func (s *Shell) withoutKeyboard(fn func()) {
	signal.Ignore(unix.SIGINT, unix.SIGQUIT)
	fn()
	for _, name := range []string{"INT", "QUIT"} {
		s.applyTrap(name)
	}
}

// selfPath is the program file of this shell.
func selfPath() string {
	if _, err := os.Stat("/proc/self/exe"); err == nil {
		return "/proc/self/exe"
	}
	return "/bin/sh"
}
