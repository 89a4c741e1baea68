package userland

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func mkdir(c *command) {
	paths, ok := c.parse("pm:v", "parents=p mode=m verbose=v")
	if !ok {
		return
	}
	if len(paths) == 0 {
		c.errorf("missing operand")
		return
	}
	mode := uint32(0o777)
	if c.opts.has('m') {
		m, err := parseMode(c.opts.get('m', ""), 0o777, true)
		if err != nil {
			c.errorf("%v", err)
			return
		}
		mode = m
	}
	for _, p := range paths {
		var err error
		if c.opts.has('p') {
			if err = os.MkdirAll(filepath.Dir(p), 0o777); err == nil {
				if err = unix.Mkdir(p, mode); err == unix.EEXIST {
					if fi, serr := os.Stat(p); serr == nil && fi.IsDir() {
						continue
					}
				}
			}
		} else {
			err = unix.Mkdir(p, mode)
		}
		if err == nil && c.opts.has('m') {
			err = unix.Chmod(p, mode)
		}
		if err != nil {
			c.errorf("cannot create directory '%s': %v", p, reason(err))
		} else if c.opts.has('v') {
			fmt.Fprintf(c.out, "mkdir: created directory '%s'\n", p)
		}
	}
}

func rmdir(c *command) {
	paths, ok := c.parse("pv", "parents=p verbose=v")
	if !ok {
		return
	}
	if len(paths) == 0 {
		c.errorf("missing operand")
	}
	for _, p := range paths {
		for {
			if err := unix.Rmdir(p); err != nil {
				c.errorf("failed to remove '%s': %v", p, reason(err))
				break
			}
			p = filepath.Dir(filepath.Clean(p))
			if !c.opts.has('p') || p == "." || p == "/" {
				break
			}
		}
	}
}

// parseMode evaluates a mode operand, octal or symbolic, over an old mode. dir
// makes X apply.
func parseMode(spec string, old uint32, dir bool) (uint32, error) {
	if n, err := strconv.ParseUint(spec, 8, 32); err == nil {
		if n > 0o7777 {
			return 0, fmt.Errorf("invalid mode: '%s'", spec)
		}
		return uint32(n), nil
	}
	mask := uint32(unix.Umask(0))
	unix.Umask(int(mask))
	bad := fmt.Errorf("invalid mode: '%s'", spec)
	mode := old
	for clause := range strings.SplitSeq(spec, ",") {
		i := 0
		var who uint32
		for ; i < len(clause) && strings.IndexByte("ugoa", clause[i]) >= 0; i++ {
			who |= map[byte]uint32{'u': 0o4700, 'g': 0o2070, 'o': 0o1007, 'a': 0o7777}[clause[i]]
		}
		implied := who == 0
		if implied {
			who = 0o7777
		}
		if i == len(clause) {
			return 0, bad
		}
		for i < len(clause) {
			op := clause[i]
			if strings.IndexByte("+-=", op) < 0 {
				return 0, bad
			}
			i++
			var perm uint32
			for ; i < len(clause) && strings.IndexByte("+-=", clause[i]) < 0; i++ {
				switch clause[i] {
				case 'r':
					perm |= 0o444
				case 'w':
					perm |= 0o222
				case 'x':
					perm |= 0o111
				case 'X':
					if dir || old&0o111 != 0 {
						perm |= 0o111
					}
				case 's':
					perm |= 0o6000
				case 't':
					perm |= 0o1000
				case 'u':
					perm |= (mode >> 6 & 7) * 0o111
				case 'g':
					perm |= (mode >> 3 & 7) * 0o111
				case 'o':
					perm |= (mode & 7) * 0o111
				default:
					return 0, bad
				}
			}
			if implied {
				perm &^= mask & 0o777
			}
			perm &= who | perm&0o1000
			switch op {
			case '+':
				mode |= perm
			case '-':
				mode &^= perm
			case '=':
				keep := uint32(0o7000)
				if !dir {
					keep = 0o1000
				}
				mode = mode&^(who&^keep) | perm
			}
		}
	}
	return mode, nil
}

