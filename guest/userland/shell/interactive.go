package shell

import (
	"errors"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"mvdan.cc/sh/v3/syntax"
)

// errInterrupted is Ctrl-C at the prompt.
var errInterrupted = errors.New("interrupted")

// runInteractive reads commands from a terminal until its end.
func (s *Shell) runInteractive(login bool) int {
	if !s.vars["PS1"].Set {
		s.setDefault("PS1", `\w \$ `)
	}
	s.setDefault("PS2", "> ")
	for _, name := range []string{"INT", "QUIT", "TERM", "TSTP"} {
		s.applyTrap(name)
	}
	s.takeTerminal()
	if login {
		s.profile()
	}
	if env := s.vars["ENV"].String(); env != "" {
		if text, err := os.ReadFile(env); err == nil {
			s.runText(string(text), env)
		}
	}
	ed := newEditor(s)
	for s.flow != flowExit {
		s.flow = flowNone
		s.notifyJobs()
		if text, ok := s.readCommand(ed); ok {
			s.runLine(text)
		} else {
			break
		}
	}
	for _, j := range s.jobs {
		unix.Kill(-j.pgid, unix.SIGHUP)
		unix.Kill(-j.pgid, unix.SIGCONT)
	}
	return s.exit()
}

// takeTerminal makes the shell leader of its process group and of the
// terminal, if it can.
func (s *Shell) takeTerminal() {
	pgrp, err := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	if err != nil || pgrp != unix.Getpgrp() {
		return
	}
	if unix.Getpgrp() != unix.Getpid() && unix.Setpgid(0, 0) != nil {
		return
	}
	fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, maxFD)
	if err != nil {
		return
	}
	s.tty = fd
	s.foreground(unix.Getpgrp())
	s.jobControl = true
	s.opts.monitor = true
}

// readCommand reads lines until they make a complete command.
func (s *Shell) readCommand(ed *editor) (text string, ok bool) {
	prompt := "PS1"
	for {
		line, err := ed.readLine(s.prompt(prompt))
		switch {
		case errors.Is(err, errInterrupted):
			s.status = 130
			text, prompt = "", "PS1"
			continue
		case err != nil && (line == "" || !errors.Is(err, term.ErrPasteIndicator)):
			if text != "" {
				s.errorf("syntax error: unexpected end of file")
				s.status = 2
				text, prompt = "", "PS1"
				continue
			}
			s.write(2, "\n")
			return "", false
		}
		text += line + "\n"
		stmts, err := parseAll(text)
		if err != nil && syntax.IsIncomplete(err) || err == nil && unfinished(text, stmts) {
			prompt = "PS2"
			continue
		}
		return text, true
	}
}

// runLine runs one command line.
func (s *Shell) runLine(text string) {
	for len(s.sigs) > 0 { // from the time before the command
		<-s.sigs
	}
	s.runText(text, s.name)
	if s.jobControl { // a command may have died with the terminal in raw mode
		s.foreground(unix.Getpgrp())
	}
}

// prompt expands a prompt variable: parameters, and the common Bash escapes.
func (s *Shell) prompt(name string) string {
	text := s.vars[name].String()
	if strings.Contains(text, `\`) {
		text = s.promptEscapes(text)
	}
	if strings.ContainsAny(text, "$`") {
		if w, err := syntax.NewParser().Document(strings.NewReader(text)); err == nil {
			status := s.status
			if v, err := s.literalDoc(w); err == nil {
				text = v
			}
			s.status = status
		}
	}
	return text
}

func (s *Shell) promptEscapes(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			b.WriteByte(text[i])
			continue
		}
		i++
		switch text[i] {
		case 'u':
			if u, err := user.Current(); err == nil {
				b.WriteString(u.Username)
			}
		case 'h', 'H':
			h, _ := os.Hostname()
			if text[i] == 'h' {
				h, _, _ = strings.Cut(h, ".")
			}
			b.WriteString(h)
		case 'w', 'W':
			wd := s.vars["PWD"].String()
			if home := s.vars["HOME"].String(); home != "" && home != "/" && (wd == home || strings.HasPrefix(wd, home+"/")) {
				wd = "~" + wd[len(home):]
			}
			if text[i] == 'W' {
				wd = filepath.Base(wd)
			}
			b.WriteString(wd)
		case '$':
			if os.Geteuid() == 0 {
				b.WriteByte('#')
			} else {
				b.WriteString(`\$`)
			}
		case 'n':
			b.WriteByte('\n')
		case 'e':
			b.WriteByte(0x1b)
		case '[', ']':
		case '\\':
			b.WriteByte('\\')
		default:
			b.WriteString(text[i-1 : i+1])
		}
	}
	return b.String()
}

