package userland

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

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
