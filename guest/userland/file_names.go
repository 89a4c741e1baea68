package userland

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

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
