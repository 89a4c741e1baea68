package shell

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/pattern"
	"mvdan.cc/sh/v3/syntax"
)

// stmts runs a list. last says that nothing follows it in this process.
func (s *Shell) stmts(list []*syntax.Stmt, last bool) {
	for i, st := range list {
		if s.flow != flowNone {
			return
		}
		s.lastOnly = last && i == len(list)-1
		s.stmt(st)
	}
	s.lastOnly = false
}

// stmt runs one statement.
func (s *Shell) stmt(st *syntax.Stmt) {
	last := s.lastOnly
	s.lastOnly = false
	s.runTraps()
	if s.flow != flowNone || s.opts.noexec {
		return
	}
	if st.Background {
		s.background(st)
		return
	}
	if st.Coprocess || st.Disown {
		s.status = s.fail(2, "coprocesses are not supported")
		return
	}
	if st.Negated {
		s.noErrExit++
		s.command(st, false)
		s.noErrExit--
		if s.status == 0 {
			s.status = 1
		} else {
			s.status = 0
		}
		return
	}
	s.command(st, last)
	s.runTraps()
	if s.status != 0 && s.opts.errexit && s.noErrExit == 0 && s.flow == flowNone && failureCounts(st.Cmd) {
		s.flow = flowExit
	}
}

// failureCounts reports whether errexit looks at this command's own status:
// lists and compound commands have been judged inside already.
func failureCounts(c syntax.Command) bool {
	b, ok := c.(*syntax.BinaryCmd)
	return !ok || b.Op != syntax.AndStmt && b.Op != syntax.OrStmt
}

func (s *Shell) command(st *syntax.Stmt, last bool) {
	fds := s.procFDs
	s.procFDs = nil
	s.withRedirs(st.Redirs, func() (keep bool) {
		switch c := st.Cmd.(type) {
		case nil:
			s.status = 0
		case *syntax.CallExpr:
			keep = s.simple(c, last && len(s.traps) == 0)
		default:
			s.compound(c, last && len(st.Redirs) == 0)
		}
		return keep
	})
	for _, n := range s.procFDs {
		s.fds.set(n, nil)
	}
	s.procFDs = fds
}

func (s *Shell) compound(c syntax.Command, last bool) {
	switch c := c.(type) {
	case *syntax.Block:
		s.stmts(c.Stmts, last)
	case *syntax.Subshell:
		s.subshellFG(c.Stmts)
	case *syntax.BinaryCmd:
		switch c.Op {
		case syntax.AndStmt, syntax.OrStmt:
			s.noErrExit++
			s.stmt(c.X)
			s.noErrExit--
			if s.flow == flowNone && (s.status == 0) == (c.Op == syntax.AndStmt) {
				s.lastOnly = last
				s.stmt(c.Y)
			}
		default:
			s.pipeline(c)
		}
	case *syntax.IfClause:
		s.ifClause(c, last)
	case *syntax.WhileClause:
		s.whileClause(c)
	case *syntax.ForClause:
		s.forClause(c)
	case *syntax.CaseClause:
		s.caseClause(c, last)
	case *syntax.FuncDecl:
		s.funcs[c.Name.Value] = &function{body: c.Body}
		s.status = 0
	case *syntax.DeclClause:
		s.declare(c)
	case *syntax.ArithmCmd:
		s.arithStatus(c.X)
	case *syntax.LetClause:
		for _, x := range c.Exprs {
			s.arithStatus(x)
		}
	case *syntax.TestClause:
		s.testClause(c.X)
	case *syntax.TimeClause:
		s.timeClause(c)
	default:
		s.status = s.fail(2, "unsupported command")
	}
}

// condition runs a list whose failure is an answer, not an error.
func (s *Shell) condition(list []*syntax.Stmt) bool {
	s.noErrExit++
	s.stmts(list, false)
	s.noErrExit--
	return s.status == 0
}

func (s *Shell) ifClause(c *syntax.IfClause, last bool) {
	for ; c != nil; c = c.Else {
		if len(c.Cond) == 0 || s.condition(c.Cond) { // no condition: else
			if s.flow == flowNone {
				s.stmts(c.Then, last)
			}
			return
		}
		if s.flow != flowNone {
			return
		}
	}
	s.status = 0
}

// leaveLoop consumes a break or continue and reports whether to stop looping.
func (s *Shell) leaveLoop() bool {
	switch s.flow {
	case flowNone:
		return false
	case flowBreak, flowContinue:
		if s.flowN--; s.flowN > 0 {
			return true // for an outer loop
		}
		stop := s.flow == flowBreak
		s.flow = flowNone
		return stop
	}
	return true
}

