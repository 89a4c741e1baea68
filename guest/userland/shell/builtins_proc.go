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
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
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
				s.runTrap(sig)
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

// limit is one resource of ulimit.
type limit struct {
	opt  byte
	res  int
	unit uint64
	text string
}

func limits() []limit {
	return []limit{
		{'c', unix.RLIMIT_CORE, 512, "core file size (blocks)"},
		{'d', unix.RLIMIT_DATA, 1024, "data seg size (kb)"},
		{'f', unix.RLIMIT_FSIZE, 512, "file size (blocks)"},
		{'l', unix.RLIMIT_MEMLOCK, 1024, "locked memory (kb)"},
		{'m', unix.RLIMIT_RSS, 1024, "resident set (kb)"},
		{'n', unix.RLIMIT_NOFILE, 1, "open files"},
		{'s', unix.RLIMIT_STACK, 1024, "stack size (kb)"},
		{'t', unix.RLIMIT_CPU, 1, "cpu time (seconds)"},
		{'u', unix.RLIMIT_NPROC, 1, "processes"},
		{'v', unix.RLIMIT_AS, 1024, "virtual memory (kb)"},
	}
}

func ulimitBuiltin(s *Shell, args []string) int {
	soft, hard, all := true, true, false
	what := byte('f')
	args = args[1:]
	for len(args) > 0 && strings.HasPrefix(args[0], "-") && len(args[0]) > 1 {
		for _, c := range []byte(args[0][1:]) {
			switch c {
			case 'H':
				soft = false
			case 'S':
				hard = false
			case 'a':
				all = true
			default:
				what = c
			}
		}
		args = args[1:]
	}
	show := func(l limit, v uint64) string {
		if v == unix.RLIM_INFINITY {
			return "unlimited"
		}
		return strconv.FormatUint(v/l.unit, 10)
	}
	for _, l := range limits() {
		if l.opt != what && !all {
			continue
		}
		var r unix.Rlimit
		if err := unix.Getrlimit(l.res, &r); err != nil {
			return s.fail(1, "ulimit: %s", message(err))
		}
		v := r.Cur
		if !soft {
			v = r.Max
		}
		if all {
			s.write(1, fmt.Sprintf("-%c: %-26s %s\n", l.opt, l.text, show(l, v)))
			continue
		}
		if len(args) == 0 {
			return s.print(show(l, v) + "\n")
		}
		n := uint64(unix.RLIM_INFINITY)
		if args[0] != "unlimited" {
			x, err := strconv.ParseUint(args[0], 10, 54)
			if err != nil {
				return s.fail(1, "ulimit: %s: bad number", args[0])
			}
			n = x * l.unit
		}
		if soft {
			r.Cur = n
		}
		if hard {
			r.Max = n
		}
		// The runtime raised its own soft limit of open files at start and
		// restores the old one in children unless it is told: syscall does.
		if err := syscall.Setrlimit(l.res, &syscall.Rlimit{Cur: r.Cur, Max: r.Max}); err != nil {
			return s.fail(1, "ulimit: %s", message(err))
		}
		return 0
	}
	if !all {
		return s.fail(2, "ulimit: -%c: invalid option", what)
	}
	return 0
}

// readBuiltin reads a line byte by byte: the rest belongs to other readers.
func readBuiltin(s *Shell, args []string) int {
	var raw, silent bool
	delim, fd, count := byte('\n'), 0, -1
	timeout := time.Duration(-1)
	prompt, array := "", ""
	args = args[1:]
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		opt := args[0]
		args = args[1:]
		if opt == "--" {
			break
		}
		for i := 1; i < len(opt); i++ {
			c := opt[i]
			if c == 'r' || c == 's' {
				raw, silent = raw || c == 'r', silent || c == 's'
				continue
			}
			val := opt[i+1:]
			i = len(opt)
			if val == "" {
				if len(args) == 0 {
					return s.fail(2, "read: -%c: option requires an argument", c)
				}
				val, args = args[0], args[1:]
			}
			var err error
			switch c {
			case 'p':
				prompt = val
			case 'd':
				delim = 0
				if val != "" {
					delim = val[0]
				}
			case 'n', 'N':
				count, err = strconv.Atoi(val)
			case 'u':
				fd, err = strconv.Atoi(val)
			case 't':
				var sec float64
				sec, err = strconv.ParseFloat(val, 64)
				timeout = time.Duration(sec * float64(time.Second))
			case 'a':
				array = val
			default:
				return s.fail(2, "read: -%c: invalid option", c)
			}
			if err != nil {
				return s.fail(2, "read: -%c: %s: bad number", c, val)
			}
		}
	}
	for _, n := range args {
		if !syntax.ValidName(n) {
			return s.fail(2, "read: %s: bad variable name", n)
		}
	}
	f := s.fds[fd]
	if f == nil {
		return s.fail(1, "read: %d: bad file descriptor", fd)
	}
	if prompt != "" && isTerminal(f.fd) {
		s.write(2, prompt)
	}
	if silent {
		defer noEcho(f.fd)()
	}
	line, status := s.readLine(f.fd, delim, raw, count, timeout)
	if status > 128 && s.flow != flowNone {
		return status
	}
	if array != "" {
		v := expand.Variable{Set: true, Kind: expand.Indexed, List: expand.ReadFields(s.cfg, line, -1, raw)}
		if err := s.assign(array, v); err != nil {
			return s.fail(1, "%v", err)
		}
		return status
	}
	if len(args) == 0 {
		s.setVar("REPLY", line)
		return status
	}
	fields := expand.ReadFields(s.cfg, line, len(args), raw)
	for i, n := range args {
		v := ""
		if i < len(fields) {
			v = fields[i]
		}
		if err := s.setVar(n, v); err != nil {
			return s.fail(1, "%v", err)
		}
	}
	return status
}

