package userland

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// sedProgram is one run of sed.
type sedProgram struct {
	c        *command
	cmds     []*sedCommand
	quiet    bool
	extended bool

	in       *sedInput
	out      *bufio.Writer
	space    []byte // pattern space
	hold     []byte
	line     int
	appended []string
	replaced bool // since the last line was read, for t
	last     *regexp.Regexp
	files    map[string]*bufio.Writer
	quit     bool
	noPrint  bool
}

func sed(c *command) {
	paths, ok := c.parse("+nEre:f:i::su", "quiet=n silent=n regexp-extended=E expression=e file=f in-place=i separate=s unbuffered=u")
	if !ok {
		return
	}
	var script []string
	script = append(script, c.opts.values['e']...)
	for _, f := range c.opts.values['f'] {
		text, err := os.ReadFile(f)
		if err != nil {
			c.errorf("couldn't open file %s: %v", f, reason(err))
			return
		}
		script = append(script, strings.TrimSuffix(string(text), "\n"))
	}
	if len(script) == 0 {
		if len(paths) == 0 {
			c.usage("[-nEr] [-i[suffix]] [-e script] [-f file] [script] [file …]")
			return
		}
		script, paths = paths[:1], paths[1:]
	}
	s := &sedProgram{c: c, quiet: c.opts.has('n'), extended: c.opts.has('E') || c.opts.has('r'), out: c.out, files: map[string]*bufio.Writer{}}
	text := strings.Join(script, "\n")
	if strings.HasPrefix(text, "#n\n") {
		s.quiet = true
	}
	p := sedParser{text: text, prog: s}
	var err error
	if s.cmds, err = p.parse(); err != nil {
		c.errorf("-e expression #1, char %d: %v", p.at, err)
		return
	}
	if len(paths) == 0 {
		paths = []string{"-"}
	}
	if !c.opts.has('i') && !c.opts.has('s') {
		s.run(paths)
		return
	}
	for _, path := range paths {
		if s.quit {
			break
		}
		s.line = 0
		if !c.opts.has('i') {
			s.run([]string{path})
			continue
		}
		if err := s.inPlace(path, c.opts.get('i', "")); err != nil {
			c.errorf("couldn't edit %s: %v", path, reason(err))
			c.status = 4
		}
	}
}

// inPlace edits a file through a temporary one beside it.
func (s *sedProgram) inPlace(path, suffix string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "sed")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	s.out = bufio.NewWriter(tmp)
	s.run([]string{path})
	err = errors.Join(s.out.Flush(), tmp.Chmod(fi.Mode().Perm()), tmp.Close())
	if err != nil {
		return err
	}
	if suffix != "" {
		if err := os.Rename(path, path+suffix); err != nil {
			return err
		}
	}
	return os.Rename(tmp.Name(), path)
}

// sedInput reads lines of several files as one, one line ahead: $ needs that.
type sedInput struct {
	s     *sedProgram
	paths []string
	file  *os.File
	r     *bufio.Reader
	next  []byte
	more  bool
	ended bool // the line in next ended in a newline
}

func (in *sedInput) advance() {
	for {
		if in.r == nil {
			if len(in.paths) == 0 {
				in.more = false
				return
			}
			p := in.paths[0]
			in.paths = in.paths[1:]
			f, err := in.s.c.open(p)
			if err == nil {
				if fi, serr := f.Stat(); serr == nil && fi.IsDir() {
					//lint:ignore ST1005 as the C library says it, which users compare
					err = errors.New("Is a directory")
				}
			}
			if err != nil {
				in.s.c.errorf("can't read %s: %v", p, reason(err))
				in.s.c.status = 2
				continue
			}
			in.file, in.r = f, bufio.NewReaderSize(f, 64<<10)
		}
		line, err := in.r.ReadBytes('\n')
		if len(line) > 0 {
			in.ended = line[len(line)-1] == '\n'
			in.next = bytes.TrimSuffix(line, []byte("\n"))
			in.more = true
			return
		}
		if err != nil && err != io.EOF {
			in.s.c.errorf("read error: %v", reason(err))
		}
		if in.file != os.Stdin {
			in.file.Close()
		}
		in.r = nil
	}
}

