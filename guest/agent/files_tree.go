package agent

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// maxTreeDepth bounds the directories that are open at a time.
const maxTreeDepth = 512

// removeTree removes a file or a tree. There being none is no error. Links are
// not followed.
func removeTree(ctx context.Context, name string) error {
	if base := path.Base(name); base == "." || base == ".." || path.Clean(name) == "/" {
		return &fs.PathError{Op: "RemoveAll", Path: name, Err: unix.EINVAL}
	}
	return removeAt(ctx, unix.AT_FDCWD, name, name, 0)
}

// removeAt removes an entry of an open directory; whole is its full name.
func removeAt(ctx context.Context, dir int, name, whole string, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := ignoringEINTR(func() error { return unix.Unlinkat(dir, name, 0) })
	switch err {
	case nil, unix.ENOENT:
		return nil
	case unix.EISDIR, unix.EPERM, unix.EACCES, unix.EBUSY:
	default:
		return &fs.PathError{Op: "unlinkat", Path: whole, Err: err}
	}
	if err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.ENOTEMPTY && err != unix.EEXIST {
		return &fs.PathError{Op: "unlinkat", Path: whole, Err: err}
	}
	if depth >= maxTreeDepth {
		return &fs.PathError{Op: "unlinkat", Path: whole, Err: unix.ENAMETOOLONG}
	}
	if err := removeEntries(ctx, dir, name, whole, depth); err != nil {
		return err
	}
	if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		return &fs.PathError{Op: "unlinkat", Path: whole, Err: err}
	}
	return nil
}

func removeEntries(ctx context.Context, parent int, name, whole string, depth int) error {
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "openat", Path: whole, Err: err}
	}
	d := os.NewFile(uintptr(fd), whole)
	defer d.Close()
	// A directory that changes while it is read may skip entries; so it is read
	// until there is nothing in it.
	for {
		names, err := d.Readdirnames(listEntries)
		if err != nil && !errors.Is(err, io.EOF) {
			return &fs.PathError{Op: "readdirent", Path: whole, Err: unwrapSyscall(err)}
		}
		if len(names) == 0 {
			return nil
		}
		for _, n := range names {
			if err := removeAt(ctx, fd, n, whole+"/"+n, depth+1); err != nil {
				return err
			}
		}
		if _, err := d.Seek(0, io.SeekStart); err != nil {
			return &fs.PathError{Op: "seek", Path: whole, Err: unwrapSyscall(err)}
		}
	}
}

// treeCopy copies a file or a tree within the guest: contents with their holes,
// permissions and times, links as links. Files appear under their names when
// they are complete.
type treeCopy struct {
	ctx        context.Context
	keepOwner  bool
	keepSetuid bool
}

