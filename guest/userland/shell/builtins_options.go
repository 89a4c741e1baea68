package shell

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func setBuiltin(s *Shell, args []string) int {
	if len(args) == 1 {
		return s.printVars("", nil)
	}
	rest, dashes, err := s.setOptions(args[1:])
	if err != nil {
		return s.fail(2, "set: %v", err)
	}
	if dashes || len(rest) > 0 {
		s.params = append([]string{}, rest...)
	}
	s.updateExpand()
	return 0
}

// setOptions applies option words and returns what follows them.
func (s *Shell) setOptions(args []string) (rest []string, dashes bool, err error) {
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" || a == "-" {
			return args[i+1:], a == "--", nil
		}
		if len(a) < 2 || a[0] != '-' && a[0] != '+' {
			return args[i:], false, nil
		}
		for _, c := range []byte(a[1:]) {
			if c == 'o' {
				if i++; i >= len(args) {
					s.printOptions(a[0] == '+')
					return nil, false, nil
				}
				o := s.opts.byName(args[i])
				if o == nil {
					return nil, false, fmt.Errorf("%s: invalid option name", args[i])
				}
				*o = a[0] == '-'
				continue
			}
			o := s.opts.byLetter(c)
			if o == nil {
				if c == 'b' || c == 'h' || c == 'B' || c == 'H' || c == 'E' || c == 'T' {
					continue // nothing to change here
				}
				return nil, false, fmt.Errorf("%c%c: invalid option", a[0], c)
			}
			*o = a[0] == '-'
		}
	}
	return nil, false, nil
}

func (s *Shell) printOptions(asCommands bool) {
	var b strings.Builder
	for _, n := range optionNames() {
		on := *s.opts.byName(n)
		switch {
		case asCommands && on:
			fmt.Fprintf(&b, "set -o %s\n", n)
		case asCommands:
			fmt.Fprintf(&b, "set +o %s\n", n)
		case on:
			fmt.Fprintf(&b, "%-15s on\n", n)
		default:
			fmt.Fprintf(&b, "%-15s off\n", n)
		}
	}
	s.write(1, b.String())
}

func aliasBuiltin(s *Shell, args []string) int {
	if len(args) == 1 {
		args = append(args, slices.Sorted(maps.Keys(s.aliases))...)
	}
	status := 0
	for _, a := range args[1:] {
		name, text, ok := strings.Cut(a, "=")
		if !ok {
			if text, ok = s.aliases[name]; !ok {
				status = s.fail(1, "alias: %s: not found", name)
				continue
			}
			s.write(1, "alias "+name+"='"+strings.ReplaceAll(text, "'", `'\''`)+"'\n")
			continue
		}
		if s.aliases == nil {
			s.aliases = make(map[string]string)
		}
		s.aliases[name] = text
	}
	return status
}

func unaliasBuiltin(s *Shell, args []string) int {
	status := 0
	for _, a := range args[1:] {
		if a == "-a" {
			clear(s.aliases)
		} else if _, ok := s.aliases[a]; !ok {
			status = s.fail(1, "unalias: %s: not found", a)
		}
		delete(s.aliases, a)
	}
	return status
}

func umaskBuiltin(s *Shell, args []string) int {
	if len(args) > 1 && args[1] != "-S" {
		if n, err := strconv.ParseUint(args[1], 8, 9); err == nil {
			unix.Umask(int(n))
			return 0
		}
		return s.fail(1, "umask: %s: bad mask", args[1])
	}
	m := unix.Umask(0o22)
	unix.Umask(m)
	if len(args) > 1 {
		part := func(bits int) (t string) {
			for i, c := range "rwx" {
				if bits&(4>>i) == 0 {
					t += string(c)
				}
			}
			return t
		}
		return s.print(fmt.Sprintf("u=%s,g=%s,o=%s\n", part(m>>6), part(m>>3), part(m)))
	}
	return s.print(fmt.Sprintf("%04o\n", m))
}

func timesBuiltin(s *Shell, _ []string) int {
	var b strings.Builder
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var ru unix.Rusage
		unix.Getrusage(who, &ru)
		u, k := time.Duration(ru.Utime.Nano()), time.Duration(ru.Stime.Nano())
		fmt.Fprintf(&b, "%dm%.3fs %dm%.3fs\n", int(u.Minutes()), (u % time.Minute).Seconds(), int(k.Minutes()), (k % time.Minute).Seconds())
	}
	return s.print(b.String())
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
		if l.res == unix.RLIMIT_NOFILE {
			r.Cur = openFilesLimit(r.Cur)
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
		r.Cur = min(r.Cur, r.Max)
		// Through syscall, which passes the new limit of open files on to
		// children: without that they get back the one from our start.
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

// openFilesLimit is the soft limit of open files that children get. The
// runtime raises its own at start and hides the one that it restores for them:
// a child that stops before its first instruction shows it.
func openFilesLimit(own uint64) uint64 {
	runtime.LockOSThread() // ptrace belongs to a thread
	defer runtime.UnlockOSThread()
	pid, err := syscall.ForkExec(selfPath(), []string{"true"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Ptrace: true}})
	if err != nil {
		return own
	}
	var ws unix.WaitStatus
	for {
		if _, err = unix.Wait4(pid, &ws, 0, nil); err != unix.EINTR {
			break
		}
	}
	var r unix.Rlimit
	if err == nil {
		err = unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &r)
	}
	unix.Kill(pid, unix.SIGKILL)
	for {
		if _, err := unix.Wait4(pid, &ws, 0, nil); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return own
	}
	return r.Cur
}
