package shell

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/syntax"
)

// pipeline runs a | b | c, each in an environment of its own.
func (s *Shell) pipeline(c *syntax.BinaryCmd) {
	g := s.newGroup(false)
	procs := s.launchPipeline(c, g)
	if len(procs) == 0 {
		return
	}
	text, _ := source([]*syntax.Stmt{{Cmd: c}})
	s.status = s.waitForeground(procs, g, strings.TrimSpace(text))
}

// stages flattens a left-leaning tree of pipes.
func stages(c *syntax.BinaryCmd) (list []*syntax.Stmt, withErr []bool) {
	if x, ok := c.X.Cmd.(*syntax.BinaryCmd); ok && plain(c.X) && isPipe(x) {
		list, withErr = stages(x)
	} else {
		list = []*syntax.Stmt{c.X}
	}
	withErr = append(withErr, c.Op == syntax.PipeAll)
	if y, ok := c.Y.Cmd.(*syntax.BinaryCmd); ok && plain(c.Y) && isPipe(y) {
		l, e := stages(y)
		return append(list, l...), append(withErr, e...)
	}
	return append(list, c.Y), withErr
}

func isPipe(c *syntax.BinaryCmd) bool { return c.Op == syntax.Pipe || c.Op == syntax.PipeAll }

// plain reports whether a statement is nothing but its command.
func plain(st *syntax.Stmt) bool {
	return !st.Negated && !st.Background && len(st.Redirs) == 0
}

// launchPipeline starts all stages and returns their processes in order.
func (s *Shell) launchPipeline(c *syntax.BinaryCmd, g *group) []*process {
	list, withErr := stages(c)
	var procs []*process
	old := s.fds
	defer func() { s.fds = old }()
	var in *openFile // the read end of the previous pipe
	for i, st := range list {
		s.fds = old.clone()
		if in != nil {
			s.fds.set(0, in)
			in = nil
		}
		if i < len(list)-1 {
			r, w, err := newPipe()
			if err != nil {
				s.status = s.fail(2, "cannot make a pipe: %v", err)
				s.fds.close()
				return procs
			}
			s.fds.set(1, w)
			if withErr[i] {
				w.refs++
				s.fds.set(2, w)
			}
			in = r
		}
		p := s.launchStmt(st, g, i < len(list)-1)
		s.fds.close()
		procs = append(procs, p)
	}
	return procs
}

// launchList starts a statement in the background and returns the processes.
func (s *Shell) launchList(st *syntax.Stmt, g *group) []*process {
	if c, ok := st.Cmd.(*syntax.BinaryCmd); ok && plain(st) && isPipe(c) {
		return s.launchPipeline(c, g)
	}
	return []*process{s.launchStmt(st, g, false)}
}

// launchStmts starts a list as one subshell, or directly if it is simple.
func (s *Shell) launchStmts(list []*syntax.Stmt, g *group) []*process {
	if len(list) == 1 && !list[0].Background {
		return s.launchList(list[0], g)
	}
	p, err := s.launch(list, s.fds, g)
	if err != nil {
		return []*process{finished(s.fail(2, "cannot start a subshell: %v", err))}
	}
	return []*process{p}
}

// finished stands for a command that needed no process.
func finished(status int) *process {
	p := &process{status: unix.WaitStatus(status << 8), done: make(chan struct{})}
	close(p.done)
	return p
}

// launchStmt starts one statement with s.fds in an environment of its own: an
// external command directly, builtins that only print in place (if their
// output may be written meanwhile: async), everything else as a subshell.
func (s *Shell) launchStmt(st *syntax.Stmt, g *group, async bool) *process {
	if async {
		if out, status, ok := s.pureOutput(st); ok {
			return s.printer(out, status)
		}
	}
	c, ok := st.Cmd.(*syntax.CallExpr)
	if ok && !st.Negated && len(c.Args) > 0 && !s.opts.noexec && !s.mayBlock(st.Redirs) {
		if name := s.commandName(c); name != "" && s.funcs[name] == nil && builtin(name) == nil && name != "exec" {
			return s.launchExternal(st, c, g)
		}
	}
	fg := *st
	fg.Background = false
	p, err := s.launch([]*syntax.Stmt{&fg}, s.fds, g)
	if err != nil {
		return finished(s.fail(2, "cannot start a subshell: %v", err))
	}
	return p
}