func chmod(c *command) {
	// A mode such as -x looks like an option.
	for i, a := range c.args {
		if a == "--" {
			break
		}
		if len(a) > 1 && a[0] == '-' && a[1] != '-' && strings.Trim(a[1:], "rwxXstugo,+-=") == "" {
			c.args = append(append(append([]string{}, c.args[:i]...), "--"), c.args[i:]...)
			break
		}
	}
	paths, ok := c.parse("Rvcfr:", "recursive=R verbose=v changes=c silent=f quiet=f reference=r")
	if !ok {
		return
	}
	mode := ""
	if ref := c.opts.get('r', ""); ref != "" {
		fi, err := os.Stat(ref)
		if err != nil {
			c.fail(ref, err)
			return
		}
		mode = strconv.FormatUint(uint64(fi.Mode().Perm()), 8)
	} else if len(paths) > 0 {
		mode, paths = paths[0], paths[1:]
	}
	if mode == "" || len(paths) == 0 {
		c.errorf("missing operand")
		return
	}
	if _, err := parseMode(mode, 0, false); err != nil {
		c.errorf("%v", err)
		return
	}
	c.each(paths, c.opts.has('R'), func(p string, fi fs.FileInfo, top bool) error {
		if fi.Mode()&fs.ModeSymlink != 0 {
			if !top {
				return nil
			}
			t, err := os.Stat(p)
			if err != nil {
				return err
			}
			fi = t
		}
		st := fi.Sys().(*syscall.Stat_t)
		m, _ := parseMode(mode, st.Mode&0o7777, fi.IsDir())
		if fi.IsDir() && len(mode) < 5 && strings.Trim(mode, "01234567") == "" {
			m |= st.Mode & 0o6000 // a short number leaves a directory's set-ID bits
		}
		return unix.Chmod(p, m)
	})
}

// each calls fn for every operand and, if recursive, for all below: a
// directory before its entries.
func (c *command) each(paths []string, recursive bool, fn func(p string, fi fs.FileInfo, top bool) error) {
	var walk func(p string, top bool)
	walk = func(p string, top bool) {
		fi, err := os.Lstat(p)
		if err == nil {
			err = fn(p, fi, top)
		}
		if err != nil {
			c.fail(p, err)
		}
		if fi == nil || !recursive || !fi.IsDir() {
			return
		}
		es, err := os.ReadDir(p)
		if err != nil {
			c.fail(p, err)
		}
		for _, e := range es {
			walk(filepath.Join(p, e.Name()), false)
		}
	}
	for _, p := range paths {
		walk(p, true)
	}
}

func chown(c *command) {
	paths, ok := c.parse("RhvcfHLPr:", "recursive=R no-dereference=h verbose=v quiet=f silent=f reference=r")
	if !ok {
		return
	}
	uid, gid := -1, -1
	if ref := c.opts.get('r', ""); ref != "" {
		fi, err := os.Stat(ref)
		if err != nil {
			c.fail(ref, err)
			return
		}
		st := fi.Sys().(*syscall.Stat_t)
		uid, gid = int(st.Uid), int(st.Gid)
	} else if len(paths) > 0 {
		spec := paths[0]
		paths = paths[1:]
		user, group, has := strings.Cut(spec, ":")
		if c.name == "chgrp" {
			user, group = "", spec
		} else if !has {
			group = ""
		}
		var err error
		if user != "" {
			if uid, err = userID(user); err != nil {
				c.errorf("invalid user: '%s'", spec)
				return
			}
			if has && group == "" {
				gid = primaryGroup(uid)
			}
		}
		if group != "" {
			if gid, err = groupID(group); err != nil {
				c.errorf("invalid group: '%s'", spec)
				return
			}
		}
	}
	if len(paths) == 0 {
		c.errorf("missing operand")
		return
	}
	if c.name == "chgrp" {
		uid = -1
	}
	c.each(paths, c.opts.has('R'), func(p string, _ fs.FileInfo, _ bool) error {
		if c.opts.has('h') || c.opts.has('R') {
			return os.Lchown(p, uid, gid)
		}
		return os.Chown(p, uid, gid)
	})
}