func (c *treeCopy) run(src, dst string) error {
	var st unix.Stat_t
	if err := statPath(src, &st, true); err != nil {
		return &fs.PathError{Op: "copy", Path: src, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := notWithin(dst, &st); err != nil {
			return &fs.PathError{Op: "copy", Path: dst, Err: err}
		}
	}
	return c.entry(src, dst, &st, 0)
}

// notWithin refuses a destination in, or the same as, the source. Where it is
// the kernel says, not its name, which may lead over symbolic links: from the
// directory up to the root.
func notWithin(dst string, src *unix.Stat_t) error {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	fd, err := openat(unix.AT_FDCWD, dst, flags)
	for name := dst; err != nil; { // the last directory that is there
		name = strings.TrimRight(name, "/")
		if name = name[:strings.LastIndexByte(name, '/')+1]; name == "" {
			return nil
		}
		fd, err = openat(unix.AT_FDCWD, name, flags)
	}
	defer func() { unix.Close(fd) }()
	var last unix.Stat_t
	for {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if st.Dev == src.Dev && st.Ino == src.Ino {
			return unix.EINVAL
		}
		if st.Dev == last.Dev && st.Ino == last.Ino { // the root is its own parent
			return nil
		}
		last = st
		up, err := openat(fd, "..", flags)
		if err != nil {
			return err
		}
		unix.Close(fd)
		fd = up
	}
}

// below is the name of an entry. A ".." after a symbolic link stays.
func below(dir, name string) string { return strings.TrimRight(dir, "/") + "/" + name }

func openat(dir int, name string, flags int) (fd int, err error) {
	err = ignoringEINTR(func() error {
		fd, err = unix.Openat(dir, name, flags, 0)
		return err
	})
	return fd, err
}

func (c *treeCopy) entry(src, dst string, st *unix.Stat_t, depth int) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	fail := func(err error) error {
		if pe := new(fs.PathError); err == nil || errors.As(err, &pe) {
			return err
		}
		return &fs.PathError{Op: "copy", Path: src, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return fail(c.file(src, dst))
	case unix.S_IFDIR:
		if depth >= maxTreeDepth {
			return fail(unix.ENAMETOOLONG)
		}
		return fail(c.dir(src, dst, st, depth))
	case unix.S_IFLNK:
		return fail(c.link(src, dst, st))
	}
	return fail(unix.EOPNOTSUPP)
}

func (c *treeCopy) dir(src, dst string, st *unix.Stat_t, depth int) error {
	err := unix.Mkdir(dst, 0o700)
	isNew := err == nil
	if err != nil {
		var old unix.Stat_t
		if err != unix.EEXIST {
			return &fs.PathError{Op: "mkdir", Path: dst, Err: err}
		}
		if err := statPath(dst, &old, depth > 0); err != nil || old.Mode&unix.S_IFMT != unix.S_IFDIR {
			return &fs.PathError{Op: "mkdir", Path: dst, Err: unix.ENOTDIR}
		}
	}
	d, err := os.OpenFile(src, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(listEntries)
		if err != nil && !errors.Is(err, io.EOF) {
			return &fs.PathError{Op: "readdirent", Path: src, Err: unwrapSyscall(err)}
		}
		if len(names) == 0 {
			break
		}
		for _, n := range names {
			var st unix.Stat_t
			from := below(src, n)
			if err := statPath(from, &st, true); err == unix.ENOENT {
				continue // removed meanwhile
			} else if err != nil {
				return &fs.PathError{Op: "lstat", Path: from, Err: err}
			}
			if err := c.entry(from, below(dst, n), &st, depth+1); err != nil {
				return err
			}
		}
	}
	if !isNew {
		return nil
	}
	if err := setPath(dst, false, c.attributes(st)); err != nil {
		return &fs.PathError{Op: "chmod", Path: dst, Err: err}
	}
	return nil
}

// attributes are what a copy gets of its source's.
func (c *treeCopy) attributes(st *unix.Stat_t) *proto.FileSet {
	mode := st.Mode & 0o7777
	if !c.keepSetuid {
		mode &^= unix.S_ISUID | unix.S_ISGID
	}
	return &proto.FileSet{
		HasOwner: c.keepOwner, Uid: int64(st.Uid), Gid: int64(st.Gid),
		HasMode: st.Mode&unix.S_IFMT != unix.S_IFLNK, Mode: mode,
		HasMtime: true, MtimeNs: st.Mtim.Nano(),
	}
}

func (c *treeCopy) link(src, dst string, st *unix.Stat_t) error {
	target, err := os.Readlink(src)
	if err != nil {
		return err
	}
	var old unix.Stat_t
	if err := statPath(dst, &old, true); err == nil && old.Mode&unix.S_IFMT != unix.S_IFDIR {
		if err := unix.Unlink(dst); err != nil {
			return &fs.PathError{Op: "unlink", Path: dst, Err: err}
		}
	}
	if err := unix.Symlink(target, dst); err != nil {
		return &fs.PathError{Op: "symlink", Path: dst, Err: err}
	}
	if err := setPath(dst, true, c.attributes(st)); err != nil {
		return &fs.PathError{Op: "chtimes", Path: dst, Err: err}
	}
	return nil
}

func (c *treeCopy) file(src, dst string) error {
	var st, made unix.Stat_t
	in, err := openHandle(src, &proto.FileRequest{Flags: uint32(proto.OpenFlag_OPEN_READ), Nofollow: true}, &st)
	if err != nil {
		return &fs.PathError{Op: "open", Path: src, Err: err}
	}
	defer in.close()
	out, err := openTemp(dst, &made)
	if err != nil {
		return &fs.PathError{Op: "open", Path: dst, Err: err}
	}
	defer out.close()
	if err := c.contents(in.fd, out.fd); err != nil {
		return err
	}
	if err := out.commit(c.attributes(&st)); err != nil {
		return &fs.PathError{Op: "rename", Path: dst, Err: err}
	}
	return nil
}

// copyPiece is how much is copied between two looks at the context.
const copyPiece = 4 << 20

// contents copies data and leaves holes.
func (c *treeCopy) contents(in, out int) error {
	var offset int64
	for {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		data, err := unix.Seek(in, offset, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		end := int64(1<<63 - 1)
		if err != nil {
			data = offset
		} else if hole, err := unix.Seek(in, data, unix.SEEK_HOLE); err == nil && hole > data {
			end = hole
		}
		if offset, err = c.extent(in, out, data, end); err != nil {
			return err
		}
		if offset < end { // the end of the file
			break
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(in, &st); err != nil {
		return err
	}
	return unix.Ftruncate(out, max(offset, st.Size))
}

// extent copies from one offset to another, or to the end of the file, and
// says how far it came.
func (c *treeCopy) extent(in, out int, from, end int64) (int64, error) {
	kernel := true // copies by itself
	var buf []byte
	for from < end {
		if err := c.ctx.Err(); err != nil {
			return from, err
		}
		if kernel {
			roff, woff := from, from
			n, err := unix.CopyFileRange(in, &roff, out, &woff, int(min(end-from, copyPiece)), 0)
			if err == unix.EINTR {
				continue
			}
			if err == nil && n > 0 {
				from += int64(n)
				continue
			}
			if err == unix.ENOSPC || err == unix.EDQUOT || err == unix.EFBIG || err == unix.EIO {
				return from, err
			}
			// Not between these two file systems, or nothing where there may be
			// something to read (/proc).
			kernel = false
			buf = make([]byte, proto.MaxChunk)
		}
		n, err := pread(in, buf[:min(end-from, int64(len(buf)))], from)
		if err != nil {
			return from, err
		}
		if n == 0 {
			return from, nil
		}
		h := fileHandle{fd: out}
		if _, err := h.write(buf[:n], from); err != nil {
			return from, err
		}
		from += int64(n)
	}
	return from, nil
}