// editor edits lines on the terminal.
type editor struct {
	s     *Shell
	term  *term.Terminal
	input *keyReader
}

func newEditor(s *Shell) *editor {
	ed := &editor{s: s, input: &keyReader{fd: 0}}
	ed.fresh(nil)
	return ed
}

// fresh replaces the terminal's state; only the history stays.
func (ed *editor) fresh(history term.History) {
	ed.term = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{ed.input, fdWriter(2)}, "")
	if history != nil {
		ed.term.History = history
	}
	ed.term.AutoCompleteCallback = ed.complete
}

// readLine shows the prompt and returns a line.
func (ed *editor) readLine(prompt string) (string, error) {
	state, err := term.MakeRaw(0)
	if err != nil { // not a terminal (sh -i): plain lines
		ed.s.write(2, prompt)
		line, eof := ed.s.scriptLine()
		if eof && line == "" {
			return "", io.EOF
		}
		return strings.TrimSuffix(line, "\n"), nil
	}
	defer term.Restore(0, state)
	if w, h, err := term.GetSize(0); err == nil && w > 0 {
		ed.term.SetSize(w, h)
	}
	// Only the last line of a prompt takes part in editing.
	if i := strings.LastIndexByte(prompt, '\n'); i >= 0 {
		ed.s.write(2, strings.ReplaceAll(prompt[:i+1], "\n", "\r\n"))
		prompt = prompt[i+1:]
	}
	ed.term.SetPrompt(prompt)
	ed.input.interrupted = false
	line, err := ed.term.ReadLine()
	if ed.input.interrupted {
		ed.s.write(2, "^C\r\n")
		ed.fresh(ed.term.History)
		return "", errInterrupted
	}
	return line, err
}

// keyReader hands out one byte at a time: what is typed ahead belongs to the
// command that is about to run.
type keyReader struct {
	fd          int
	interrupted bool
}

func (r *keyReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := retryRead(r.fd, p[:1])
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.EOF
	}
	if p[0] == 3 { // Ctrl-C in raw mode
		r.interrupted = true
		return 0, io.EOF
	}
	return n, nil
}

type fdWriter int

func (w fdWriter) Write(p []byte) (int, error) {
	if err := writeAll(int(w), string(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// complete completes a file or command name on Tab.
func (ed *editor) complete(line string, pos int, key rune) (string, int, bool) {
	if key != '\t' {
		return "", 0, false
	}
	start := strings.LastIndexAny(line[:pos], " \t;|&<>(=") + 1
	word := line[start:pos]
	dir, base := filepath.Split(word)
	var names []string
	add := func(d string, onlyPrograms bool) {
		es, _ := os.ReadDir(d)
		for _, e := range es {
			if !strings.HasPrefix(e.Name(), base) || base == "" && strings.HasPrefix(e.Name(), ".") {
				continue
			}
			suffix := " "
			if fi, err := os.Stat(filepath.Join(d, e.Name())); err == nil && fi.IsDir() {
				if onlyPrograms {
					continue
				}
				suffix = "/"
			}
			names = append(names, e.Name()+suffix)
		}
	}
	if dir == "" && strings.TrimRight(line[:start], " \t") == "" {
		for d := range strings.SplitSeq(ed.s.vars["PATH"].String(), ":") {
			add(d, true)
		}
	} else {
		add(filepath.Join(".", dir)+"/", false)
		if filepath.IsAbs(dir) {
			names = nil
			add(dir, false)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 {
		return line, pos, true
	}
	common := names[0]
	for _, n := range names[1:] {
		for !strings.HasPrefix(n, common) {
			common = common[:len(common)-1]
		}
	}
	text := line[:start] + dir + common
	return text + line[pos:], len(text), true
}
