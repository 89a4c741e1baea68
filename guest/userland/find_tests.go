package userland

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/pattern"
)

// globMatcher compiles a pattern of -name and its relatives.
func globMatcher(pat string, fold bool) (func(string) bool, error) {
	expr, err := pattern.Regexp(pat, pattern.EntireString)
	if err != nil {
		return nil, err
	}
	if fold {
		expr = "(?i)" + expr
	}
	rx, err := regexp.Compile(expr)
	if err != nil {
		return nil, err
	}
	return rx.MatchString, nil
}

// compare parses +n, -n and n.
func compare(v string) (func(int64) bool, error) {
	n, err := strconv.ParseInt(strings.TrimLeft(v, "+-"), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("invalid number '%s'", v)
	}
	switch v[0] {
	case '+':
		return func(x int64) bool { return x > n }, nil
	case '-':
		return func(x int64) bool { return x < n }, nil
	}
	return func(x int64) bool { return x == n }, nil
}

func (f *finder) withValue(a, v string) (test, error) {
	switch a {
	case "-name", "-iname", "-path", "-ipath", "-wholename", "-lname":
		m, err := globMatcher(v, a[1] == 'i')
		switch strings.TrimPrefix(a[1:], "i") {
		case "name":
			return func(e *found) bool { return m(filepath.Base(e.path)) }, err
		case "lname":
			return func(e *found) bool {
				to, err := os.Readlink(e.path)
				return err == nil && m(to)
			}, err
		}
		return func(e *found) bool { return m(e.path) }, err
	case "-regex", "-iregex":
		rx, err := compileRegex("^("+v+")$", true, a == "-iregex")
		return func(e *found) bool { return rx.MatchString(e.path) }, err
	case "-type":
		want := map[uint32]bool{}
		for t := range strings.SplitSeq(v, ",") {
			m := map[string]uint32{"f": unix.S_IFREG, "d": unix.S_IFDIR, "l": unix.S_IFLNK, "p": unix.S_IFIFO, "s": unix.S_IFSOCK, "c": unix.S_IFCHR, "b": unix.S_IFBLK}[t]
			if m == 0 {
				return nil, fmt.Errorf("unknown argument to -type: %s", v)
			}
			want[m] = true
		}
		return func(e *found) bool { return want[e.st.Mode&unix.S_IFMT] }, nil
	case "-maxdepth", "-mindepth":
		n, err := strconv.Atoi(v)
		if a == "-maxdepth" {
			f.maxDepth = n
		} else {
			f.minDepth = n
		}
		return func(*found) bool { return true }, err
	case "-size":
		return sizeTest(v)
	case "-mtime", "-atime", "-ctime", "-mmin", "-amin", "-cmin":
		cmp, err := compare(v)
		unit := 24 * time.Hour
		if strings.HasSuffix(a, "min") {
			unit = time.Minute
		}
		return func(e *found) bool { return cmp(int64(f.now.Sub(statTime(e.st, a[1])) / unit)) }, err
	case "-newer", "-anewer", "-cnewer":
		var st unix.Stat_t
		if err := unix.Stat(v, &st); err != nil {
			return nil, fmt.Errorf("'%s': %v", v, reason(err))
		}
		which := a[1]
		if which == 'n' {
			which = 'm'
		}
		ref := statTime(st, 'm')
		return func(e *found) bool { return statTime(e.st, which).After(ref) }, nil
	case "-user", "-group", "-uid", "-gid", "-links", "-inum":
		if n, err := userID(v); a == "-user" && err == nil {
			v = strconv.Itoa(n)
		} else if n, err := groupID(v); a == "-group" && err == nil {
			v = strconv.Itoa(n)
		}
		cmp, err := compare(v)
		return func(e *found) bool {
			switch a {
			case "-user", "-uid":
				return cmp(int64(e.st.Uid))
			case "-group", "-gid":
				return cmp(int64(e.st.Gid))
			case "-links":
				return cmp(int64(e.st.Nlink))
			}
			return cmp(int64(e.st.Ino))
		}, err
	case "-perm":
		m, err := parseMode(strings.TrimLeft(v, "-/"), 0, false)
		return func(e *found) bool {
			have := e.st.Mode & 0o7777
			switch v[0] {
			case '-':
				return have&m == m
			case '/':
				return m == 0 || have&m != 0
			}
			return have == m
		}, err
	case "-printf":
		f.acts = true
		return f.printf(v), nil
	case "-samefile":
		var st unix.Stat_t
		err := unix.Stat(v, &st)
		return func(e *found) bool { return e.st.Dev == st.Dev && e.st.Ino == st.Ino }, err
	}
	return nil, fmt.Errorf("unknown predicate '%s'", a)
}

func statTime(st unix.Stat_t, which byte) time.Time {
	t := st.Mtim
	switch which {
	case 'a':
		t = st.Atim
	case 'c':
		t = st.Ctim
	}
	return time.Unix(t.Sec, t.Nsec)
}

