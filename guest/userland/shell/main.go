package shell

import (
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/syntax"
)

// Main runs sh with the given arguments (args[0] is the program's name) and
// returns the exit status:
//
//	sh [-eufxamnCvi] [-o option] [-c command [name [arg …]] | file [arg …] | -s [arg …]]
func Main(args []string) int {
	if len(args) == 2 && strings.HasPrefix(args[1], subshellFlag) {
		return subshellMain(args[1])
	}
	s := newShell(args[0])
	login := strings.HasPrefix(args[0], "-")
	var command, stdin, interactive bool
	rest := args[1:]
	for len(rest) > 0 && len(rest[0]) > 1 && (rest[0][0] == '-' || rest[0][0] == '+') {
		opt := rest[0]
		rest = rest[1:]
		if opt == "--" {
			break
		}
		if opt == "--login" {
			login = true
			continue
		}
		for _, c := range []byte(opt[1:]) {
			on := opt[0] == '-'
			switch c {
			case 'c':
				command = true
			case 's':
				stdin = true
			case 'i':
				interactive = on
			case 'l':
				login = true
			case 'o':
				if len(rest) == 0 {
					s.printOptions(!on)
					return 0
				}
				o := s.opts.byName(rest[0])
				if o == nil {
					return s.fail(2, "%s: invalid option name", rest[0])
				}
				*o = on
				rest = rest[1:]
			default:
				o := s.opts.byLetter(c)
				if o == nil {
					return s.fail(2, "%s: invalid option", opt)
				}
				*o = on
			}
		}
	}
	s.updateExpand()
	switch {
	case command:
		if len(rest) == 0 {
			return s.fail(2, "-c requires an argument")
		}
		text := rest[0]
		if len(rest) > 1 {
			s.name, s.params = rest[1], rest[2:]
		}
		if login {
			s.profile()
		}
		s.runCommandString(text)
		return s.exit()
	case len(rest) > 0 && !stdin:
		s.name, s.params = rest[0], rest[1:]
		return s.runScript(rest[0])
	}
	s.params = rest
	if interactive || !command && isTerminal(0) && isTerminal(2) {
		s.interactive = true
		return s.runInteractive(login)
	}
	if login {
		s.profile()
	}
	s.runStdin()
	return s.exit()
}

// profile runs what a login shell reads first.
func (s *Shell) profile() {
	files := []string{"/etc/profile"}
	if home := s.vars["HOME"].String(); home != "" {
		files = append(files, home+"/.profile")
	}
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && s.flow == flowNone {
			s.runText(string(text), f)
		}
	}
}

func (s *Shell) runScript(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return s.fail(127, "%s: %s", path, message(unwrap(err)))
		}
		return s.fail(126, "%s: %s", path, message(unwrap(err)))
	}
	s.runText(string(text), path)
	return s.exit()
}

// runCommandString runs the text of -c. If all of it parses, the last command
// can take over this process, as in other shells: a signal to the shell then
// reaches the command.
func (s *Shell) runCommandString(text string) {
	f, err := syntax.NewParser().Parse(strings.NewReader(text), s.name)
	if err != nil {
		s.runText(text, s.name)
		return
	}
	s.stmts(f.Stmts, true)
}

// runText runs statements as they are parsed, so that a syntax error further
// down does not stop what comes before it.
func (s *Shell) runText(text, name string) {
	for st, err := range syntax.NewParser().StmtsSeq(strings.NewReader(text)) {
		if err != nil {
			s.syntaxError(name, err)
			return
		}
		if s.opts.verbose {
			if line, err := source([]*syntax.Stmt{st}); err == nil {
				s.write(2, line)
			}
		}
		if s.stmt(st); s.flow != flowNone {
			return
		}
	}
}

func (s *Shell) syntaxError(name string, err error) {
	var pe syntax.ParseError
	if errors.As(err, &pe) {
		s.errorf("%s: line %d: syntax error: %s", name, pe.Pos.Line(), pe.Text)
	} else {
		s.errorf("%s: %v", name, err)
	}
	s.status = 2
	if !s.interactive {
		s.flow = flowExit
	}
}

// runStdin runs a script from standard input, and reads no further than the
// line that it runs: the rest may be meant for its commands.
func (s *Shell) runStdin() {
	p := syntax.NewParser()
	for stmts, err := range p.InteractiveSeq(&lineReader{s: s}) {
		if err == nil && p.Incomplete() {
			continue
		}
		if s.stmts(stmts, false); s.flow != flowNone {
			return
		}
		if err != nil {
			s.syntaxError(s.name, err)
			return
		}
	}
}

// lineReader gives the parser one line of standard input at a time; the last
// one ends in a newline even if the input does not.
type lineReader struct {
	s    *Shell
	rest string
	eof  bool
}

func (r *lineReader) Read(p []byte) (int, error) {
	if r.rest == "" {
		if r.eof {
			return 0, io.EOF
		}
		if r.rest, r.eof = r.s.scriptLine(); r.eof {
			if r.rest == "" {
				return 0, io.EOF
			}
			r.rest += "\n"
		}
		if r.s.opts.verbose {
			r.s.write(2, r.rest)
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func parseAll(text string) ([]*syntax.Stmt, error) {
	f, err := syntax.NewParser().Parse(strings.NewReader(text), "")
	if err != nil {
		return nil, err
	}
	return f.Stmts, nil
}

// unfinished reports whether more lines belong to a text that parses: it ends
// in a backslash-newline.
func unfinished(text string, _ []*syntax.Stmt) bool {
	t, ok := strings.CutSuffix(text, "\\\n")
	return ok && (len(t)-len(strings.TrimRight(t, `\`)))%2 == 0
}

// scriptLine reads a line byte by byte, or from a file in blocks by seeking
// back.
func (s *Shell) scriptLine() (line string, eof bool) {
	f := s.fds[0]
	if f == nil {
		return "", true
	}
	if pos, err := unix.Seek(f.fd, 0, io.SeekCurrent); err == nil {
		return seekLine(f.fd, pos)
	}
	var b []byte
	for {
		var c [1]byte
		n, err := retryRead(f.fd, c[:])
		if err != nil || n == 0 {
			return string(b), true
		}
		if b = append(b, c[0]); c[0] == '\n' {
			return string(b), false
		}
	}
}

func seekLine(fd int, pos int64) (string, bool) {
	var b []byte
	buf := make([]byte, 1024)
	for {
		n, err := retryRead(fd, buf)
		if err != nil || n == 0 {
			return string(b), true
		}
		if i := strings.IndexByte(string(buf[:n]), '\n'); i >= 0 {
			b = append(b, buf[:i+1]...)
			unix.Seek(fd, pos+int64(len(b)), io.SeekStart)
			return string(b), false
		}
		b = append(b, buf[:n]...)
	}
}
