package shell

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/syntax"
)

// builtinFunc runs a builtin and returns its status.
type builtinFunc func(s *Shell, args []string) int

// builtin returns the builtin of that name, or nil. "exec" is not here: its
// redirections need the statement around it.
func builtin(name string) builtinFunc {
	switch name {
	case ":", "true":
		return func(*Shell, []string) int { return 0 }
	case "false":
		return func(*Shell, []string) int { return 1 }
	case "echo":
		return func(s *Shell, args []string) int { return s.print(Echo(args[1:])) }
	case "printf":
		return printfBuiltin
	case "test", "[":
		return testBuiltin
	case "cd":
		return cdBuiltin
	case "pwd":
		return pwdBuiltin
	case ".", "source":
		return dotBuiltin
	case "eval":
		return evalBuiltin
	case "exit":
		return exitBuiltin
	case "return":
		return returnBuiltin
	case "break", "continue":
		return loopBuiltin
	case "set":
		return setBuiltin
	case "shift":
		return shiftBuiltin
	case "unset":
		return unsetBuiltin
	case "export", "readonly", "local", "declare", "typeset": // behind "command"
		return func(s *Shell, args []string) int {
			var words []*syntax.Assign
			for _, a := range args[1:] {
				words = append(words, literalAssign(a))
			}
			return s.declareWords(args[0], words)
		}
	case "read":
		return readBuiltin
	case "getopts":
		return getoptsBuiltin
	case "alias":
		return aliasBuiltin
	case "unalias":
		return unaliasBuiltin
	case "command", "builtin":
		return commandBuiltin
	case "type":
		return typeBuiltin
	case "hash":
		return func(*Shell, []string) int { return 0 }
	case "trap":
		return trapBuiltin
	case "wait":
		return waitBuiltin
	case "kill":
		return killBuiltin
	case "jobs":
		return jobsBuiltin
	case "fg", "bg":
		return fgBuiltin
	case "umask":
		return umaskBuiltin
	case "ulimit":
		return ulimitBuiltin
	case "times":
		return timesBuiltin
	}
	return nil
}

func (s *Shell) print(text string) int {
	if !s.write(1, text) {
		return s.fail(1, "write error")
	}
	return 0
}

func printfBuiltin(s *Shell, args []string) int {
	if len(args) > 2 && args[1] == "-v" {
		out, err := Printf(args[3:])
		if err == nil {
			err = s.setVar(args[2], out)
		}
		if err != nil {
			return s.fail(1, "printf: %v", err)
		}
		return 0
	}
	out, err := Printf(args[1:])
	status := s.print(out)
	if err != nil {
		return s.fail(1, "printf: %v", err)
	}
	return status
}

func cdBuiltin(s *Shell, args []string) int {
	physical := false
	args = args[1:]
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		opt := args[0]
		args = args[1:]
		if opt == "--" {
			break
		}
		switch opt {
		case "-P":
			physical = true
		case "-L":
			physical = false
		default:
			return s.fail(2, "cd: %s: invalid option", opt)
		}
	}
	dir, show := "", false
	switch {
	case len(args) == 0:
		if dir = s.vars["HOME"].String(); dir == "" {
			return s.fail(1, "cd: HOME not set")
		}
	case args[0] == "-":
		if dir, show = s.vars["OLDPWD"].String(), true; dir == "" {
			return s.fail(1, "cd: OLDPWD not set")
		}
	default:
		dir = args[0]
	}
	target := dir
	if !filepath.IsAbs(dir) {
		if first, _, _ := strings.Cut(dir, "/"); first != "." && first != ".." {
			for p := range strings.SplitSeq(s.vars["CDPATH"].String(), ":") {
				if fi, err := os.Stat(filepath.Join(p, dir)); p != "" && err == nil && fi.IsDir() {
					target, show = filepath.Join(p, dir), true
					break
				}
			}
		}
	}
	old := s.vars["PWD"].String()
	if !physical && !filepath.IsAbs(target) && old != "" {
		target = filepath.Join(old, target)
	}
	if !physical {
		target = filepath.Clean(target)
	}
	if err := unix.Chdir(target); err != nil {
		return s.fail(1, "cd: %s: %s", dir, message(err))
	}
	if physical || !filepath.IsAbs(target) {
		if wd, err := unix.Getwd(); err == nil {
			target = wd
		}
	}
	s.setVar("OLDPWD", old)
	s.setVar("PWD", target)
	if show {
		return s.print(target + "\n")
	}
	return 0
}

func pwdBuiltin(s *Shell, args []string) int {
	wd := s.vars["PWD"].String()
	if len(args) > 1 && args[1] == "-P" || wd == "" {
		var err error
		if wd, err = unix.Getwd(); err != nil {
			return s.fail(1, "pwd: %s", message(err))
		}
	}
	return s.print(wd + "\n")
}

