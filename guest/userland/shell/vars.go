package shell

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

// errReported marks an error whose message is already on standard error.
var errReported = errors.New("already reported")

// function is a shell function; text is its source, made when first needed.
type function struct {
	body *syntax.Stmt
	text string
}

// frame is a function call: what its local variables hid.
type frame struct {
	saved map[string]expand.Variable
}

// environ shows the shell's variables and special parameters to expansions.
type environ struct{ *Shell }

func (e environ) Get(name string) expand.Variable { return e.lookup(name) }

func (e environ) Set(name string, v expand.Variable) error { return e.assign(name, v) }

func (e environ) Each(fn func(string, expand.Variable) bool) {
	for name, v := range e.vars {
		if !fn(name, v) {
			return
		}
	}
}

func str(v string) expand.Variable {
	return expand.Variable{Set: true, Kind: expand.String, Str: v}
}

// lookup returns a variable or special parameter.
func (s *Shell) lookup(name string) expand.Variable {
	switch name {
	case "?":
		return str(strconv.Itoa(s.status))
	case "#":
		return str(strconv.Itoa(len(s.params)))
	case "$":
		return str(strconv.Itoa(s.pid))
	case "-":
		flags := s.opts.letters()
		if s.interactive {
			flags += "i"
		}
		return str(flags)
	case "0":
		return str(s.name)
	case "!":
		if s.lastBG != 0 {
			return str(strconv.Itoa(s.lastBG))
		}
		return expand.Variable{}
	case "@", "*":
		list := s.params
		if list == nil {
			list = []string{}
		}
		return expand.Variable{Set: true, Kind: expand.Indexed, List: list}
	case "RANDOM":
		if s.seed == 0 {
			s.seed = uint32(time.Now().UnixNano()) ^ uint32(os.Getpid())<<16 | 1
		}
		s.seed = s.seed*1103515245 + 12345
		return str(strconv.Itoa(int(s.seed >> 16 & 0x7fff)))
	}
	if name != "" && name[0] >= '1' && name[0] <= '9' {
		if n, err := strconv.Atoi(name); err == nil {
			if n <= len(s.params) {
				return str(s.params[n-1])
			}
			return expand.Variable{}
		}
	}
	return s.vars[name]
}

// assign stores a variable; an unset v removes it.
func (s *Shell) assign(name string, v expand.Variable) error {
	prev := s.vars[name]
	if v.Kind == expand.KeepValue {
		v.Set, v.Kind, v.Str, v.List, v.Indexes, v.Map = prev.Set, prev.Kind, prev.Str, prev.List, prev.Indexes, prev.Map
	} else if prev.ReadOnly {
		return fmt.Errorf("%s: readonly variable", name)
	}
	if !v.Set && !v.Exported && !v.ReadOnly && v.Kind == expand.Unknown {
		delete(s.vars, name)
		return nil
	}
	v.Local = v.Local || prev.Local
	if s.opts.allexport {
		v.Exported = true
	}
	s.vars[name] = v
	if name == "OPTIND" {
		s.getopts = 0
	}
	return nil
}

// setVar assigns a string and keeps the variable's attributes.
func (s *Shell) setVar(name, value string) error {
	v := s.vars[name]
	v.Set, v.Kind, v.Str = true, expand.String, value
	return s.assign(name, v)
}

// makeLocal hides name until the function returns.
func (s *Shell) makeLocal(name string) {
	f := &s.frames[len(s.frames)-1]
	if _, ok := f.saved[name]; ok {
		return
	}
	if f.saved == nil {
		f.saved = make(map[string]expand.Variable)
	}
	f.saved[name] = s.vars[name]
}

// restore puts back what makeLocal or a command's own assignments hid.
func (s *Shell) restore(saved map[string]expand.Variable) {
	for name, v := range saved {
		if v.Declared() {
			s.vars[name] = v
		} else {
			delete(s.vars, name)
		}
	}
}

// snapshot returns a function that undoes all assignments since: for words
// that POSIX expands in a subshell environment.
func (s *Shell) snapshot() (undo func()) {
	vars, status, seed := maps.Clone(s.vars), s.status, s.seed
	return func() { s.vars, s.status, s.seed = vars, status, seed }
}

// environment is what a child gets.
func (s *Shell) environment() []string {
	env := make([]string, 0, len(s.vars))
	for name, v := range s.vars {
		if v.Exported && v.Set && v.Kind == expand.String {
			env = append(env, name+"="+v.Str)
		}
	}
	slices.Sort(env)
	return env
}

