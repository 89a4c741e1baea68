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

func mv(c *command) {
	paths, ok := c.parse("finTt:uv", "force=f interactive=i no-clobber=n no-target-directory=T target-directory=t update=u verbose=v")
	if !ok {
		return
	}
	sources, target, ok := c.destination(paths)
	if !ok {
		return
	}
	for _, src := range sources {
		dst := target(src)
		fi, err := os.Lstat(src)
		if err != nil {
			c.errorf("cannot stat '%s': %v", src, reason(err))
			continue
		}
		if !c.overwrite(fi, dst) {
			continue
		}
		if di, err := os.Lstat(dst); err == nil && os.SameFile(fi, di) {
			c.errorf("'%s' and '%s' are the same file", src, dst)
			continue
		}
		err = unix.Rename(src, dst)
		if err == unix.EXDEV { // another file system: copy, then remove
			before := c.status
			k := &copier{c: c, recursive: true, mode: true, links: true}
			if di, err := os.Lstat(dst); err == nil && !di.IsDir() {
				os.Remove(dst)
			}
			k.copy(src, dst, true)
			if c.status == before {
				err = os.RemoveAll(src)
			} else {
				continue
			}
		}
		if err != nil {
			c.errorf("cannot move '%s' to '%s': %v", src, dst, reason(err))
			continue
		}
		if c.opts.has('v') {
			fmt.Fprintf(c.out, "renamed '%s' -> '%s'\n", src, dst)
		}
	}
}

func ln(c *command) {
	paths, ok := c.parse("sfnrvTt:", "symbolic=s force=f no-dereference=n relative=r verbose=v no-target-directory=T target-directory=t")
	if !ok {
		return
	}
	if len(paths) == 1 && !c.opts.has('t') {
		paths = append(paths, ".")
	}
	sources, target, ok := c.destination(paths)
	if !ok {
		return
	}
	for _, src := range sources {
		dst := target(src)
		if c.opts.has('f') {
			if a, err := os.Lstat(dst); err == nil {
				if b, err := os.Lstat(src); err == nil && !c.opts.has('s') && os.SameFile(a, b) {
					c.errorf("'%s' and '%s' are the same file", src, dst)
					continue
				}
				os.Remove(dst)
			}
		}
		text, err := src, error(nil)
		if c.opts.has('s') {
			if c.opts.has('r') {
				a, _ := filepath.Abs(src)
				b, _ := filepath.Abs(filepath.Dir(dst))
				text, err = filepath.Rel(b, a)
			}
			if err == nil {
				err = os.Symlink(text, dst)
			}
		} else {
			err = os.Link(src, dst)
		}
		if err != nil {
			c.errorf("failed to create link '%s': %v", dst, reason(err))
		} else if c.opts.has('v') {
			fmt.Fprintf(c.out, "'%s' -> '%s'\n", dst, text)
		}
	}
}

func rm(c *command) {
	paths, ok := c.parse("dfiIrRv", "dir=d force=f recursive=r verbose=v")
	if !ok {
		return
	}
	force := c.opts.last("fi") == 'f'
	if len(paths) == 0 && !force {
		c.errorf("missing operand")
		return
	}
	for _, p := range paths {
		base := filepath.Base(p)
		if base == "." && p != "/" || base == ".." || strings.HasSuffix(p, "/.") || filepath.Clean(p) == "/" {
			c.errorf("refusing to remove '%s'", p)
			continue
		}
		c.remove(p, force)
	}
}

// remove removes a file or, with -r, a tree, one entry at a time.
func (c *command) remove(p string, force bool) {
	fi, err := os.Lstat(p)
	if err != nil {
		if !force || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			c.errorf("cannot remove '%s': %v", p, reason(err))
		}
		return
	}
	ask := c.opts.last("fi") == 'i'
	if fi.IsDir() {
		switch {
		case c.opts.has('r') || c.opts.has('R'):
			if ask && !confirm("rm: descend into directory '%s'? ", p) {
				return
			}
			es, err := os.ReadDir(p)
			if err != nil {
				c.errorf("cannot remove '%s': %v", p, reason(err))
				return
			}
			for _, e := range es {
				c.remove(filepath.Join(p, e.Name()), force)
			}
		case !c.opts.has('d'):
			c.errorf("cannot remove '%s': Is a directory", p)
			return
		}
	}
	if ask && !confirm("rm: remove '%s'? ", p) {
		return
	}
	if err := os.Remove(p); err != nil {
		if !force || !errors.Is(err, fs.ErrNotExist) {
			c.errorf("cannot remove '%s': %v", p, reason(err))
		}
	} else if c.opts.has('v') {
		fmt.Fprintf(c.out, "removed '%s'\n", p)
	}
}

