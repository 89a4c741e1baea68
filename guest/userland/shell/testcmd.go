package shell

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

func testBuiltin(s *Shell, args []string) int {
	ok, err := Test(args, func(fd int) bool { f := s.fds[fd]; return f != nil && isTerminal(f.fd) })
	switch {
	case err != nil:
		return s.fail(2, "%s: %v", args[0], err)
	case ok:
		return 0
	}
	return 1
}

// Test evaluates test(1): args[0] is "test" or "[". The terminal function
// answers -t.
func Test(args []string, terminal func(fd int) bool) (bool, error) {
	words := args[1:]
	if args[0] == "[" {
		if len(words) == 0 || words[len(words)-1] != "]" {
			return false, errors.New("missing ]")
		}
		words = words[:len(words)-1]
	}
	t := tester{terminal: terminal}
	return t.eval(words)
}

type tester struct{ terminal func(int) bool }

// eval follows POSIX's table by the number of arguments; what has more than
// four goes to the grammar with -a, -o and parentheses.
func (t *tester) eval(a []string) (bool, error) {
	switch len(a) {
	case 0:
		return false, nil
	case 1:
		return a[0] != "", nil
	case 2:
		if a[0] == "!" {
			return a[1] == "", nil
		}
		return t.unary(a[0], a[1])
	case 3:
		if isBinary(a[1]) {
			return t.binary(a[0], a[1], a[2])
		}
		switch {
		case a[1] == "-a":
			return a[0] != "" && a[2] != "", nil
		case a[1] == "-o":
			return a[0] != "" || a[2] != "", nil
		case a[0] == "!":
			ok, err := t.eval(a[1:])
			return !ok, err
		case a[0] == "(" && a[2] == ")":
			return a[1] != "", nil
		}
		return false, fmt.Errorf("%s: unknown operator", a[1])
	case 4:
		if a[0] == "!" {
			ok, err := t.eval(a[1:])
			return !ok, err
		}
		if a[0] == "(" && a[3] == ")" {
			return t.eval(a[1:3])
		}
	}
	rest := a
	ok, err := t.or(&rest)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%s: unexpected operator", rest[0])
	}
	return ok, err
}

func (t *tester) or(a *[]string) (bool, error) {
	ok, err := t.and(a)
	for err == nil && len(*a) > 0 && (*a)[0] == "-o" {
		*a = (*a)[1:]
		var r bool
		r, err = t.and(a)
		ok = ok || r
	}
	return ok, err
}

func (t *tester) and(a *[]string) (bool, error) {
	ok, err := t.term(a)
	for err == nil && len(*a) > 0 && (*a)[0] == "-a" {
		*a = (*a)[1:]
		var r bool
		r, err = t.term(a)
		ok = ok && r
	}
	return ok, err
}

func (t *tester) term(a *[]string) (bool, error) {
	w := *a
	switch {
	case len(w) == 0:
		return false, errors.New("argument expected")
	case len(w) >= 3 && isBinary(w[1]):
		*a = w[3:]
		return t.binary(w[0], w[1], w[2])
	case w[0] == "!":
		*a = w[1:]
		ok, err := t.term(a)
		return !ok, err
	case w[0] == "(":
		*a = w[1:]
		ok, err := t.or(a)
		if err != nil {
			return false, err
		}
		if len(*a) == 0 || (*a)[0] != ")" {
			return false, errors.New("missing )")
		}
		*a = (*a)[1:]
		return ok, nil
	case len(w) >= 2 && len(w[0]) == 2 && w[0][0] == '-' && w[0] != "-a" && w[0] != "-o":
		*a = w[2:]
		return t.unary(w[0], w[1])
	}
	*a = w[1:]
	return w[0] != "", nil
}

func isBinary(op string) bool {
	switch op {
	case "=", "==", "!=", "<", ">", "-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-nt", "-ot", "-ef":
		return true
	}
	return false
}

func (t *tester) binary(x, op, y string) (bool, error) {
	switch op {
	case "=", "==":
		return x == y, nil
	case "!=":
		return x != y, nil
	case "<":
		return x < y, nil
	case ">":
		return x > y, nil
	case "-nt", "-ot", "-ef":
		return compareFiles(x, op, y), nil
	}
	m, err := strconv.ParseInt(strings.TrimSpace(x), 10, 64)
	if err != nil {
		return false, fmt.Errorf("%s: integer expected", x)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(y), 10, 64)
	if err != nil {
		return false, fmt.Errorf("%s: integer expected", y)
	}
	switch op {
	case "-eq":
		return m == n, nil
	case "-ne":
		return m != n, nil
	case "-lt":
		return m < n, nil
	case "-le":
		return m <= n, nil
	case "-gt":
		return m > n, nil
	}
	return m >= n, nil
}

func compareFiles(x, op, y string) bool {
	a, okA := fileInfo(x, true)
	b, okB := fileInfo(y, true)
	switch op {
	case "-nt":
		return okA && (!okB || a.ModTime().After(b.ModTime()))
	case "-ot":
		return okB && (!okA || a.ModTime().Before(b.ModTime()))
	}
	return okA && okB && os.SameFile(a, b)
}

