package flatten

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/ociroot/erofs"
)

// Tree adds a directory of the host on top of what is there, as a layer without
// whiteouts: names mean what they are. The directory's own attributes become the
// root's. No symbolic link is followed, and nothing outside of the directory is
// read, whoever renames things meanwhile. Directories where other file systems
// are mounted come empty, sockets not at all. A file that changes while it is
// read is an error, ErrChanged.
func (b *Builder) Tree(ctx context.Context, root *os.File) error {
	if err := b.begin(); err != nil {
		return err
	}
	h := hostDir{ctx: ctx, b: b, inodes: map[inode]erofs.NodeID{}}
	c, err := root.SyscallConn()
	if err != nil {
		return b.fail("", err)
	}
	if cerr := c.Control(func(fd uintptr) { err = h.walk(int(fd)) }); cerr != nil {
		err = cerr
	}
	return b.fail(h.at, err)
}

// inode is a file of the host that may have more names.
type inode struct{ dev, ino uint64 }

// hostDir is a directory of the host being read.
type hostDir struct {
	ctx    context.Context
	b      *Builder
	root   int
	inodes map[inode]erofs.NodeID
	at     string // for errors
	buf    []byte
}

// subdir is a directory to be read.
type subdir struct {
	path  string
	entry uint32
}

const (
	openFlags = unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY
	beneath   = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
)

// open opens a file beneath dir, and follows no link. It leaves the time of the
// last access alone if it may: only the owner may.
func open(dir int, name string, flags int, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_NOATIME), Resolve: beneath | resolve}
	for {
		fd, err := unix.Openat2(dir, name, &how)
		switch {
		case err == unix.EPERM && how.Flags&unix.O_NOATIME != 0:
			how.Flags &^= unix.O_NOATIME
		case err == unix.EINTR, err == unix.EAGAIN: // something was renamed while the kernel looked
		default:
			return fd, err
		}
	}
}

func (h *hostDir) walk(root int) error {
	h.root = root
	h.at = "."
	fd, err := open(root, ".", openFlags|unix.O_DIRECTORY, 0)
	if err != nil {
		return os.NewSyscallError("openat2", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("fstat", err)
	}
	attr, err := h.attr(&st, fd, "")
	unix.Close(fd)
	if err != nil {
		return err
	}
	h.b.tree.touch(rootEntry)
	if err := h.b.w.SetAttr(h.b.tree.at(rootEntry).node, attr); err != nil {
		return err
	}
	for stack := []subdir{{".", rootEntry}}; len(stack) > 0; {
		d := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		below, err := h.readDir(d)
		if err != nil {
			return err
		}
		slices.Reverse(below)
		stack = append(stack, below...)
	}
	h.at = ""
	return nil
}

// readDir adds a directory's entries, in the order of their names, and returns
// its subdirectories.
func (h *hostDir) readDir(d subdir) ([]subdir, error) {
	h.at = d.path
	fd, err := open(h.root, d.path, openFlags|unix.O_DIRECTORY, unix.RESOLVE_NO_XDEV)
	if err == unix.EXDEV {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("openat2", err)
	}
	f := os.NewFile(uintptr(fd), d.path)
	defer f.Close()
	names, err := h.names(f)
	if err != nil {
		return nil, err
	}
	var below []subdir
	for _, name := range names {
		h.at = path.Join(d.path, name)
		if err := h.ctx.Err(); err != nil {
			return nil, err
		}
		isDir, err := h.add(fd, d.entry, name)
		if err != nil {
			return nil, err
		}
		if isDir {
			below = append(below, subdir{h.at, h.b.tree.lookup(d.entry, []byte(name))})
		}
	}
	return below, nil
}

// names reads a directory, and sorts and counts what it holds.
func (h *hostDir) names(f *os.File) ([]string, error) {
	var names []string
	for {
		more, err := f.Readdirnames(1 << 12)
		for range more {
			if err := h.b.count(); err != nil {
				return nil, err
			}
		}
		names = append(names, more...)
		switch {
		case err == io.EOF:
			slices.Sort(names)
			return names, nil
		case err != nil:
			return nil, err
		}
	}
}

// add adds an entry of a directory, and says if it is a subdirectory.
func (h *hostDir) add(dirfd int, dir uint32, name string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, os.NewSyscallError("fstatat", err)
	}
	key := inode{st.Dev, st.Ino}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if id, ok := h.inodes[key]; ok && !isDir {
		return false, h.b.put(dir, []byte(name), id, nil)
	}
	var id erofs.NodeID
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		id, err = h.file(dirfd, name, &st)
	case unix.S_IFDIR:
		attr, err := h.openAttr(dirfd, name, &st)
		if err != nil {
			return false, err
		}
		return true, h.b.putDir(dir, []byte(name), attr)
	case unix.S_IFLNK:
		id, err = h.symlink(dirfd, name, &st)
	case unix.S_IFSOCK:
		h.b.stats.Sockets++
		return false, nil
	default:
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
			return false, nil // overlayfs' whiteout
		}
		var attr erofs.Attr
		if attr, err = h.attr(&st, dirfd, name); err == nil {
			attr.Mode = uint16(st.Mode)
			var ok bool
			if attr.Rdev, ok = erofs.MakeDev(unix.Major(st.Rdev), unix.Minor(st.Rdev)); !ok {
				return false, fmt.Errorf("device number %#x", st.Rdev)
			}
			id, err = h.b.w.AddSpecial(attr)
		}
	}
	if err == nil && st.Nlink > 1 {
		h.inodes[key] = id
	}
	return false, h.b.put(dir, []byte(name), id, err)
}

