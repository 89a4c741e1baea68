package userland

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// destination resolves the operands of cp, mv and ln: the sources, and how to
// name the target of each.
func (c *command) destination(paths []string) (sources []string, target func(src string) string, ok bool) {
	dir, toDir := c.opts.get('t', ""), c.opts.has('t')
	if !toDir {
		if len(paths) < 2 {
			if len(paths) == 1 {
				c.errorf("missing destination file operand after '%s'", paths[0])
			} else {
				c.errorf("missing file operand")
			}
			return nil, nil, false
		}
		dir = paths[len(paths)-1]
		paths = paths[:len(paths)-1]
		if !c.opts.has('T') {
			fi, err := os.Stat(dir)
			toDir = err == nil && fi.IsDir()
			if c.name == "ln" && c.opts.has('n') {
				if li, err := os.Lstat(dir); err == nil && li.Mode()&fs.ModeSymlink != 0 {
					toDir = false
				}
			}
		}
	}
	if !toDir {
		if len(paths) > 1 {
			c.errorf("target '%s' is not a directory", dir)
			return nil, nil, false
		}
		return paths, func(string) string { return dir }, true
	}
	return paths, func(src string) string { return filepath.Join(dir, filepath.Base(src)) }, true
}

// confirm asks on standard error and reads the answer.
func confirm(format string, args ...any) bool {
	fmt.Fprintf(os.Stderr, format, args...)
	var b [1]byte
	yes, first := false, true
	for {
		n, err := os.Stdin.Read(b[:])
		if n == 0 || err != nil || b[0] == '\n' {
			return yes
		}
		if first {
			yes = b[0] == 'y' || b[0] == 'Y'
		}
		first = false
	}
}

// overwrite decides what -n, -i and -u say about an existing target.
func (c *command) overwrite(src fs.FileInfo, dst string) bool {
	di, err := os.Lstat(dst)
	if err != nil {
		return true
	}
	if c.opts.has('u') && !src.ModTime().After(di.ModTime()) {
		return false
	}
	switch c.opts.last("nif") {
	case 'n':
		return false
	case 'i':
		return confirm("%s: overwrite '%s'? ", c.name, dst)
	}
	return true
}

// copier copies files and trees.
type copier struct {
	c         *command
	recursive bool
	follow    bool // copy what a symbolic link names
	followTop bool
	mode      bool // preserve mode, owner and times
	links     bool // preserve hard links
	seen      map[[2]uint64]string
}

func cp(c *command) {
	paths, ok := c.parse("adfiHLlnPpRrsTt:uvx", "archive=a force=f interactive=i link=l no-clobber=n no-dereference=P dereference=L recursive=R symbolic-link=s no-target-directory=T target-directory=t update=u verbose=v preserve=p")
	if !ok {
		return
	}
	sources, target, ok := c.destination(paths)
	if !ok {
		return
	}
	o := c.opts
	k := &copier{c: c, recursive: o.has('R') || o.has('r') || o.has('a'), mode: o.has('p') || o.has('a'), links: o.has('a') || o.has('d')}
	switch o.last("PLHad") {
	case 'P', 'a', 'd':
	case 'H':
		k.followTop = true
	case 'L':
		k.follow, k.followTop = true, true
	default:
		k.follow, k.followTop = !k.recursive, !k.recursive
	}
	for _, src := range sources {
		k.copy(src, target(src), true)
	}
}

func (k *copier) copy(src, dst string, top bool) {
	c := k.c
	stat := os.Lstat
	if k.follow || top && k.followTop {
		stat = os.Stat
	}
	fi, err := stat(src)
	if err != nil {
		c.fail(src, err)
		return
	}
	if di, err := os.Stat(dst); err == nil && os.SameFile(fi, di) && !fi.IsDir() {
		c.errorf("'%s' and '%s' are the same file", src, dst)
		return
	}
	if fi.IsDir() {
		k.copyDir(src, dst, fi)
		return
	}
	if !c.overwrite(fi, dst) {
		return
	}
	if err := k.copyOne(src, dst, fi); err != nil {
		c.errorf("cannot copy '%s' to '%s': %v", src, dst, reason(err))
		return
	}
	if c.opts.has('v') {
		fmt.Fprintf(c.out, "'%s' -> '%s'\n", src, dst)
	}
}

