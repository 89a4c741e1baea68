package userland

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// finder is one run of find.
type finder struct {
	c        *command
	args     []string
	now      time.Time
	minDepth int
	maxDepth int
	depth    bool // contents before the directory
	xdev     bool
	follow   bool
	acts     bool // the expression has an action: no implied -print
	prune    bool
	quit     bool
	batches  []*execBatch
}

// found is the file that an expression looks at.
type found struct {
	path  string
	depth int
	st    unix.Stat_t
}

type test func(*found) bool

func find(c *command) {
	f := &finder{c: c, now: time.Now(), maxDepth: 1 << 30}
	args := c.args
	for len(args) > 0 && (args[0] == "-L" || args[0] == "-P" || args[0] == "-H") {
		f.follow = args[0] == "-L"
		args = args[1:]
	}
	var roots []string
	for len(args) > 0 && args[0] != "!" && args[0] != "(" && (args[0] == "-" || !strings.HasPrefix(args[0], "-")) {
		roots = append(roots, args[0])
		args = args[1:]
	}
	if len(roots) == 0 {
		roots = []string{"."}
	}
	f.args = args
	expr := test(func(*found) bool { return true })
	if len(args) > 0 {
		var err error
		if expr, err = f.or(); err == nil && len(f.args) > 0 {
			err = fmt.Errorf("unexpected '%s'", f.args[0])
		}
		if err != nil {
			c.errorf("%v", err)
			return
		}
	}
	if !f.acts {
		inner := expr
		expr = func(e *found) bool {
			if inner(e) {
				c.out.WriteString(e.path + "\n")
			}
			return true
		}
	}
	for _, r := range roots {
		f.walk(r, 0, 0, expr)
	}
	for _, b := range f.batches {
		b.flush(c)
	}
}

func (f *finder) walk(path string, depth int, dev uint64, expr test) {
	if f.quit {
		return
	}
	e := &found{path: path, depth: depth}
	err := unix.Lstat(path, &e.st)
	if err == nil && f.follow {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			e.st = st
		}
	}
	if err != nil {
		f.c.errorf("'%s': %v", path, reason(err))
		return
	}
	f.prune = false
	if !f.depth && depth >= f.minDepth {
		expr(e)
	}
	isDir := e.st.Mode&unix.S_IFMT == unix.S_IFDIR
	if isDir && !f.prune && depth < f.maxDepth && !(f.xdev && depth > 0 && e.st.Dev != dev) && !f.quit {
		es, err := os.ReadDir(path)
		if err != nil {
			f.c.errorf("'%s': %v", path, reason(err))
		}
		for _, x := range es {
			f.walk(strings.TrimSuffix(path, "/")+"/"+x.Name(), depth+1, e.st.Dev, expr)
		}
	}
	if f.depth && depth >= f.minDepth && !f.quit {
		expr(e)
	}
}

func (f *finder) next() (string, bool) {
	if len(f.args) == 0 {
		return "", false
	}
	a := f.args[0]
	f.args = f.args[1:]
	return a, true
}

func (f *finder) or() (test, error) {
	left, err := f.and()
	for err == nil && len(f.args) > 0 && (f.args[0] == "-o" || f.args[0] == "-or") {
		f.args = f.args[1:]
		var right test
		if right, err = f.and(); err == nil {
			l := left
			left = func(e *found) bool { return l(e) || right(e) }
		}
	}
	return left, err
}

func (f *finder) and() (test, error) {
	left, err := f.term()
	for err == nil && len(f.args) > 0 && f.args[0] != "-o" && f.args[0] != "-or" && f.args[0] != ")" {
		if f.args[0] == "-a" || f.args[0] == "-and" {
			f.args = f.args[1:]
		}
		var right test
		if right, err = f.term(); err == nil {
			l := left
			left = func(e *found) bool { return l(e) && right(e) }
		}
	}
	return left, err
}

func (f *finder) term() (test, error) {
	a, ok := f.next()
	if !ok {
		return nil, errors.New("expression expected")
	}
	switch a {
	case "!", "-not":
		t, err := f.term()
		return func(e *found) bool { return !t(e) }, err
	case "(":
		t, err := f.or()
		if err != nil {
			return nil, err
		}
		if end, _ := f.next(); end != ")" {
			return nil, errors.New("missing ')'")
		}
		return t, nil
	case "-exec", "-ok", "-execdir":
		return f.exec(a)
	}
	if t, ok := f.plain(a); ok {
		return t, nil
	}
	v, ok := f.next()
	if !ok {
		return nil, fmt.Errorf("missing argument to '%s'", a)
	}
	return f.withValue(a, v)
}

// plain handles the primaries without an argument.
func (f *finder) plain(a string) (test, bool) {
	yes := func(*found) bool { return true }
	out := f.c.out
	switch a {
	case "-print":
		f.acts = true
		return func(e *found) bool { out.WriteString(e.path + "\n"); return true }, true
	case "-print0":
		f.acts = true
		return func(e *found) bool { out.WriteString(e.path + "\x00"); return true }, true
	case "-ls":
		f.acts = true
		return func(e *found) bool {
			fmt.Fprintf(out, "%9d %6d %s %3d %-8s %-8s %8d %s %s\n", e.st.Ino, e.st.Blocks/2, modeString(e.st.Mode), e.st.Nlink, userName(int(e.st.Uid)), groupName(int(e.st.Gid)), e.st.Size, time.Unix(e.st.Mtim.Sec, 0).Format("Jan _2 15:04"), e.path)
			return true
		}, true
	case "-delete":
		f.acts, f.depth = true, true
		return func(e *found) bool {
			if e.path == "." {
				return true
			}
			if err := os.Remove(e.path); err != nil {
				f.c.errorf("cannot delete '%s': %v", e.path, reason(err))
				return false
			}
			return true
		}, true
	case "-prune":
		return func(*found) bool { f.prune = true; return true }, true
	case "-quit":
		f.acts = true
		return func(*found) bool { f.quit = true; return true }, true
	case "-depth", "-d":
		f.depth = true
		return yes, true
	case "-xdev", "-mount":
		f.xdev = true
		return yes, true
	case "-follow":
		f.follow = true
		return yes, true
	case "-true":
		return yes, true
	case "-false":
		return func(*found) bool { return false }, true
	case "-empty":
		return func(e *found) bool {
			if e.st.Mode&unix.S_IFMT == unix.S_IFDIR {
				es, err := os.ReadDir(e.path)
				return err == nil && len(es) == 0
			}
			return e.st.Mode&unix.S_IFMT == unix.S_IFREG && e.st.Size == 0
		}, true
	case "-executable":
		return func(e *found) bool { return unix.Access(e.path, unix.X_OK) == nil }, true
	case "-readable":
		return func(e *found) bool { return unix.Access(e.path, unix.R_OK) == nil }, true
	case "-writable":
		return func(e *found) bool { return unix.Access(e.path, unix.W_OK) == nil }, true
	case "-nouser":
		return func(e *found) bool { return passwdByID(int(e.st.Uid)) == nil }, true
	}
	return nil, false
}