// initExpand makes a fresh expansion state. An expansion that runs inside
// another, in a command substitution, needs its own: see nested.
func (s *Shell) initExpand() {
	s.cfg = &expand.Config{
		Env:       environ{s},
		CmdSubst:  s.commandSubst,
		ProcSubst: s.processSubst,
	}
	s.updateExpand()
}

// nested switches to a fresh expansion state and returns how to switch back.
func (s *Shell) nested() (back func()) {
	cfg := s.cfg
	s.initExpand()
	return func() { s.cfg = cfg }
}

// updateExpand makes the options that concern expansion take effect.
func (s *Shell) updateExpand() {
	s.cfg.NoUnset = s.opts.nounset
	s.cfg.ReadDir2 = nil
	if !s.opts.noglob {
		s.cfg.ReadDir2 = func(dir string) ([]fs.DirEntry, error) { return os.ReadDir(dir) }
	}
}

// fields expands words as arguments.
func (s *Shell) fields(words ...*syntax.Word) ([]string, error) {
	words, err := s.splitWords(words)
	if err != nil {
		return nil, err
	}
	f, err := expand.Fields(s.cfg, words...)
	if err != nil {
		return nil, s.expandFailed(err)
	}
	return f, nil
}

func (s *Shell) literal(w *syntax.Word) (string, error) {
	if w == nil {
		return "", nil
	}
	v, err := expand.Literal(s.cfg, w)
	if err != nil {
		return "", s.expandFailed(err)
	}
	return v, nil
}

func (s *Shell) pattern(w *syntax.Word) (string, error) {
	v, err := expand.Pattern(s.cfg, w)
	if err != nil {
		return "", s.expandFailed(err)
	}
	return v, nil
}

// arith evaluates an arithmetic expression.
func (s *Shell) arith(x syntax.ArithmExpr) (int, error) {
	n, err := expand.Arithm(s.cfg, x)
	if err != nil {
		return 0, s.expandFailed(err)
	}
	return n, nil
}

// expandFailed reports an expansion error, which ends a shell that is not
// interactive (POSIX 2.8.1).
func (s *Shell) expandFailed(err error) error {
	if errors.Is(err, errReported) {
		return err
	}
	s.errorf("%v", err)
	s.status = 1
	var unset expand.UnsetParameterError
	if s.interactive {
		s.flow = flowAbort
	} else if errors.As(err, &unset) || strings.Contains(err.Error(), "division by zero") || strings.Contains(err.Error(), "readonly") {
		s.flow = flowExit
		s.status = 2
	}
	return errReported
}

// hereDoc returns the body of a here-document.
func (s *Shell) hereDoc(rd *syntax.Redirect) (string, error) {
	if rd.Hdoc == nil {
		return "", nil
	}
	quoted := false
	for _, p := range rd.Word.Parts {
		switch p := p.(type) {
		case *syntax.SglQuoted, *syntax.DblQuoted:
			quoted = true
		case *syntax.Lit:
			quoted = quoted || strings.Contains(p.Value, `\`)
		}
	}
	word := rd.Hdoc
	if rd.Op == syntax.DashHdoc {
		word = stripTabs(word)
	}
	if quoted {
		var b strings.Builder
		for _, p := range word.Parts {
			if l, ok := p.(*syntax.Lit); ok {
				b.WriteString(l.Value)
			}
		}
		return b.String(), nil
	}
	text, err := expand.Document(s.cfg, word)
	if err != nil {
		return "", s.expandFailed(err)
	}
	return text, nil
}

// stripTabs removes the leading tabs of each line of a <<- body.
func stripTabs(w *syntax.Word) *syntax.Word {
	out := &syntax.Word{}
	atStart := true
	for _, p := range w.Parts {
		l, ok := p.(*syntax.Lit)
		if !ok {
			out.Parts = append(out.Parts, p)
			atStart = false
			continue
		}
		var b strings.Builder
		for line := range strings.SplitAfterSeq(l.Value, "\n") {
			if atStart {
				line = strings.TrimLeft(line, "\t")
			}
			b.WriteString(line)
			if line != "" {
				atStart = strings.HasSuffix(line, "\n")
			}
		}
		out.Parts = append(out.Parts, &syntax.Lit{Value: b.String()})
	}
	return out
}

// source returns statements as text that parses to the same statements.
func source(stmts []*syntax.Stmt) (string, error) {
	var b strings.Builder
	err := syntax.NewPrinter().Print(&b, &syntax.File{Stmts: stmts})
	return b.String(), err
}

// readAll reads a descriptor to its end.
func readAll(fd int, w io.Writer) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := retryRead(fd, buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err != nil || n <= 0 {
			return err
		}
	}
}

// literalDoc expands a word as the body of a here-document.
func (s *Shell) literalDoc(w *syntax.Word) (string, error) { return expand.Document(s.cfg, w) }