func touch(c *command) {
	paths, ok := c.parse("acmd:r:t:h", "no-create=c date=d reference=r no-dereference=h")
	if !ok {
		return
	}
	if len(paths) == 0 {
		c.errorf("missing file operand")
		return
	}
	now := time.Now()
	atime, mtime := unix.NsecToTimespec(now.UnixNano()), unix.NsecToTimespec(now.UnixNano())
	if ref := c.opts.get('r', ""); ref != "" {
		var st unix.Stat_t
		if err := unix.Stat(ref, &st); err != nil {
			c.fail(ref, err)
			return
		}
		atime, mtime = st.Atim, st.Mtim
	}
	if v := c.opts.get('d', c.opts.get('t', "")); v != "" {
		t, err := parseDate(v, now)
		if err != nil {
			c.errorf("invalid date format '%s'", v)
			return
		}
		atime = unix.NsecToTimespec(t.UnixNano())
		mtime = atime
	}
	if c.opts.has('a') && !c.opts.has('m') {
		mtime.Nsec = unix.UTIME_OMIT
	}
	if c.opts.has('m') && !c.opts.has('a') {
		atime.Nsec = unix.UTIME_OMIT
	}
	flags := 0
	if c.opts.has('h') {
		flags = unix.AT_SYMLINK_NOFOLLOW
	}
	for _, p := range paths {
		times := []unix.Timespec{atime, mtime}
		err := unix.UtimesNanoAt(unix.AT_FDCWD, p, times, flags)
		if err == unix.ENOENT {
			if c.opts.has('c') {
				continue
			}
			var f *os.File
			if f, err = os.OpenFile(p, os.O_WRONLY|os.O_CREATE, 0o666); err == nil {
				f.Close()
				err = unix.UtimesNanoAt(unix.AT_FDCWD, p, times, flags)
			}
		}
		if err != nil {
			c.errorf("cannot touch '%s': %v", p, reason(err))
		}
	}
}

func mktemp(c *command) {
	args, ok := c.parse("dqup:t", "directory=d quiet=q dry-run=u tmpdir=p")
	if !ok {
		return
	}
	template := "tmp.XXXXXXXXXX"
	inDir := len(args) == 0 || c.opts.has('t') || c.opts.has('p')
	if len(args) > 0 {
		template = args[0]
	}
	trimmed := strings.TrimRight(template, "X")
	// The last run of X, which a suffix may follow.
	end := strings.LastIndexByte(template, 'X') + 1
	if trimmed != template {
		end = len(template)
	}
	start := end
	for start > 0 && template[start-1] == 'X' {
		start--
	}
	if end-start < 3 {
		c.errorf("too few X's in template '%s'", template)
		return
	}
	if inDir && !filepath.IsAbs(template) {
		dir := c.opts.get('p', "")
		if dir == "" {
			if dir = os.Getenv("TMPDIR"); dir == "" {
				dir = "/tmp"
			}
		}
		shift := len(filepath.Join(dir, "x")) - 1
		template = filepath.Join(dir, "x")[:shift] + template
		start, end = start+shift, end+shift
	}
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	random := make([]byte, end-start)
	var err error
	for range 100 {
		if _, err = unix.Getrandom(random, 0); err != nil {
			break
		}
		for i := range random {
			random[i] = letters[int(random[i])%len(letters)]
		}
		p := template[:start] + string(random) + template[end:]
		switch {
		case c.opts.has('u'):
			if _, serr := os.Lstat(p); serr == nil {
				err = fs.ErrExist
			}
		case c.opts.has('d'):
			err = os.Mkdir(p, 0o700)
		default:
			var f *os.File
			if f, err = os.OpenFile(p, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
				f.Close()
			}
		}
		if err == nil {
			c.out.WriteString(p + "\n")
			return
		}
		if !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	if c.opts.has('q') {
		c.status = 1
		return
	}
	c.errorf("failed to create '%s': %v", template, reason(err))
}

func readlink(c *command) {
	paths, ok := c.parse("femnqsvz", "canonicalize=f canonicalize-existing=e canonicalize-missing=m no-newline=n quiet=q zero=z")
	if !ok {
		return
	}
	if len(paths) == 0 {
		c.errorf("missing operand")
	}
	canonical := c.opts.last("fem")
	if c.name == "realpath" && canonical == 0 {
		canonical = 'f'
	}
	for _, p := range paths {
		var out string
		var err error
		switch {
		case canonical == 0:
			out, err = os.Readlink(p)
		default:
			out, err = canonicalize(p, canonical)
		}
		if err != nil {
			if c.name == "realpath" || c.opts.has('v') {
				c.fail(p, err)
			}
			c.status = 1
			continue
		}
		c.out.WriteString(out)
		switch {
		case c.opts.has('z'):
			c.out.WriteByte(0)
		case !c.opts.has('n'):
			c.out.WriteByte('\n')
		}
	}
}

// canonicalize resolves links and dots. In mode f the last element may be
// missing, in mode m any.
func canonicalize(p string, mode byte) (string, error) {
	abs, err := filepath.Abs(p)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if err == nil || mode == 'e' || !errors.Is(err, fs.ErrNotExist) && mode != 'm' {
		return real, err
	}
	if to, lerr := os.Readlink(abs); lerr == nil { // dangling link
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(abs), to)
		}
		return canonicalize(to, mode)
	}
	parent := filepath.Dir(abs)
	if parent == abs {
		return abs, nil
	}
	if mode == 'f' {
		real, err = filepath.EvalSymlinks(parent)
	} else {
		real, err = canonicalize(parent, mode)
	}
	if err != nil {
		return "", err
	}
	return filepath.Join(real, filepath.Base(abs)), nil
}

