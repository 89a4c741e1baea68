package userland

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// entry is a file to list.
type entry struct {
	name string // as shown
	path string
	st   unix.Stat_t
	link string
}

func newEntry(name, path string, follow bool) (entry, error) {
	e := entry{name: name, path: path}
	var err error
	if follow {
		err = unix.Stat(path, &e.st)
	}
	if !follow || err != nil {
		err = unix.Lstat(path, &e.st)
	}
	if err != nil {
		return e, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if e.st.Mode&unix.S_IFMT == unix.S_IFLNK {
		e.link, _ = os.Readlink(path)
	}
	return e, nil
}

func (e entry) isDir() bool { return e.st.Mode&unix.S_IFMT == unix.S_IFDIR }

// lister carries ls's decisions.
type lister struct {
	c       *command
	long    bool
	columns bool
	color   bool
	width   int
	users   map[uint32]string
	groups  map[uint32]string
}

func ls(c *command) {
	paths, ok := c.parse("1aAbBcCdDfFgGhHiklLmnNopqQrRsStTuUvwxXZp", "all=a almost-all=A directory=d classify=F human-readable=h inode=i numeric-uid-gid=n recursive=R reverse=r size=s color=Z si=h full-time=E group-directories-first=Y")
	if !ok {
		c.status = 2
		return
	}
	o := c.opts
	l := &lister{c: c, long: o.has('l') || o.has('n') || o.has('g') || o.has('o'), width: 80,
		users: map[uint32]string{}, groups: map[uint32]string{}}
	if ws, err := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ); err == nil {
		l.columns, l.color = true, os.Getenv("TERM") != "dumb"
		if ws.Col > 0 {
			l.width = int(ws.Col)
		}
	}
	if last := o.last("1C"); last != 0 {
		l.columns = last == 'C'
	}
	if len(paths) == 0 {
		paths = []string{"."}
	}
	var files, dirs []entry
	for _, p := range paths {
		follow := o.has('L') || !l.long && !o.has('d') && !o.has('F') || o.has('H')
		e, err := newEntry(p, p, follow)
		if err != nil {
			c.errorf("cannot access '%s': %v", p, reason(err))
			c.status = 2
			continue
		}
		if e.isDir() && !o.has('d') {
			dirs = append(dirs, e)
		} else {
			files = append(files, e)
		}
	}
	l.sort(files)
	l.sort(dirs)
	l.print(files)
	for i, d := range dirs {
		if i > 0 || len(files) > 0 {
			c.out.WriteByte('\n')
		}
		l.dir(d.path, len(paths) > 1 || o.has('R'))
	}
}

func (l *lister) dir(path string, header bool) {
	c := l.c
	if header {
		fmt.Fprintf(c.out, "%s:\n", path)
	}
	names, err := os.ReadDir(path)
	if err != nil {
		c.errorf("cannot open directory '%s': %v", path, reason(err))
		c.status = 2
	}
	var list []entry
	add := func(name string) {
		e, err := newEntry(name, filepath.Join(path, name), c.opts.has('L'))
		if err != nil {
			c.errorf("cannot access '%s': %v", filepath.Join(path, name), reason(err))
			return
		}
		list = append(list, e)
	}
	if c.opts.has('a') || c.opts.has('f') {
		add(".")
		add("..")
	}
	for _, e := range names {
		if strings.HasPrefix(e.Name(), ".") && !c.opts.has('a') && !c.opts.has('A') && !c.opts.has('f') {
			continue
		}
		add(e.Name())
	}
	l.sort(list)
	if l.long || c.opts.has('s') {
		blocks := int64(0)
		for _, e := range list {
			blocks += e.st.Blocks
		}
		if c.opts.has('h') {
			fmt.Fprintf(c.out, "total %s\n", human(blocks*512))
		} else {
			fmt.Fprintf(c.out, "total %d\n", blocks/2)
		}
	}
	l.print(list)
	if c.opts.has('R') {
		for _, e := range list {
			if e.isDir() && e.name != "." && e.name != ".." {
				c.out.WriteByte('\n')
				l.dir(e.path, true)
			}
		}
	}
}

func (l *lister) time(e entry) unix.Timespec {
	switch l.c.opts.last("uc") {
	case 'u':
		return e.st.Atim
	case 'c':
		return e.st.Ctim
	}
	return e.st.Mtim
}

func (l *lister) sort(list []entry) {
	o := l.c.opts
	by := o.last("StUfvX")
	if by == 'U' || by == 'f' {
		return
	}
	slices.SortStableFunc(list, func(a, b entry) int {
		n := 0
		switch by {
		case 'S':
			n = int(min(max(b.st.Size-a.st.Size, -1), 1))
		case 't':
			x, y := l.time(a), l.time(b)
			n = int(min(max(y.Nano()-x.Nano(), -1), 1))
		case 'v':
			n = compareVersions(a.name, b.name)
		case 'X':
			n = strings.Compare(filepath.Ext(a.name), filepath.Ext(b.name))
		}
		if n == 0 {
			n = strings.Compare(a.name, b.name)
		}
		return n
	})
	if o.has('r') {
		slices.Reverse(list)
	}
}

