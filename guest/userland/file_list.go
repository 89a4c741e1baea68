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

// modeString is the ten characters of ls -l.
func modeString(mode uint32) string {
	b := []byte("?rwxrwxrwx")
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		b[0] = '-'
	case unix.S_IFDIR:
		b[0] = 'd'
	case unix.S_IFLNK:
		b[0] = 'l'
	case unix.S_IFCHR:
		b[0] = 'c'
	case unix.S_IFBLK:
		b[0] = 'b'
	case unix.S_IFIFO:
		b[0] = 'p'
	case unix.S_IFSOCK:
		b[0] = 's'
	}
	for i := range 9 {
		if mode&(0o400>>i) == 0 {
			b[i+1] = '-'
		}
	}
	special := func(bit uint32, at int, on, off byte) {
		if mode&bit != 0 {
			if b[at] == 'x' {
				b[at] = on
			} else {
				b[at] = off
			}
		}
	}
	special(unix.S_ISUID, 3, 's', 'S')
	special(unix.S_ISGID, 6, 's', 'S')
	special(unix.S_ISVTX, 9, 't', 'T')
	return string(b)
}

func stat(c *command) {
	paths, ok := c.parse("c:fLtp:", "format=c file-system=f dereference=L terse=t printf=p")
	if !ok {
		return
	}
	if len(paths) == 0 {
		c.errorf("missing operand")
	}
	for _, p := range paths {
		if c.opts.has('f') {
			c.statFS(p)
			continue
		}
		e, err := newEntry(p, p, c.opts.has('L'))
		if err != nil {
			c.errorf("cannot stat '%s': %v", p, reason(err))
			continue
		}
		switch {
		case c.opts.has('p'):
			c.out.WriteString(statFormat(strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\\`, `\`).Replace(c.opts.get('p', "")), e))
		case c.opts.has('c'):
			c.out.WriteString(statFormat(c.opts.get('c', ""), e) + "\n")
		default:
			name := p
			if e.link != "" {
				name += " -> " + e.link
			}
			c.out.WriteString("  File: " + name + "\n" + statFormat("  Size: %-10s\tBlocks: %-10b IO Block: %-6o %F\nDevice: %Hd,%Ld\tInode: %-11i Links: %h\nAccess: (%04a/%A)  Uid: (%5u/%8U)   Gid: (%5g/%8G)\nAccess: %x\nModify: %y\nChange: %z\n Birth: -\n", e))
		}
	}
}

func (c *command) statFS(p string) {
	var st unix.Statfs_t
	if err := unix.Statfs(p, &st); err != nil {
		c.errorf("cannot read file system information for '%s': %v", p, reason(err))
		return
	}
	fmt.Fprintf(c.out, "  File: \"%s\"\n    ID: %x Namelen: %d Type: 0x%x\nBlock size: %d\nBlocks: Total: %d Free: %d Available: %d\nInodes: Total: %d Free: %d\n",
		p, st.Fsid.Val, st.Namelen, st.Type, st.Bsize, st.Blocks, st.Bfree, st.Bavail, st.Files, st.Ffree)
}

// statFormat expands the directives of stat -c.
func statFormat(format string, e entry) string {
	var b strings.Builder
	stamp := func(t unix.Timespec) string {
		return time.Unix(t.Sec, t.Nsec).Format("2006-01-02 15:04:05.000000000 -0700")
	}
	kind := map[uint32]string{unix.S_IFREG: "regular file", unix.S_IFDIR: "directory", unix.S_IFLNK: "symbolic link", unix.S_IFCHR: "character special file",
		unix.S_IFBLK: "block special file", unix.S_IFIFO: "fifo", unix.S_IFSOCK: "socket"}[e.st.Mode&unix.S_IFMT]
	if kind == "regular file" && e.st.Size == 0 {
		kind = "regular empty file"
	}
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		j := i + 1
		for j < len(format)-1 && strings.IndexByte("-0123456789HL", format[j]) >= 0 {
			j++
		}
		flags := format[i+1 : j]
		half := strings.TrimLeft(flags, "-0123456789")
		flags = strings.TrimRight(flags, "HL")
		i = j
		v := ""
		switch format[j] {
		case 'n':
			v = e.name
		case 'N':
			v = "'" + e.name + "'"
			if e.link != "" {
				v += " -> '" + e.link + "'"
			}
		case 's':
			v = strconv.FormatInt(e.st.Size, 10)
		case 'b':
			v = strconv.FormatInt(e.st.Blocks, 10)
		case 'B':
			v = "512"
		case 'o':
			v = strconv.FormatInt(int64(e.st.Blksize), 10)
		case 'a':
			v = strconv.FormatUint(uint64(e.st.Mode&0o7777), 8)
		case 'A':
			v = modeString(e.st.Mode)
		case 'f':
			v = strconv.FormatUint(uint64(e.st.Mode), 16)
		case 'F':
			v = kind
		case 'u':
			v = strconv.Itoa(int(e.st.Uid))
		case 'U':
			v = userName(int(e.st.Uid))
		case 'g':
			v = strconv.Itoa(int(e.st.Gid))
		case 'G':
			v = groupName(int(e.st.Gid))
		case 'i':
			v = strconv.FormatUint(e.st.Ino, 10)
		case 'h':
			v = strconv.FormatUint(uint64(e.st.Nlink), 10)
		case 'd':
			v = strconv.FormatUint(e.st.Dev, 10)
			if half == "H" {
				v = strconv.Itoa(int(unix.Major(e.st.Dev)))
			} else if half == "L" {
				v = strconv.Itoa(int(unix.Minor(e.st.Dev)))
			}
		case 't':
			v = strconv.FormatUint(uint64(unix.Major(e.st.Rdev)), 16)
		case 'T':
			v = strconv.FormatUint(uint64(unix.Minor(e.st.Rdev)), 16)
		case 'x':
			v = stamp(e.st.Atim)
		case 'y':
			v = stamp(e.st.Mtim)
		case 'z':
			v = stamp(e.st.Ctim)
		case 'X':
			v = strconv.FormatInt(e.st.Atim.Sec, 10)
		case 'Y':
			v = strconv.FormatInt(e.st.Mtim.Sec, 10)
		case 'Z':
			v = strconv.FormatInt(e.st.Ctim.Sec, 10)
		case 'W':
			v = "0"
		case 'w':
			v = "-"
		case '%':
			v = "%"
		default:
			v = "?"
		}
		width, _ := strconv.Atoi(flags)
		switch {
		case width < 0:
			v += strings.Repeat(" ", max(0, -width-len(v)))
		case strings.HasPrefix(flags, "0"):
			v = strings.Repeat("0", max(0, width-len(v))) + v
		default:
			v = strings.Repeat(" ", max(0, width-len(v))) + v
		}
		b.WriteString(v)
	}
	return b.String()
}

func du(c *command) {
	paths, ok := c.parse("abchHkLlmsSxd:", "all=a bytes=b total=c human-readable=h summarize=s one-file-system=x max-depth=d")
	if !ok {
		return
	}
	if len(paths) == 0 {
		paths = []string{"."}
	}
	depth := 1 << 30
	if c.opts.has('s') {
		depth = 0
	} else if c.opts.has('d') {
		n, err := strconv.Atoi(c.opts.get('d', ""))
		if err != nil {
			c.errorf("invalid maximum depth '%s'", c.opts.get('d', ""))
			return
		}
		depth = n
	}
	show := func(n int64, name string) {
		switch {
		case c.opts.has('h'):
			fmt.Fprintf(c.out, "%s\t%s\n", human(n), name)
		case c.opts.has('b'):
			fmt.Fprintf(c.out, "%d\t%s\n", n, name)
		case c.opts.has('m'):
			fmt.Fprintf(c.out, "%d\t%s\n", (n+1<<20-1)>>20, name)
		default:
			fmt.Fprintf(c.out, "%d\t%s\n", (n+1023)/1024, name)
		}
	}
	seen := map[[2]uint64]bool{}
	var walk func(p string, level int, dev uint64) int64
	walk = func(p string, level int, dev uint64) int64 {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			c.errorf("cannot access '%s': %v", p, reason(err))
			return 0
		}
		if level > 0 && c.opts.has('x') && st.Dev != dev {
			return 0
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			id := [2]uint64{st.Dev, st.Ino}
			if seen[id] {
				return 0
			}
			seen[id] = true
		}
		n := st.Blocks * 512
		if c.opts.has('b') {
			n = st.Size
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			es, err := os.ReadDir(p)
			if err != nil {
				c.errorf("cannot read directory '%s': %v", p, reason(err))
			}
			for _, e := range es {
				n += walk(strings.TrimSuffix(p, "/")+"/"+e.Name(), level+1, st.Dev)
			}
			if level <= depth {
				show(n, p)
			}
		} else if level == 0 || c.opts.has('a') && level <= depth {
			show(n, p)
		}
		return n
	}
	total := int64(0)
	for _, p := range paths {
		total += walk(p, 0, 0)
	}
	if c.opts.has('c') {
		show(total, "total")
	}
}
