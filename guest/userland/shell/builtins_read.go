package shell

import (
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

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
	if status == interrupted {
		return s.status
	}
	if array != "" {
		v := expand.Variable{Set: true, Kind: expand.Indexed, List: s.readFields(line, -1, raw)}
		if err := s.assign(array, v); err != nil {
			return s.fail(1, "%v", err)
		}
		return status
	}
	if len(args) == 0 {
		if !raw {
			line = unbackslash(line)
		}
		s.setVar("REPLY", line)
		return status
	}
	fields := s.readFields(line, len(args), raw)
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

// interrupted is awaitInput's answer when a trap's action left the command.
const interrupted = 256

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
			if s.runTrap(sig); s.flow != flowNone {
				return interrupted
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

// unbackslash removes the backslashes that protect characters.
func unbackslash(v string) string {
	var b strings.Builder
	for i := 0; i < len(v); i++ {
		if v[i] == '\\' && i+1 < len(v) {
			i++
		}
		b.WriteByte(v[i])
	}
	return b.String()
}