func (k *copier) copyDir(src, dst string, fi fs.FileInfo) {
	c := k.c
	if !k.recursive {
		c.errorf("-r not specified; omitting directory '%s'", src)
		return
	}
	if a, err := filepath.Abs(src); err == nil {
		if b, err := filepath.Abs(dst); err == nil && (b == a || strings.HasPrefix(b, strings.TrimSuffix(a, "/")+"/")) {
			c.errorf("cannot copy a directory, '%s', into itself, '%s'", src, dst)
			return
		}
	}
	made := false
	if di, err := os.Stat(dst); err != nil {
		if err := os.Mkdir(dst, fi.Mode().Perm()|0o700); err != nil {
			c.fail(dst, err)
			return
		}
		made = true
	} else if !di.IsDir() {
		c.errorf("cannot overwrite non-directory '%s' with directory '%s'", dst, src)
		return
	}
	if c.opts.has('v') && made {
		fmt.Fprintf(c.out, "'%s' -> '%s'\n", src, dst)
	}
	es, err := os.ReadDir(src)
	if err != nil {
		c.fail(src, err)
	}
	for _, e := range es {
		k.copy(filepath.Join(src, e.Name()), filepath.Join(dst, e.Name()), false)
	}
	if k.mode {
		k.preserve(dst, fi)
	} else if made {
		mask := unix.Umask(0)
		unix.Umask(mask)
		os.Chmod(dst, fi.Mode().Perm()&^fs.FileMode(mask))
	}
}

func (k *copier) copyOne(src, dst string, fi fs.FileInfo) error {
	c := k.c
	st, _ := fi.Sys().(*syscall.Stat_t)
	if k.links && st != nil && st.Nlink > 1 {
		id := [2]uint64{st.Dev, st.Ino}
		if prev, ok := k.seen[id]; ok {
			os.Remove(dst)
			return os.Link(prev, dst)
		}
		if k.seen == nil {
			k.seen = make(map[[2]uint64]string)
		}
		k.seen[id] = dst
	}
	mode := fi.Mode()
	switch {
	case c.opts.has('l'):
		os.Remove(dst)
		return os.Link(src, dst)
	case c.opts.has('s'):
		return os.Symlink(src, dst)
	case mode&fs.ModeSymlink != 0:
		to, err := os.Readlink(src)
		if err != nil {
			return err
		}
		if _, err := os.Lstat(dst); err == nil {
			if err := os.Remove(dst); err != nil {
				return err
			}
		}
		if err := os.Symlink(to, dst); err != nil {
			return err
		}
	case mode.IsRegular() || !k.recursive:
		if err := copyFile(src, dst, mode.Perm(), c.opts.has('f')); err != nil {
			return err
		}
	default: // a device, FIFO or socket, in a tree
		os.Remove(dst)
		if err := unix.Mknod(dst, st.Mode, int(st.Rdev)); err != nil {
			return err
		}
	}
	if k.mode {
		k.preserve(dst, fi)
	}
	return nil
}

func copyFile(src, dst string, perm fs.FileMode, force bool) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil && force {
		os.Remove(dst)
		out, err = os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in) // copy_file_range where the kernel can
	return errors.Join(err, out.Close())
}

// preserve gives a copy the owner, mode and times of its source. Only root may
// give files away: then the set-ID bits are dropped, as GNU cp does.
func (k *copier) preserve(dst string, fi fs.FileInfo) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return
	}
	mode := st.Mode & 0o7777
	if err := os.Lchown(dst, int(st.Uid), int(st.Gid)); err != nil {
		mode &= 0o1777
	}
	if fi.Mode()&fs.ModeSymlink == 0 {
		unix.Chmod(dst, mode)
	}
	times := []unix.Timespec{{Sec: st.Atim.Sec, Nsec: st.Atim.Nsec}, {Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec}}
	unix.UtimesNanoAt(unix.AT_FDCWD, dst, times, unix.AT_SYMLINK_NOFOLLOW)
}