// file adds a regular file, as it is once open.
func (h *hostDir) file(dirfd int, name string, st *unix.Stat_t) (erofs.NodeID, error) {
	fd, err := open(dirfd, name, openFlags, 0)
	if err != nil {
		return 0, os.NewSyscallError("openat2", err)
	}
	defer unix.Close(fd)
	before := *st
	if err := unix.Fstat(fd, st); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Dev != before.Dev || st.Ino != before.Ino {
		return 0, ErrChanged
	}
	attr, err := h.attr(st, fd, "")
	if err != nil {
		return 0, err
	}
	b := h.b
	if st.Size > b.limits.Bytes-b.bytes {
		return 0, &LimitError{"Bytes", b.limits.Bytes}
	}
	b.bytes += st.Size
	r := &hostFile{ctx: h.ctx, fd: fd}
	data, err := b.w.WriteData(r, st.Size)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, fmt.Errorf("%w: it became shorter", ErrChanged)
	}
	if err != nil {
		return 0, err
	}
	var after unix.Stat_t
	if err := unix.Fstat(fd, &after); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	if after.Mtim != st.Mtim || after.Size != st.Size {
		return 0, ErrChanged
	}
	return b.w.AddFile(attr, data)
}

// hostFile reads a descriptor.
type hostFile struct {
	ctx context.Context
	fd  int
	off int64
}

func (f *hostFile) Read(p []byte) (int, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	for {
		n, err := unix.Pread(f.fd, p, f.off)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, os.NewSyscallError("pread", err)
		case n == 0:
			return 0, io.EOF
		}
		f.off += int64(n)
		return n, nil
	}
}

func (h *hostDir) symlink(dirfd int, name string, st *unix.Stat_t) (erofs.NodeID, error) {
	buf := make([]byte, pathMax+1)
	n, err := unix.Readlinkat(dirfd, name, buf)
	if err != nil {
		return 0, os.NewSyscallError("readlinkat", err)
	}
	attr, err := h.attr(st, dirfd, name)
	if err != nil {
		return 0, err
	}
	return h.b.w.AddSymlink(attr, buf[:n])
}

// openAttr is the attributes of a directory.
func (h *hostDir) openAttr(dirfd int, name string, st *unix.Stat_t) (erofs.Attr, error) {
	fd, err := open(dirfd, name, openFlags|unix.O_DIRECTORY, 0)
	if err != nil {
		return erofs.Attr{}, os.NewSyscallError("openat2", err)
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, st); err != nil {
		return erofs.Attr{}, os.NewSyscallError("fstat", err)
	}
	return h.attr(st, fd, "")
}