func truncate(c *command) {
	paths, ok := c.parse("cs:r:", "no-create=c size=s reference=r")
	if !ok {
		return
	}
	spec := c.opts.get('s', "")
	if len(paths) == 0 || spec == "" && !c.opts.has('r') {
		c.usage("-s size file …")
		return
	}
	if ref := c.opts.get('r', ""); ref != "" {
		fi, err := os.Stat(ref)
		if err != nil {
			c.fail(ref, err)
			return
		}
		spec = strconv.FormatInt(fi.Size(), 10)
	}
	n, err := size(strings.TrimLeft(spec, "+-"))
	if err != nil {
		c.errorf("invalid number: '%s'", spec)
		return
	}
	for _, p := range paths {
		flags := os.O_WRONLY
		if !c.opts.has('c') {
			flags |= os.O_CREATE
		}
		f, err := os.OpenFile(p, flags, 0o666)
		if err != nil {
			if !c.opts.has('c') || !errors.Is(err, fs.ErrNotExist) {
				c.fail(p, err)
			}
			continue
		}
		to := n
		if fi, serr := f.Stat(); serr == nil && (spec[0] == '+' || spec[0] == '-') {
			if to = fi.Size() + n; spec[0] == '-' {
				to = max(0, fi.Size()-n)
			}
		}
		if err := f.Truncate(to); err != nil {
			c.fail(p, err)
		}
		f.Close()
	}
}

func mkfifo(c *command) {
	paths, ok := c.parse("m:", "mode=m")
	if !ok {
		return
	}
	mode, err := parseMode(c.opts.get('m', "666"), 0o666, false)
	if err != nil {
		c.errorf("%v", err)
		return
	}
	for _, p := range paths {
		if err := unix.Mkfifo(p, mode); err != nil {
			c.errorf("cannot create fifo '%s': %v", p, reason(err))
		}
	}
}

func mknod(c *command) {
	args, ok := c.parse("m:", "mode=m")
	if !ok {
		return
	}
	if len(args) != 2 && len(args) != 4 {
		c.usage("[-m mode] name b|c|p [major minor]")
		return
	}
	mode, err := parseMode(c.opts.get('m', "666"), 0o666, false)
	var major, minor uint64
	if err == nil && len(args) == 4 {
		major, err = strconv.ParseUint(args[2], 0, 32)
		if err == nil {
			minor, err = strconv.ParseUint(args[3], 0, 32)
		}
	}
	if err != nil {
		c.errorf("%v", err)
		return
	}
	types := map[string]uint32{"b": unix.S_IFBLK, "c": unix.S_IFCHR, "u": unix.S_IFCHR, "p": unix.S_IFIFO}
	t := types[args[1]]
	if t == 0 {
		c.errorf("invalid type '%s'", args[1])
		return
	}
	if err := unix.Mknod(args[0], t|mode, int(unix.Mkdev(uint32(major), uint32(minor)))); err != nil {
		c.fail(args[0], err)
	}
}

func syncCmd(c *command) {
	paths, ok := c.parse("df", "data=d file-system=f")
	if !ok {
		return
	}
	if len(paths) == 0 {
		unix.Sync()
	}
	for _, p := range paths {
		f, err := os.Open(p)
		if err == nil {
			if c.opts.has('f') {
				err = unix.Syncfs(int(f.Fd()))
			} else {
				err = f.Sync()
			}
			f.Close()
		}
		if err != nil {
			c.fail(p, err)
		}
	}
}