func (t *tester) unary(op, v string) (bool, error) {
	switch op {
	case "-n":
		return v != "", nil
	case "-z":
		return v == "", nil
	case "-t":
		fd, err := strconv.Atoi(v)
		if err != nil {
			return false, fmt.Errorf("%s: integer expected", v)
		}
		return t.terminal(fd), nil
	case "-r":
		return unix.Faccessat(unix.AT_FDCWD, v, unix.R_OK, unix.AT_EACCESS) == nil, nil
	case "-w":
		return unix.Faccessat(unix.AT_FDCWD, v, unix.W_OK, unix.AT_EACCESS) == nil, nil
	case "-x":
		return unix.Faccessat(unix.AT_FDCWD, v, unix.X_OK, unix.AT_EACCESS) == nil, nil
	case "-h", "-L":
		fi, ok := fileInfo(v, false)
		return ok && fi.Mode()&fs.ModeSymlink != 0, nil
	}
	if len(op) != 2 || op[0] != '-' || !strings.Contains("abcdefgkpsuGNOS", op[1:]) {
		return false, fmt.Errorf("%s: unknown operator", op)
	}
	fi, ok := fileInfo(v, true)
	if !ok {
		return false, nil
	}
	mode := fi.Mode()
	st, _ := fi.Sys().(*syscall.Stat_t)
	switch op {
	case "-b":
		return mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0, nil
	case "-c":
		return mode&fs.ModeCharDevice != 0, nil
	case "-d":
		return mode.IsDir(), nil
	case "-f":
		return mode.IsRegular(), nil
	case "-g":
		return mode&fs.ModeSetgid != 0, nil
	case "-k":
		return mode&fs.ModeSticky != 0, nil
	case "-p":
		return mode&fs.ModeNamedPipe != 0, nil
	case "-s":
		return fi.Size() > 0, nil
	case "-u":
		return mode&fs.ModeSetuid != 0, nil
	case "-S":
		return mode&fs.ModeSocket != 0, nil
	case "-O":
		return st != nil && int(st.Uid) == os.Geteuid(), nil
	case "-G":
		return st != nil && int(st.Gid) == os.Getegid(), nil
	case "-N":
		return st != nil && st.Mtim.Nano() > st.Atim.Nano(), nil
	}
	return true, nil // -e and -a: it exists
}

// testClause runs [[ … ]].
func (s *Shell) testClause(x syntax.TestExpr) {
	ok, err := s.testExpr(x)
	switch {
	case err != nil:
		if !errors.Is(err, errReported) {
			s.errorf("[[: %v", err)
		}
		s.status = 2
	case ok:
		s.status = 0
	default:
		s.status = 1
	}
}

func (s *Shell) testExpr(x syntax.TestExpr) (bool, error) {
	switch x := x.(type) {
	case *syntax.Word:
		v, err := s.literal(x)
		return v != "", err
	case *syntax.ParenTest:
		return s.testExpr(x.X)
	case *syntax.UnaryTest:
		if x.Op == syntax.TsNot {
			ok, err := s.testExpr(x.X)
			return !ok, err
		}
		w, ok := x.X.(*syntax.Word)
		if !ok {
			return false, errors.New("bad operand")
		}
		v, err := s.literal(w)
		if err != nil {
			return false, err
		}
		switch x.Op {
		case syntax.TsVarSet:
			return s.lookup(v).Set, nil
		case syntax.TsOptSet:
			o := s.opts.byName(v)
			return o != nil && *o, nil
		}
		t := tester{terminal: func(fd int) bool { f := s.fds[fd]; return f != nil && isTerminal(f.fd) }}
		return t.unary(x.Op.String(), v)
	case *syntax.BinaryTest:
		return s.testBinary(x)
	}
	return false, errors.New("unsupported expression")
}

func (s *Shell) testBinary(x *syntax.BinaryTest) (bool, error) {
	if x.Op == syntax.AndTest || x.Op == syntax.OrTest {
		ok, err := s.testExpr(x.X)
		if err != nil || ok != (x.Op == syntax.AndTest) {
			return ok, err
		}
		return s.testExpr(x.Y)
	}
	left, okL := x.X.(*syntax.Word)
	right, okR := x.Y.(*syntax.Word)
	if !okL || !okR {
		return false, errors.New("bad operand")
	}
	a, err := s.literal(left)
	if err != nil {
		return false, err
	}
	switch x.Op {
	case syntax.TsMatch, syntax.TsMatchShort, syntax.TsNoMatch:
		pat, err := s.pattern(right)
		if err != nil {
			return false, err
		}
		return matchPattern(pat, a) == (x.Op != syntax.TsNoMatch), nil
	case syntax.TsReMatch:
		return s.matchRegexp(a, right)
	}
	b, err := s.literal(right)
	if err != nil {
		return false, err
	}
	t := tester{}
	switch op := x.Op.String(); op {
	case "-eq", "-ne", "-lt", "-le", "-gt", "-ge": // operands are expressions here
		m, err := s.arithText(a)
		if err != nil {
			return false, err
		}
		n, err := s.arithText(b)
		if err != nil {
			return false, err
		}
		return t.binary(strconv.Itoa(m), op, strconv.Itoa(n))
	default:
		return t.binary(a, op, b)
	}
}

func (s *Shell) arithText(v string) (int, error) {
	if strings.TrimSpace(v) == "" {
		return 0, nil
	}
	x, err := syntax.NewParser().Arithmetic(strings.NewReader(v))
	if err != nil {
		return 0, err
	}
	return s.arith(x)
}

func (s *Shell) matchRegexp(v string, w *syntax.Word) (bool, error) {
	text, err := s.literal(w)
	if err != nil {
		return false, err
	}
	rx, err := regexp.Compile(text)
	if err != nil {
		return false, err
	}
	m := rx.FindStringSubmatch(v)
	s.assign("BASH_REMATCH", expand.Variable{Set: true, Kind: expand.Indexed, List: append([]string{}, m...)})
	return m != nil, nil
}