func dotBuiltin(s *Shell, args []string) int {
	if len(args) < 2 {
		return s.fail(2, "%s: filename argument required", args[0])
	}
	path := args[1]
	if !strings.Contains(path, "/") {
		for dir := range strings.SplitSeq(s.vars["PATH"].String(), ":") {
			if fi, err := os.Stat(filepath.Join(dir, path)); err == nil && fi.Mode().IsRegular() {
				path = filepath.Join(dir, path)
				break
			}
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		s.errorf("%s: %s: %s", args[0], path, message(unwrap(err)))
		if !s.interactive {
			s.flow = flowExit // a special builtin's failure
		}
		return 1
	}
	params := s.params
	if len(args) > 2 {
		s.params = args[2:]
	}
	s.sources++
	s.status = 0
	s.runText(string(text), path)
	s.sources--
	if len(args) > 2 {
		s.params = params
	}
	if s.flow == flowReturn {
		s.flow = flowNone
	}
	return s.status
}

func evalBuiltin(s *Shell, args []string) int {
	s.status = 0
	s.runText(strings.Join(args[1:], " "), "eval")
	return s.status
}

func (s *Shell) statusArg(args []string) (int, bool) {
	if len(args) < 2 {
		return s.status, true
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return s.fail(2, "%s: %s: numeric argument required", args[0], args[1]), false
	}
	return n & 0xff, true
}

func exitBuiltin(s *Shell, args []string) int {
	n, _ := s.statusArg(args)
	s.flow = flowExit
	return n
}

func returnBuiltin(s *Shell, args []string) int {
	n, _ := s.statusArg(args)
	s.flow = flowReturn
	if len(s.frames) == 0 && s.sources == 0 {
		s.flow = flowExit // as other shells' scripts do
	}
	return n
}

func loopBuiltin(s *Shell, args []string) int {
	n := 1
	if len(args) > 1 {
		var err error
		if n, err = strconv.Atoi(args[1]); err != nil || n < 1 {
			return s.fail(2, "%s: %s: bad number", args[0], args[1])
		}
	}
	if s.loops == 0 {
		return 0
	}
	s.flowN = min(n, s.loops)
	s.flow = flowBreak
	if args[0] == "continue" {
		s.flow = flowContinue
	}
	return 0
}

func shiftBuiltin(s *Shell, args []string) int {
	n := 1
	if len(args) > 1 {
		var err error
		if n, err = strconv.Atoi(args[1]); err != nil || n < 0 {
			return s.fail(2, "shift: %s: bad number", args[1])
		}
	}
	if n > len(s.params) {
		return 1
	}
	s.params = s.params[n:]
	return 0
}

func commandBuiltin(s *Shell, args []string) int {
	verbose, long := false, false
	rest := args[1:]
	for len(rest) > 0 && strings.HasPrefix(rest[0], "-") && args[0] == "command" {
		opt := rest[0]
		rest = rest[1:]
		switch opt {
		case "-v":
			verbose = true
		case "-V":
			long = true
		case "-p":
		case "--":
		default:
			return s.fail(2, "command: %s: invalid option", opt)
		}
		if opt == "--" {
			break
		}
	}
	if len(rest) == 0 {
		return 0
	}
	if verbose || long {
		return s.describe(rest, long)
	}
	if rest[0] == "exec" {
		s.execBuiltin(rest[1:])
		return s.status
	}
	if b := builtin(rest[0]); b != nil {
		return b(s, rest)
	}
	s.external(rest, false)
	return s.status
}

func typeBuiltin(s *Shell, args []string) int { return s.describe(args[1:], true) }

// describe tells what each name would run.
func (s *Shell) describe(names []string, long bool) int {
	status := 0
	for _, n := range names {
		short, text := n, ""
		switch {
		case s.aliases[n] != "":
			short, text = "alias "+n+"="+quote(s.aliases[n]), "is an alias for "+s.aliases[n]
		case syntax.IsKeyword(n):
			text = "is a shell keyword"
		case s.funcs[n] != nil:
			text = "is a shell function"
		case builtin(n) != nil || n == "exec":
			text = "is a shell builtin"
		case strings.Contains(n, "/"):
			if executable(n) == nil {
				text = "is " + n
			}
		default:
			if p, err := s.lookPath(n); err == nil {
				short, text = p, "is "+p
			}
		}
		switch {
		case text == "" && long:
			status = s.fail(127, "%s: not found", n)
		case text == "":
			status = 127
		case long:
			s.write(1, n+" "+text+"\n")
		default:
			s.write(1, short+"\n")
		}
	}
	return status
}
