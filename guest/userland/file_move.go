package userland

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

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
