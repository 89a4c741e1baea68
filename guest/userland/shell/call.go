package shell

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

// simple runs a simple command. keep is true after exec without a command,
// whose redirections stay. With last set, an external command replaces the
// shell: there is nothing left for it to do.
func (s *Shell) simple(c *syntax.CallExpr, last bool) (keep bool) {
	s.substStatus = 0
	args, err := s.fields(s.expandAliases(c.Args)...)
	if err != nil {
		if s.status == 0 {
			s.status = 1
		}
		return false
	}
	if len(args) == 0 {
		s.assignments(c.Assigns)
		return false
	}
	saved, err := s.tempAssignments(c.Assigns)
	defer s.restore(saved)
	if err != nil {
		s.status = 1
		return false
	}
	s.trace(c.Assigns, args)
	if f := s.funcs[args[0]]; f != nil {
		s.callFunction(f, args)
		return false
	}
	if args[0] == "exec" {
		return s.execBuiltin(args[1:])
	}
	if b := builtin(args[0]); b != nil {
		s.status = b(s, args)
		return false
	}
	s.external(args, last)
	return false
}

// assignments runs a command that consists of assignments only.
func (s *Shell) assignments(list []*syntax.Assign) {
	status := 0
	for _, as := range list {
		name, v, err := s.assignment(as)
		if err == nil {
			if err = s.assign(name, v); err != nil {
				err = s.expandFailed(err)
			}
		}
		if err != nil {
			if s.status == 0 {
				s.status = 1
			}
			return
		}
		if s.opts.xtrace {
			s.write(2, s.ps4()+name+"="+quote(v.String())+"\n")
		}
		status = s.substStatus
	}
	if len(list) == 0 {
		status = s.substStatus
	}
	s.status = status
}

// tempAssignments makes the assignments in front of a command and returns what
// they hid.
func (s *Shell) tempAssignments(list []*syntax.Assign) (map[string]expand.Variable, error) {
	if len(list) == 0 {
		return nil, nil
	}
	saved := make(map[string]expand.Variable, len(list))
	for _, as := range list {
		name, v, err := s.assignment(as)
		if err != nil {
			return saved, err
		}
		if _, ok := saved[name]; !ok {
			saved[name] = s.vars[name]
		}
		v.Exported = true
		if err := s.assign(name, v); err != nil {
			return saved, s.expandFailed(err)
		}
	}
	return saved, nil
}

// expandAliases replaces the first words while they are aliases.
func (s *Shell) expandAliases(words []*syntax.Word) []*syntax.Word {
	if len(s.aliases) == 0 {
		return words
	}
	seen := map[string]bool{}
	for i := 0; i < len(words); {
		name := words[i].Lit()
		text, ok := s.aliases[name]
		if !ok || name == "" || seen[name] {
			break
		}
		seen[name] = true
		var repl []*syntax.Word
		for w, err := range syntax.NewParser().WordsSeq(strings.NewReader(text)) {
			if err != nil {
				return words
			}
			repl = append(repl, w)
		}
		words = append(append(append([]*syntax.Word{}, words[:i]...), repl...), words[i+1:]...)
		if strings.HasSuffix(text, " ") || strings.HasSuffix(text, "\t") {
			i += len(repl)
			seen = map[string]bool{}
		}
	}
	return words
}

func (s *Shell) callFunction(f *function, args []string) {
	if len(s.frames) >= 1000 {
		s.status = s.fail(2, "%s: function calls nested too deeply", args[0])
		s.flow = flowExit
		return
	}
	params, loops := s.params, s.loops
	s.params, s.loops = args[1:], 0
	s.frames = append(s.frames, frame{})
	s.stmt(f.body)
	top := s.frames[len(s.frames)-1]
	s.frames = s.frames[:len(s.frames)-1]
	s.restore(top.saved)
	s.params, s.loops = params, loops
	if s.flow == flowReturn {
		s.flow = flowNone
	}
}

// external runs a program and waits for it.
func (s *Shell) external(args []string, last bool) {
	path, status := s.findProgram(args[0])
	if status != 0 {
		s.status = status
		return
	}
	if last && len(s.procs) == 0 && !s.interactive {
		s.status = s.replace(path, args)
		s.flow = flowExit
		return
	}
	g := s.newGroup(false)
	p, err := s.start(path, args, s.environment(), s.fds, g)
	if err != nil {
		s.status = s.startFailed(args[0], err)
		return
	}
	s.status = s.waitForeground([]*process{p}, g, strings.Join(args, " "))
}