// readLine moves the next line into p and returns it.
func (s *sedProgram) readLine() (line []byte, ended, ok bool) {
	if !s.in.more {
		return nil, false, false
	}
	line, ended = s.in.next, s.in.ended
	s.line++
	s.in.advance()
	return line, ended, true
}

func (s *sedProgram) run(paths []string) {
	s.in = &sedInput{s: s, paths: paths}
	s.in.advance()
	for !s.quit {
		line, ended, ok := s.readLine()
		if !ok {
			break
		}
		s.space, s.replaced = line, false
		for again := true; again; {
			again = s.cycle(&ended)
		}
	}
	for _, w := range s.files {
		w.Flush()
	}
	if s.out != s.c.out {
		return
	}
	s.c.flush()
}

func (s *sedProgram) emit(ended bool) {
	s.out.Write(s.space)
	if ended {
		s.out.WriteByte('\n')
	}
}

func (s *sedProgram) flushAppended() {
	for _, a := range s.appended {
		s.out.WriteString(a)
	}
	s.appended = s.appended[:0]
	if s.c.opts.has('u') {
		s.out.Flush()
	}
}

// cycle runs the script once over the pattern space; again asks for another
// cycle without reading a line (D).
func (s *sedProgram) cycle(ended *bool) (again bool) {
	pc := 0
	end := func(print bool) {
		if print && !s.quiet && !s.noPrint {
			s.emit(*ended)
		}
		s.flushAppended()
	}
	for pc < len(s.cmds) {
		cmd := s.cmds[pc]
		pc++
		if !s.selects(cmd) {
			if cmd.name == '{' {
				pc = cmd.jump
			}
			continue
		}
		switch cmd.name {
		case '{', '}', ':', '#':
		case '=':
			fmt.Fprintf(s.out, "%d\n", s.line)
		case 'a':
			s.appended = append(s.appended, cmd.text)
		case 'i':
			s.out.WriteString(cmd.text)
		case 'c':
			if cmd.to == nil || !cmd.active || cmd.negate {
				s.out.WriteString(cmd.text)
			}
			end(false)
			return false
		case 'b':
			pc = cmd.jump
		case 't':
			if s.replaced {
				s.replaced = false
				pc = cmd.jump
			}
		case 'T':
			if !s.replaced {
				pc = cmd.jump
			}
			s.replaced = false
		case 'd':
			end(false)
			return false
		case 'D':
			i := bytes.IndexByte(s.space, '\n')
			end(false)
			if i < 0 {
				return false
			}
			s.space = s.space[i+1:]
			return true
		case 'g':
			s.space = bytes.Clone(s.hold)
		case 'G':
			s.space = append(append(s.space, '\n'), s.hold...)
		case 'h':
			s.hold = bytes.Clone(s.space)
		case 'H':
			s.hold = append(append(s.hold, '\n'), s.space...)
		case 'x':
			s.space, s.hold = s.hold, s.space
		case 'l':
			s.list()
		case 'n':
			if !s.quiet {
				s.emit(true)
			}
			s.flushAppended()
			line, e, ok := s.readLine()
			if !ok {
				s.quit = true
				return false
			}
			s.space, *ended = line, e
		case 'N':
			line, e, ok := s.readLine()
			if !ok {
				end(true)
				s.quit = true
				return false
			}
			s.flushAppended()
			s.space = append(append(s.space, '\n'), line...)
			*ended = e
		case 'p':
			s.emit(true)
		case 'P':
			i := bytes.IndexByte(s.space, '\n')
			if i < 0 {
				i = len(s.space)
			}
			s.out.Write(s.space[:i])
			s.out.WriteByte('\n')
		case 'q', 'Q':
			end(cmd.name == 'q')
			s.c.status = cmd.number
			s.quit = true
			return false
		case 'r':
			if text, err := os.ReadFile(cmd.text); err == nil {
				s.appended = append(s.appended, string(text))
			}
		case 'w':
			s.writeFile(cmd.text)
		case 's':
			s.substitute(cmd)
		case 'y':
			s.space = []byte(strings.Map(func(r rune) rune {
				if t, ok := cmd.translate[r]; ok {
					return t
				}
				return r
			}, string(s.space)))
		}
	}
	end(true)
	return false
}