// dd copies blocks. It understands the operands that scripts use.
func dd(c *command) {
	op := map[string]string{}
	for _, a := range c.args {
		k, v, ok := strings.Cut(a, "=")
		if !ok || !strings.Contains(" if of bs ibs obs count skip seek conv status iflag oflag ", " "+k+" ") {
			c.errorf("unrecognized operand '%s'", a)
			return
		}
		op[k] = v
	}
	num := func(k string, def int64) int64 {
		if op[k] == "" {
			return def
		}
		n, err := size(op[k])
		if err != nil || n < 0 {
			c.errorf("invalid number: '%s'", op[k])
		}
		return n
	}
	bs := num("bs", num("ibs", 512))
	count, skip, seek := num("count", -1), num("skip", 0), num("seek", 0)
	if c.status != 0 || bs < 1 || bs > 1<<30 {
		c.status = 1
		return
	}
	in, out := os.Stdin, os.Stdout
	var err error
	if op["if"] != "" {
		if in, err = os.Open(op["if"]); err != nil {
			c.errorf("failed to open '%s': %v", op["if"], reason(err))
			return
		}
	}
	conv := "," + op["conv"] + ","
	if op["of"] != "" {
		flags := os.O_WRONLY | os.O_CREATE
		if !strings.Contains(conv, ",notrunc,") && seek == 0 {
			flags |= os.O_TRUNC
		}
		if strings.Contains(op["oflag"], "append") {
			flags |= os.O_APPEND
		}
		if out, err = os.OpenFile(op["of"], flags, 0o666); err != nil {
			c.errorf("failed to open '%s': %v", op["of"], reason(err))
			return
		}
		if seek > 0 && !strings.Contains(conv, ",notrunc,") {
			out.Truncate(seek * bs)
		}
	}
	if skip > 0 {
		if _, err := in.Seek(skip*bs, io.SeekCurrent); err != nil {
			io.CopyN(io.Discard, in, skip*bs)
		}
	}
	if seek > 0 {
		out.Seek(seek*bs, io.SeekStart)
	}
	full := strings.Contains(op["iflag"], "fullblock")
	var inFull, inPart, outFull, outPart, total int64
	buf := make([]byte, bs)
	for n := int64(0); count < 0 || n < count; n++ {
		var m int
		if full {
			m, err = io.ReadFull(in, buf)
		} else {
			m, err = in.Read(buf)
		}
		if m > 0 {
			if int64(m) == bs {
				inFull++
			} else {
				inPart++
				if strings.Contains(conv, ",sync,") {
					clear(buf[m:])
					m = int(bs)
				}
			}
			if _, werr := out.Write(buf[:m]); werr != nil {
				c.errorf("error writing: %v", reason(werr))
				break
			}
			if int64(m) == bs {
				outFull++
			} else {
				outPart++
			}
			total += int64(m)
		}
		if err != nil {
			if err != io.EOF && err != io.ErrUnexpectedEOF {
				c.errorf("error reading: %v", reason(err))
			}
			break
		}
	}
	if strings.Contains(conv, "sync,") && strings.Contains(conv, "f") {
		out.Sync()
	}
	if err := out.Close(); err != nil {
		c.fail("output", err)
	}
	if op["status"] != "none" {
		fmt.Fprintf(os.Stderr, "%d+%d records in\n%d+%d records out\n", inFull, inPart, outFull, outPart)
		if op["status"] != "noxfer" {
			fmt.Fprintf(os.Stderr, "%d bytes copied\n", total)
		}
	}
}