// findProgram looks a command up; a status other than zero means that it was
// reported as missing (127) or not executable (126).
func (s *Shell) findProgram(name string) (path string, status int) {
	if strings.Contains(name, "/") {
		switch err := executable(name); err {
		case nil:
			return name, 0
		case unix.ENOENT, unix.ENOTDIR:
			return "", s.fail(127, "%s: %s", name, message(err))
		default:
			return "", s.fail(126, "%s: %s", name, message(err))
		}
	}
	path, err := s.lookPath(name)
	switch {
	case err == nil:
		return path, 0
	case err == unix.EACCES:
		return "", s.fail(126, "%s: %s", name, message(err))
	}
	return "", s.fail(127, "%s: not found", name)
}

// lookPath searches $PATH.
func (s *Shell) lookPath(name string) (string, error) {
	var denied error = unix.ENOENT
	if name == "" {
		return "", denied
	}
	for dir := range strings.SplitSeq(s.vars["PATH"].String(), ":") {
		path := filepath.Join(dir, name)
		if dir == "" || dir == "." {
			path = "./" + name
		}
		switch err := executable(path); err {
		case nil:
			return path, nil
		case unix.EACCES:
			denied = err
		}
	}
	return "", denied
}

func executable(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EISDIR
	}
	return unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
}

// message is an errno's text as other shells print it.
func message(err error) string {
	msg := err.Error()
	if msg == "" {
		return msg
	}
	return strings.ToUpper(msg[:1]) + msg[1:]
}

func (s *Shell) startFailed(name string, err error) int {
	if err == unix.ENOENT { // the interpreter of a script, as a rule
		return s.fail(127, "%s: %s", name, message(err))
	}
	return s.fail(126, "%s: %s", name, message(err))
}

// execBuiltin replaces the shell, or keeps the redirections.
func (s *Shell) execBuiltin(args []string) (keep bool) {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		s.status = 0
		return true
	}
	path, status := s.findProgram(args[0])
	if status == 0 {
		status = s.replace(path, args)
	}
	s.status = status
	if !s.interactive {
		s.flow = flowExit
	}
	return false
}

// replace turns this process into the program. It returns only on failure.
func (s *Shell) replace(path string, args []string) int {
	env := s.environment()
	// Sources first move out of the way of targets.
	src := s.fds.files()
	for i, fd := range src {
		if fd == ^uintptr(0) {
			continue
		}
		if n, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, maxFD); err == nil {
			src[i] = uintptr(n)
		}
	}
	for i, fd := range src {
		if fd == ^uintptr(0) {
			unix.Close(i)
		} else {
			unix.Dup3(int(fd), i, 0)
		}
	}
	s.resetSignals()
	err := unix.Exec(path, args, env)
	if err == unix.ENOEXEC {
		if scriptArgs := scriptCommand(path, args); scriptArgs != nil {
			err = unix.Exec(selfPath(), scriptArgs, env)
		}
	}
	// The table's descriptors are in place: messages still find their way.
	os.Stderr.WriteString(s.name + ": " + args[0] + ": " + message(err) + "\n")
	if err == unix.ENOENT {
		return 127
	}
	return 126
}

// scriptCommand returns the command that runs a file without "#!" as a script
// of this shell, or nil if the file is not text.
func scriptCommand(path string, args []string) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	head := make([]byte, 128)
	n, _ := f.Read(head)
	if strings.IndexByte(string(head[:n]), 0) >= 0 {
		return nil
	}
	return append([]string{"sh", path}, args[1:]...)
}

// trace prints a command for set -x.
func (s *Shell) trace(assigns []*syntax.Assign, args []string) {
	if !s.opts.xtrace {
		return
	}
	var b strings.Builder
	b.WriteString(s.ps4())
	for _, as := range assigns {
		b.WriteString(as.Name.Value + "=" + quote(s.vars[as.Name.Value].String()) + " ")
	}
	for i, a := range args {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(quote(a))
	}
	b.WriteByte('\n')
	s.write(2, b.String())
}

func (s *Shell) ps4() string {
	text := s.vars["PS4"].String()
	if !strings.ContainsAny(text, "$`") {
		return text
	}
	w, err := syntax.NewParser().Document(strings.NewReader(text))
	if err != nil {
		return text
	}
	on := s.opts.xtrace
	s.opts.xtrace = false
	defer func() { s.opts.xtrace = on }()
	if v, err := expand.Document(s.cfg, w); err == nil {
		return v
	}
	return text
}

// quote quotes a string so that the shell reads it back as one word.
func quote(v string) string {
	if v == "" {
		return "''"
	}
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-+=./:,@%^", r) || r > 127
	}
	if strings.IndexFunc(v, func(r rune) bool { return !plain(r) }) < 0 {
		return v
	}
	return "'" + strings.ReplaceAll(v, "'", `'\''`) + "'"
}