func (s *Shell) whileClause(c *syntax.WhileClause) {
	s.loops++
	defer func() { s.loops-- }()
	status := 0
	for {
		ok := s.condition(c.Cond)
		if s.flow != flowNone {
			if s.leaveLoop() {
				return
			}
			continue
		}
		if ok == c.Until {
			break
		}
		s.stmts(c.Do, false)
		if status = s.status; s.leaveLoop() {
			return
		}
	}
	s.status = status
}

func (s *Shell) forClause(c *syntax.ForClause) {
	s.loops++
	defer func() { s.loops-- }()
	switch l := c.Loop.(type) {
	case *syntax.WordIter:
		items := s.params
		if l.InPos.IsValid() {
			var err error
			if items, err = s.fields(l.Items...); err != nil {
				return
			}
		}
		if c.Select {
			s.status = s.fail(2, "select is not supported")
			return
		}
		s.status = 0
		for _, it := range items {
			if err := s.setVar(l.Name.Value, it); err != nil {
				s.status = s.fail(1, "%v", err)
				return
			}
			s.stmts(c.Do, false)
			if s.leaveLoop() {
				return
			}
		}
	case *syntax.CStyleLoop:
		s.status = 0
		step := func(x syntax.ArithmExpr, none int) (n int, ok bool) {
			if x == nil {
				return none, true
			}
			n, err := s.arith(x)
			return n, err == nil
		}
		if _, ok := step(l.Init, 0); !ok {
			return
		}
		for {
			if n, ok := step(l.Cond, 1); !ok || n == 0 {
				return
			}
			s.stmts(c.Do, false)
			if s.leaveLoop() {
				return
			}
			if _, ok := step(l.Post, 0); !ok {
				return
			}
		}
	}
}

func (s *Shell) caseClause(c *syntax.CaseClause, last bool) {
	word, err := s.literal(c.Word)
	if err != nil {
		return
	}
	s.status = 0
	through := false
	for _, it := range c.Items {
		if !through {
			hit := false
			for _, p := range it.Patterns {
				pat, err := s.pattern(p)
				if err != nil {
					return
				}
				if hit = matchPattern(pat, word); hit {
					break
				}
			}
			if !hit {
				continue
			}
		}
		s.stmts(it.Stmts, last && it.Op == syntax.Break)
		switch it.Op {
		case syntax.Fallthrough:
			through = true
		case syntax.Resume:
			through = false
		default:
			return
		}
		if s.flow != flowNone {
			return
		}
	}
}

// matchPattern matches a whole string against a shell pattern.
func matchPattern(pat, str string) bool {
	if !pattern.HasMeta(pat, 0) && !strings.Contains(pat, `\`) {
		return pat == str
	}
	expr, err := pattern.Regexp(pat, pattern.EntireString|pattern.ExtendedOperators)
	if err != nil {
		return pat == str
	}
	rx, err := regexp.Compile(expr)
	return err == nil && rx.MatchString(str)
}

func (s *Shell) arithStatus(x syntax.ArithmExpr) {
	n, err := s.arith(x)
	switch {
	case err != nil:
		s.status = 1
	case n == 0:
		s.status = 1
	default:
		s.status = 0
	}
}

// timeClause prints the times that a statement took, children included.
func (s *Shell) timeClause(c *syntax.TimeClause) {
	cpu := func() (user, sys time.Duration) {
		for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
			var ru unix.Rusage
			if unix.Getrusage(who, &ru) == nil {
				user += time.Duration(ru.Utime.Nano())
				sys += time.Duration(ru.Stime.Nano())
			}
		}
		return user, sys
	}
	start := time.Now()
	user, sys := cpu()
	s.status = 0
	if c.Stmt != nil {
		s.stmt(c.Stmt)
	}
	wall := time.Since(start)
	user2, sys2 := cpu()
	var b strings.Builder
	if !c.PosixFormat {
		b.WriteByte('\n')
	}
	for _, t := range []struct {
		name string
		d    time.Duration
	}{{"real", wall}, {"user", user2 - user}, {"sys", sys2 - sys}} {
		if c.PosixFormat {
			fmt.Fprintf(&b, "%s %.2f\n", t.name, t.d.Seconds())
		} else {
			fmt.Fprintf(&b, "%s\t%dm%.3fs\n", t.name, int(t.d.Minutes()), (t.d % time.Minute).Seconds())
		}
	}
	s.write(2, b.String())
}
