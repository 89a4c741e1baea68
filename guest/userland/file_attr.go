package userland

import (
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