func sizeTest(v string) (test, error) {
	unit := int64(512)
	num := v
	switch v[len(v)-1] {
	case 'c':
		unit, num = 1, v[:len(v)-1]
	case 'w':
		unit, num = 2, v[:len(v)-1]
	case 'b':
		num = v[:len(v)-1]
	case 'k':
		unit, num = 1<<10, v[:len(v)-1]
	case 'M':
		unit, num = 1<<20, v[:len(v)-1]
	case 'G':
		unit, num = 1<<30, v[:len(v)-1]
	}
	if num == "" {
		return nil, fmt.Errorf("invalid size '%s'", v)
	}
	cmp, err := compare(num)
	return func(e *found) bool { return cmp((e.st.Size + unit - 1) / unit) }, err
}

// printf expands the common directives of -printf.
func (f *finder) printf(format string) test {
	format = strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\0`, "\x00", `\\`, `\`).Replace(format)
	return func(e *found) bool {
		for i := 0; i < len(format); i++ {
			if format[i] != '%' || i+1 == len(format) {
				f.c.out.WriteByte(format[i])
				continue
			}
			i++
			v := ""
			switch format[i] {
			case 'p':
				v = e.path
			case 'f':
				v = filepath.Base(e.path)
			case 'h':
				v = filepath.Dir(e.path)
			case 'P':
				if parts := strings.SplitN(e.path, "/", 2); e.depth > 0 && len(parts) == 2 {
					v = parts[1]
				}
			case 's':
				v = strconv.FormatInt(e.st.Size, 10)
			case 'm':
				v = strconv.FormatUint(uint64(e.st.Mode&0o7777), 8)
			case 'M':
				v = modeString(e.st.Mode)
			case 'u':
				v = userName(int(e.st.Uid))
			case 'g':
				v = groupName(int(e.st.Gid))
			case 'U':
				v = strconv.Itoa(int(e.st.Uid))
			case 'G':
				v = strconv.Itoa(int(e.st.Gid))
			case 'd':
				v = strconv.Itoa(e.depth)
			case 'i':
				v = strconv.FormatUint(e.st.Ino, 10)
			case 'n':
				v = strconv.FormatUint(uint64(e.st.Nlink), 10)
			case 'y':
				v = strings.Replace(modeString(e.st.Mode)[:1], "-", "f", 1)
			case 'l':
				v, _ = os.Readlink(e.path)
			case 'T':
				if i++; i < len(format) && format[i] == '@' {
					v = fmt.Sprintf("%d.%09d", e.st.Mtim.Sec, e.st.Mtim.Nsec)
				}
			case 't':
				v = time.Unix(e.st.Mtim.Sec, e.st.Mtim.Nsec).Format(time.ANSIC)
			case '%':
				v = "%"
			}
			f.c.out.WriteString(v)
		}
		return true
	}
}

// execBatch collects paths for -exec … {} +.
type execBatch struct {
	words []string
	paths []string
	size  int
}

func (b *execBatch) flush(c *command) {
	if len(b.paths) == 0 {
		return
	}
	if !runCommand(c, "", append(append([]string{}, b.words...), b.paths...)) {
		c.status = 1
	}
	b.paths, b.size = nil, 0
}

func (f *finder) exec(kind string) (test, error) {
	f.acts = true
	var words []string
	for {
		w, ok := f.next()
		if !ok {
			return nil, fmt.Errorf("missing argument to '%s'", kind)
		}
		if w == ";" {
			break
		}
		if w == "+" && len(words) > 0 && words[len(words)-1] == "{}" {
			b := &execBatch{words: words[:len(words)-1]}
			f.batches = append(f.batches, b)
			return func(e *found) bool {
				b.paths = append(b.paths, e.path)
				if b.size += len(e.path) + 9; b.size > 64<<10 {
					b.flush(f.c)
				}
				return true
			}, nil
		}
		words = append(words, w)
	}
	if len(words) == 0 {
		return nil, fmt.Errorf("invalid argument to '%s'", kind)
	}
	return func(e *found) bool {
		dir, name := "", e.path
		if kind == "-execdir" {
			dir, name = filepath.Dir(e.path), "./"+filepath.Base(e.path)
		}
		args := make([]string, len(words))
		for i, w := range words {
			args[i] = strings.ReplaceAll(w, "{}", name)
		}
		if kind == "-ok" && !confirm("< %s > ? ", strings.Join(args, " ")) {
			return false
		}
		return runCommand(f.c, dir, args)
	}, nil
}

// runCommand runs a program with our standard streams and reports whether it
// succeeded.
func runCommand(c *command, dir string, args []string) bool {
	c.out.Flush()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		c.errorf("'%s': %v", args[0], reason(err))
	}
	return err == nil
}