// readLine returns a line and 0, 1 at the end of input, or 128+n after a
// signal or the timeout.
func (s *Shell) readLine(fd int, delim byte, raw bool, count int, timeout time.Duration) (string, int) {
	var line []byte
	end := time.Now().Add(timeout)
	escaped := false
	for count < 0 || len(line) < count {
		if status := s.awaitInput(fd, timeout >= 0, end); status != 0 {
			return string(line), status
		}
		var b [1]byte
		n, err := retryRead(fd, b[:])
		if err != nil || n == 0 {
			return string(line), 1
		}
		c := b[0]
		if escaped {
			escaped = false
			if c == '\n' {
				line = line[:len(line)-1]
				continue
			}
		} else if c == delim {
			break
		} else if c == '\\' && !raw {
			escaped = true
		}
		if c != 0 {
			line = append(line, c)
		}
	}
	return string(line), 0
}

// awaitInput waits for input, a trapped signal or the end of the time.
func (s *Shell) awaitInput(fd int, timed bool, end time.Time) int {
	if s.sigs == nil && !timed {
		return 0
	}
	for {
		wait := 100 * time.Millisecond // how soon a trap runs
		if timed {
			left := time.Until(end)
			if left <= 0 {
				left = 0
			}
			wait = min(wait, left)
		}
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int((wait+time.Millisecond-1)/time.Millisecond))
		if n > 0 || err != nil && err != unix.EINTR {
			return 0
		}
		select {
		case sig := <-s.sigs:
			s.runTrap(sig)
			if num, ok := sig.(syscall.Signal); ok && s.flow != flowNone {
				return 128 + int(num)
			}
		default:
		}
		if timed && !time.Now().Before(end) {
			return 142
		}
	}
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

// noEcho switches a terminal's echo off and returns how to restore it.
func noEcho(fd int) (restore func()) {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	old := *t
	t.Lflag &^= unix.ECHO
	unix.IoctlSetTermios(fd, unix.TCSETS, t)
	return func() { unix.IoctlSetTermios(fd, unix.TCSETS, &old) }
}

func getoptsBuiltin(s *Shell, args []string) int {
	if len(args) < 3 {
		return s.fail(2, "getopts: usage: getopts optstring name [arg …]")
	}
	spec, name, words := args[1], args[2], s.params
	if len(args) > 3 {
		words = args[3:]
	}
	quiet := strings.HasPrefix(spec, ":")
	optind, _ := strconv.Atoi(s.vars["OPTIND"].String())
	optind = max(optind, 1)
	next := func(n, offset int) {
		s.setVar("OPTIND", strconv.Itoa(n))
		s.getopts = offset
	}
	delete(s.vars, "OPTARG")
	offset := s.getopts
	if optind > len(words) || offset == 0 && (len(words[optind-1]) < 2 || words[optind-1][0] != '-' || words[optind-1] == "--") {
		if optind <= len(words) && words[optind-1] == "--" {
			optind++
		}
		next(optind, 0)
		s.setVar(name, "?")
		return 1
	}
	word := words[optind-1]
	if offset == 0 || offset >= len(word) {
		offset = 1
	}
	c := word[offset]
	offset++
	after := func() { // to the next option, in this word or the next
		if offset >= len(word) {
			next(optind+1, 0)
		} else {
			next(optind, offset)
		}
	}
	i := strings.IndexByte(spec, c)
	if i < 0 || c == ':' {
		after()
		s.setVar(name, "?")
		if quiet {
			s.setVar("OPTARG", string(c))
		} else {
			s.errorf("illegal option -- %c", c)
		}
		return 0
	}
	if i+1 >= len(spec) || spec[i+1] != ':' {
		after()
		s.setVar(name, string(c))
		return 0
	}
	switch {
	case offset < len(word):
		s.setVar("OPTARG", word[offset:])
		next(optind+1, 0)
	case optind < len(words):
		s.setVar("OPTARG", words[optind])
		next(optind+2, 0)
	default:
		next(optind+1, 0)
		if quiet {
			s.setVar(name, ":")
			s.setVar("OPTARG", string(c))
		} else {
			s.setVar(name, "?")
			s.errorf("option requires an argument -- %c", c)
		}
		return 0
	}
	s.setVar(name, string(c))
	return 0
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