func (s *sedProgram) list() {
	for _, b := range s.space {
		switch {
		case b == '\\':
			s.out.WriteString(`\\`)
		case b >= '\a' && b <= '\r':
			s.out.WriteString(`\` + string("abtnvfr"[b-'\a']))
		case b < ' ' || b >= 127:
			fmt.Fprintf(s.out, "\\%03o", b)
		default:
			s.out.WriteByte(b)
		}
	}
	s.out.WriteString("$\n")
}

func (s *sedProgram) writeFile(path string) {
	switch path {
	case "/dev/stdout":
		s.emit(true)
		return
	case "/dev/stderr":
		s.out.Flush()
		fmt.Fprintf(os.Stderr, "%s\n", s.space)
		return
	}
	w := s.files[path]
	if w != nil {
		w.Write(s.space)
		w.WriteByte('\n')
		w.Flush()
	}
}

// selects reports whether a command's addresses select the current line.
func (s *sedProgram) selects(cmd *sedCommand) bool {
	hit := true
	switch {
	case cmd.from == nil:
	case cmd.to == nil:
		hit = s.matches(cmd.from)
	case cmd.active:
		hit = true
		cmd.active = !s.rangeEnds(cmd)
	default:
		if hit = s.matches(cmd.from); hit {
			cmd.started = s.line
			to := cmd.to
			cmd.active = !(to.line > 0 && !to.relative && to.line <= s.line || to.last && !s.in.more || to.relative && to.line == 0)
			if cmd.from.zero && to.rx != nil {
				cmd.active = !s.matches(to)
			}
		}
	}
	return hit != cmd.negate
}

func (s *sedProgram) rangeEnds(cmd *sedCommand) bool {
	to := cmd.to
	switch {
	case to.relative:
		return s.line >= cmd.started+to.line
	case to.step > 0:
		return s.line%to.step == 0
	case to.line > 0:
		return s.line >= to.line
	}
	return s.matches(to)
}

func (s *sedProgram) matches(a *sedAddress) bool {
	switch {
	case a.zero:
		return s.line == 1
	case a.last:
		return !s.in.more
	case a.step > 0:
		return s.line >= a.line && (s.line-a.line)%a.step == 0
	case a.rx != nil || a.reuse:
		rx := a.rx
		if a.reuse {
			rx = s.last
		}
		s.last = rx
		return rx != nil && rx.Match(s.space)
	}
	return s.line == a.line
}

func (s *sedProgram) substitute(cmd *sedCommand) {
	rx := cmd.rx
	if rx == nil {
		rx = s.last
	}
	s.last = rx
	if rx == nil {
		return
	}
	var out []byte
	at, n := 0, 0
	for _, m := range rx.FindAllSubmatchIndex(s.space, -1) {
		n++
		if n < cmd.number {
			continue
		}
		out = append(out, s.space[at:m[0]]...)
		out = cmd.replacement.expand(out, s.space, m)
		at = m[1]
		if !cmd.global {
			break
		}
	}
	if n < cmd.number || n == 0 {
		return
	}
	s.space = append(out, s.space[at:]...)
	s.replaced = true
	if cmd.print {
		s.emit(true)
	}
	if cmd.text != "" {
		s.writeFile(cmd.text)
	}
}