// mayBlock reports whether opening a redirection's file may have to wait for
// another process, as that of a FIFO does: the shell itself must not. A name
// that has to be expanded first is not looked at, so that what its expansion
// does is done once.
func (s *Shell) mayBlock(redirs []*syntax.Redirect) bool {
	for _, r := range redirs {
		switch r.Op {
		case syntax.RdrOut, syntax.AppOut, syntax.RdrIn, syntax.RdrInOut, syntax.RdrClob, syntax.RdrAll, syntax.AppAll:
		default:
			continue // a copy of a descriptor, or text in the script
		}
		name := r.Word.Lit()
		if name == "" {
			return true
		}
		info, err := os.Stat(name)
		if err == nil && !info.Mode().IsRegular() && name != "/dev/null" {
			return true
		}
	}
	return false
}

// commandName is a command's first word if it is literal, after aliases.
func (s *Shell) commandName(c *syntax.CallExpr) string {
	words := s.expandAliases(c.Args)
	if len(words) == 0 {
		return ""
	}
	return words[0].Lit()
}

// launchExternal starts a program without a shell in between. Expansions are
// undone afterwards: they belong to the child's environment.
func (s *Shell) launchExternal(st *syntax.Stmt, c *syntax.CallExpr, g *group) (p *process) {
	defer s.snapshot()()
	p = finished(1)
	fds := s.procFDs
	s.procFDs = nil
	defer func() { s.procFDs = fds }()
	flow := s.flow
	s.withRedirs(st.Redirs, func() bool {
		defer func() {
			for _, n := range s.procFDs {
				s.fds.set(n, nil)
			}
		}()
		args, err := s.fields(s.expandAliases(c.Args)...)
		if err != nil || len(args) == 0 {
			return false
		}
		if _, err := s.tempAssignments(c.Assigns); err != nil {
			return false
		}
		s.trace(c.Assigns, args)
		path, status := s.findProgram(args[0])
		if status != 0 {
			p = finished(status)
			return false
		}
		q, err := s.start(path, args, s.environment(), s.fds, g)
		if err != nil {
			p = finished(s.startFailed(args[0], err))
			return false
		}
		p = q
		return false
	})
	s.flow = flow // an expansion error ends the child only
	return p
}

// pureOutput computes what a builtin that does nothing but print would print.
func (s *Shell) pureOutput(st *syntax.Stmt) (out string, status int, ok bool) {
	c, isCall := st.Cmd.(*syntax.CallExpr)
	if !isCall || !plain(st) || len(c.Args) == 0 || len(c.Assigns) > 0 || s.opts.xtrace || s.opts.noexec {
		return "", 0, false
	}
	name := s.commandName(c)
	if s.funcs[name] != nil {
		return "", 0, false
	}
	switch name {
	case "echo", "printf", "pwd", "true", "false", ":":
	default:
		return "", 0, false
	}
	defer s.snapshot()()
	flow := s.flow
	args, err := s.fields(s.expandAliases(c.Args)...)
	s.flow = flow
	if err != nil {
		return "", 1, true
	}
	switch args[0] {
	case "echo":
		return Echo(args[1:]), 0, true
	case "printf":
		out, err := Printf(args[1:])
		if err != nil {
			s.errorf("printf: %v", err)
			status = 1
		}
		return out, status, true
	case "pwd":
		if len(args) > 1 {
			return "", 0, false
		}
		return s.vars["PWD"].Str + "\n", 0, true
	case "false":
		return "", 1, true
	}
	return "", 0, true
}

// printer writes text to standard output beside the shell. The result of a
// closed pipe is that of a process that SIGPIPE ended.
func (s *Shell) printer(text string, status int) *process {
	f := s.fds[1]
	if f == nil || text == "" {
		return finished(status)
	}
	fd, err := unix.FcntlInt(uintptr(f.fd), unix.F_DUPFD_CLOEXEC, maxFD)
	if err != nil {
		return finished(1)
	}
	p := &process{status: unix.WaitStatus(status << 8), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer unix.Close(fd)
		switch writeAll(fd, text) {
		case nil:
		case unix.EPIPE:
			p.status = unix.WaitStatus(unix.SIGPIPE)
		default:
			p.status = 1 << 8
		}
	}()
	return p
}

// retryRead is read(2) with EINTR and EAGAIN taken care of.
func retryRead(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		switch err {
		case unix.EINTR:
		case unix.EAGAIN: // someone made the terminal or pipe non-blocking
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		case nil:
			return n, nil
		default:
			return 0, os.NewSyscallError("read", err)
		}
	}
}