func (l *lister) print(list []entry) {
	if len(list) == 0 {
		return
	}
	if l.long {
		l.printLong(list)
		return
	}
	var cells []string
	widest := 0
	for _, e := range list {
		prefix := ""
		if l.c.opts.has('i') {
			prefix = fmt.Sprintf("%d ", e.st.Ino)
		}
		if l.c.opts.has('s') {
			prefix += fmt.Sprintf("%d ", e.st.Blocks/2)
		}
		cells = append(cells, prefix+l.name(e))
		widest = max(widest, utf8.RuneCountInString(prefix+e.name)+len(l.indicator(e)))
	}
	if l.c.opts.has('m') {
		l.c.out.WriteString(strings.Join(cells, ", ") + "\n")
		return
	}
	if !l.columns {
		for _, cell := range cells {
			l.c.out.WriteString(cell + "\n")
		}
		return
	}
	cols := max(1, l.width/(widest+2))
	rows := (len(cells) + cols - 1) / cols
	for r := range rows {
		for i := r; i < len(cells); i += rows {
			l.c.out.WriteString(cells[i])
			if i+rows < len(cells) {
				shown := utf8.RuneCountInString(list[i].name) + len(l.indicator(list[i]))
				l.c.out.WriteString(strings.Repeat(" ", widest+2-shown))
			}
		}
		l.c.out.WriteByte('\n')
	}
}

func (l *lister) indicator(e entry) string {
	o := l.c.opts
	if !o.has('F') && !o.has('p') {
		return ""
	}
	switch e.st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "/"
	case unix.S_IFLNK:
		if o.has('F') && !l.long {
			return "@"
		}
	case unix.S_IFIFO:
		if o.has('F') {
			return "|"
		}
	case unix.S_IFSOCK:
		if o.has('F') {
			return "="
		}
	case unix.S_IFREG:
		if o.has('F') && e.st.Mode&0o111 != 0 {
			return "*"
		}
	}
	return ""
}

func (l *lister) name(e entry) string {
	name := e.name
	if l.c.opts.has('Q') {
		name = strconv.Quote(name)
	} else if l.columns {
		name = strings.Map(func(r rune) rune {
			if r < ' ' || r == 127 {
				return '?' // a name must not drive the terminal
			}
			return r
		}, name)
	}
	if l.color {
		code := ""
		switch t := e.st.Mode & unix.S_IFMT; {
		case t == unix.S_IFDIR:
			code = "1;34"
		case t == unix.S_IFLNK:
			code = "1;36"
		case t == unix.S_IFIFO:
			code = "33"
		case t == unix.S_IFSOCK:
			code = "1;35"
		case t == unix.S_IFBLK, t == unix.S_IFCHR:
			code = "1;33"
		case e.st.Mode&0o111 != 0:
			code = "1;32"
		}
		if code != "" {
			name = "\x1b[" + code + "m" + name + "\x1b[0m"
		}
	}
	return name + l.indicator(e)
}

func (l *lister) printLong(list []entry) {
	o := l.c.opts
	rows := make([][]string, len(list))
	var width [6]int
	now := time.Now()
	for i, e := range list {
		size := strconv.FormatInt(e.st.Size, 10)
		if o.has('h') {
			size = human(e.st.Size)
		}
		if t := e.st.Mode & unix.S_IFMT; t == unix.S_IFBLK || t == unix.S_IFCHR {
			size = fmt.Sprintf("%d, %d", unix.Major(e.st.Rdev), unix.Minor(e.st.Rdev))
		}
		user, group := strconv.Itoa(int(e.st.Uid)), strconv.Itoa(int(e.st.Gid))
		if !o.has('n') {
			user, group = cached(l.users, e.st.Uid, userName), cached(l.groups, e.st.Gid, groupName)
		}
		ts := l.time(e)
		t := time.Unix(ts.Sec, ts.Nsec)
		stamp := t.Format("Jan _2 15:04")
		if age := now.Sub(t); age > 182*24*time.Hour || age < -time.Hour {
			stamp = t.Format("Jan _2  2006")
		}
		if o.has('E') {
			stamp = t.Format("2006-01-02 15:04:05.000000000 -0700")
		}
		rows[i] = []string{modeString(e.st.Mode), strconv.FormatUint(uint64(e.st.Nlink), 10), user, group, size, stamp}
		for k, cell := range rows[i] {
			width[k] = max(width[k], len(cell))
		}
	}
	for i, e := range list {
		r := rows[i]
		if o.has('i') {
			fmt.Fprintf(l.c.out, "%d ", e.st.Ino)
		}
		fmt.Fprintf(l.c.out, "%s %*s ", r[0], width[1], r[1])
		if !o.has('g') {
			fmt.Fprintf(l.c.out, "%-*s ", width[2], r[2])
		}
		if !o.has('o') && !o.has('G') {
			fmt.Fprintf(l.c.out, "%-*s ", width[3], r[3])
		}
		fmt.Fprintf(l.c.out, "%*s %s %s", width[4], r[4], r[5], l.name(e))
		if e.link != "" {
			l.c.out.WriteString(" -> " + e.link)
		}
		l.c.out.WriteByte('\n')
	}
}

func cached(m map[uint32]string, id uint32, find func(int) string) string {
	if v, ok := m[id]; ok {
		return v
	}
	m[id] = find(int(id))
	return m[id]
}
