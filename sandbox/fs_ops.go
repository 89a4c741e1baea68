package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Stat follows links; Lstat does not follow the last one.
func (f *FS) Stat(ctx context.Context, name string) (fs.FileInfo, error) {
	return f.stat(ctx, "stat", name, false)
}

// Lstat is Stat of a link itself.
func (f *FS) Lstat(ctx context.Context, name string) (fs.FileInfo, error) {
	return f.stat(ctx, "lstat", name, true)
}

func (f *FS) stat(ctx context.Context, op, name string, nofollow bool) (fs.FileInfo, error) {
	resp, err := f.call(ctx, &proto.FileRequest{Kind: proto.FileRequest_STAT, Path: guestPath(name), Nofollow: nofollow})
	if err != nil {
		return nil, f.pathError(op, name, err)
	}
	return newFileInfo(name, resp.GetAttr()), nil
}

// Exists reports whether there is a file of that name, links followed.
func (f *FS) Exists(ctx context.Context, name string) (bool, error) {
	_, err := f.Stat(ctx, name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return false, nil
	}
	return err == nil, err
}

// path does a single operation that has a name and answers nothing.
func (f *FS) path(ctx context.Context, op, name string, r *proto.FileRequest) error {
	r.Path = guestPath(name)
	_, err := f.call(ctx, r)
	return f.pathError(op, name, err)
}

// Mkdir makes a directory.
func (f *FS) Mkdir(ctx context.Context, name string, perm fs.FileMode) error {
	return f.path(ctx, "mkdir", name, &proto.FileRequest{Kind: proto.FileRequest_MKDIR, Mode: unixMode(perm)})
}

// MkdirAll makes a directory and its parents. One that exists is fine.
func (f *FS) MkdirAll(ctx context.Context, name string, perm fs.FileMode) error {
	return f.path(ctx, "mkdir", name, &proto.FileRequest{Kind: proto.FileRequest_MKDIR, Mode: unixMode(perm), All: true})
}

// Remove removes a file or an empty directory.
func (f *FS) Remove(ctx context.Context, name string) error {
	return f.path(ctx, "remove", name, &proto.FileRequest{Kind: proto.FileRequest_REMOVE})
}

// RemoveAll removes a file or a directory with all that is in it; links are not
// followed. There being none is fine. The end of ctx stops it in the middle.
func (f *FS) RemoveAll(ctx context.Context, name string) error {
	if name == "" {
		return nil // as os has it
	}
	err := f.once(ctx, &proto.FileRequest{Kind: proto.FileRequest_REMOVE, Path: guestPath(name), All: true})
	return f.pathError("RemoveAll", name, err)
}

// Chmod changes permissions, and setuid, setgid and sticky bits.
func (f *FS) Chmod(ctx context.Context, name string, mode fs.FileMode) error {
	return f.path(ctx, "chmod", name, &proto.FileRequest{Kind: proto.FileRequest_SET, Set: &proto.FileSet{HasMode: true, Mode: unixMode(mode)}})
}

// Chown changes the owner, by number; -1 leaves it. It follows links, Lchown
// does not.
func (f *FS) Chown(ctx context.Context, name string, uid, gid int) error {
	return f.path(ctx, "chown", name, &proto.FileRequest{Kind: proto.FileRequest_SET, Set: ownerSet(uid, gid)})
}

// Lchown is Chown of a link itself.
func (f *FS) Lchown(ctx context.Context, name string, uid, gid int) error {
	return f.path(ctx, "lchown", name, &proto.FileRequest{Kind: proto.FileRequest_SET, Set: ownerSet(uid, gid), Nofollow: true})
}

func ownerSet(uid, gid int) *proto.FileSet {
	return &proto.FileSet{HasOwner: true, Uid: int64(uid), Gid: int64(gid)}
}

// Chtimes changes the times of access and modification; a zero time leaves it.
// Times are within the years 1678 to 2262.
func (f *FS) Chtimes(ctx context.Context, name string, atime, mtime time.Time) error {
	set := &proto.FileSet{}
	if err := setTime(&set.HasAtime, &set.AtimeNs, atime); err != nil {
		return f.pathError("chtimes", name, err)
	}
	if err := setTime(&set.HasMtime, &set.MtimeNs, mtime); err != nil {
		return f.pathError("chtimes", name, err)
	}
	return f.path(ctx, "chtimes", name, &proto.FileRequest{Kind: proto.FileRequest_SET, Set: set})
}

func setTime(has *bool, ns *int64, t time.Time) error {
	if t.IsZero() {
		return nil
	}
	if t.Before(time.Unix(0, math.MinInt64)) || t.After(time.Unix(0, math.MaxInt64)) {
		return syscall.EINVAL
	}
	*has, *ns = true, t.UnixNano()
	return nil
}

// Truncate changes the size of a file; what it grows by is a hole.
func (f *FS) Truncate(ctx context.Context, name string, size int64) error {
	return f.path(ctx, "truncate", name, &proto.FileRequest{Kind: proto.FileRequest_TRUNCATE, Offset: size})
}

// Rename gives a file another name, replacing what has it unless that is a
// directory.
func (f *FS) Rename(ctx context.Context, oldname, newname string) error {
	return f.two(ctx, "rename", oldname, newname, &proto.FileRequest{
		Kind: proto.FileRequest_RENAME, Path: guestPath(oldname), Target: guestPath(newname)})
}

// Link makes newname another name of the file oldname.
func (f *FS) Link(ctx context.Context, oldname, newname string) error {
	return f.two(ctx, "link", oldname, newname, &proto.FileRequest{
		Kind: proto.FileRequest_LINK, Path: guestPath(oldname), Target: guestPath(newname)})
}

// Symlink makes newname a symbolic link to oldname, which need not exist.
func (f *FS) Symlink(ctx context.Context, oldname, newname string) error {
	return f.two(ctx, "symlink", oldname, newname, &proto.FileRequest{
		Kind: proto.FileRequest_SYMLINK, Path: guestPath(newname), Target: []byte(oldname)})
}

func (f *FS) two(ctx context.Context, op, oldname, newname string, r *proto.FileRequest) error {
	_, err := f.call(ctx, r)
	return f.linkError(op, oldname, newname, err)
}

// Readlink returns where a symbolic link points.
func (f *FS) Readlink(ctx context.Context, name string) (string, error) {
	resp, err := f.call(ctx, &proto.FileRequest{Kind: proto.FileRequest_READLINK, Path: guestPath(name)})
	if err != nil {
		return "", f.pathError("readlink", name, err)
	}
	return string(resp.GetTarget()), nil
}

// Copy copies a file or a tree within the guest, to exactly dst: contents with
// their holes, permissions, times of modification, and symbolic links as links.
// A directory that exists is added to and keeps its attributes; a file that
// exists is replaced once its copy is complete. Anything but files, directories and links is an error.
// Of opt KeepOwner and KeepSetuid count.
func (f *FS) Copy(ctx context.Context, src, dst string, opt CopyOptions) error {
	err := f.once(ctx, &proto.FileRequest{
		Kind: proto.FileRequest_COPY, Path: guestPath(src), Target: guestPath(dst),
		KeepOwner: opt.KeepOwner, KeepSetuid: opt.KeepSetuid,
	})
	return f.pathError("copy", src, err)
}

// ReadDir lists a directory, sorted by name. What Info says of an entry is of
// that moment. At most [MaxReadDir] entries.
func (f *FS) ReadDir(ctx context.Context, name string) ([]fs.DirEntry, error) {
	resp, err := f.call(ctx, &proto.FileRequest{Kind: proto.FileRequest_LIST, Path: guestPath(name)})
	if err != nil {
		return nil, f.pathError("open", name, err)
	}
	if resp.GetEof() {
		list, err := dirEntries(resp.GetEntries())
		sortEntries(list)
		return list, f.pathError("readdir", name, err)
	}
	file, err := f.Open(ctx, name) // a large one
	if err != nil {
		return nil, err
	}
	defer file.Close()
	list, err := file.ReadDir(-1)
	sortEntries(list)
	return list, err
}

func sortEntries(list []fs.DirEntry) {
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
}

// dirEntries checks what the guest lists.
func dirEntries(list []*proto.FileEntry) ([]fs.DirEntry, error) {
	out := make([]fs.DirEntry, 0, len(list))
	for _, e := range list {
		name := string(e.GetName())
		if !validEntry(name) {
			return out, fmt.Errorf("the guest lists a name that cannot be: %.100q", name)
		}
		out = append(out, dirEntry{newFileInfo(name, e.GetAttr())})
	}
	return out, nil
}

func validEntry(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= maxGuestName && !strings.ContainsAny(name, "/\x00")
}

// dirEntry is an entry of a directory whose attributes are known.
type dirEntry struct{ info *fileInfo }

func (e dirEntry) Name() string               { return e.info.name }
func (e dirEntry) IsDir() bool                { return e.info.IsDir() }
func (e dirEntry) Type() fs.FileMode          { return e.info.Mode().Type() }
func (e dirEntry) Info() (fs.FileInfo, error) { return e.info, nil }
func (e dirEntry) String() string             { return fs.FormatDirEntry(e) }

// fileInfo is attributes as the guest told them.
type fileInfo struct {
	name string
	attr *proto.FileAttr
}

func newFileInfo(name string, attr *proto.FileAttr) *fileInfo {
	if i := strings.LastIndexByte(strings.TrimRight(name, "/"), '/'); i >= 0 {
		name = strings.TrimRight(name, "/")[i+1:]
	} else if t := strings.TrimRight(name, "/"); t != "" {
		name = t
	} else {
		name = "/"
	}
	return &fileInfo{name, attr}
}

func (i *fileInfo) Name() string       { return i.name }
func (i *fileInfo) Size() int64        { return max(i.attr.GetSize(), 0) }
func (i *fileInfo) Mode() fs.FileMode  { return goMode(i.attr.GetMode()) }
func (i *fileInfo) ModTime() time.Time { return time.Unix(0, i.attr.GetMtimeNs()) }
func (i *fileInfo) IsDir() bool        { return i.Mode().IsDir() }
func (i *fileInfo) String() string     { return fs.FormatFileInfo(i) }

// Sys returns a *syscall.Stat_t with the guest's numbers.
func (i *fileInfo) Sys() any {
	a := i.attr
	return &syscall.Stat_t{
		Dev: a.GetDev(), Ino: a.GetIno(), Nlink: a.GetNlink(), Mode: a.GetMode(), Uid: a.GetUid(), Gid: a.GetGid(),
		Rdev: a.GetRdev(), Size: a.GetSize(), Blocks: a.GetBlocks(), Blksize: 4096,
		Atim: syscall.NsecToTimespec(a.GetAtimeNs()), Mtim: syscall.NsecToTimespec(a.GetMtimeNs()), Ctim: syscall.NsecToTimespec(a.GetCtimeNs()),
	}
}

// goMode is a mode of the kernel's as Go has it.
func goMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	switch mode & syscall.S_IFMT {
	case syscall.S_IFREG:
	case syscall.S_IFDIR:
		m |= fs.ModeDir
	case syscall.S_IFLNK:
		m |= fs.ModeSymlink
	case syscall.S_IFIFO:
		m |= fs.ModeNamedPipe
	case syscall.S_IFSOCK:
		m |= fs.ModeSocket
	case syscall.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case syscall.S_IFBLK:
		m |= fs.ModeDevice
	default:
		m |= fs.ModeIrregular
	}
	if mode&syscall.S_ISUID != 0 {
		m |= fs.ModeSetuid
	}
	if mode&syscall.S_ISGID != 0 {
		m |= fs.ModeSetgid
	}
	if mode&syscall.S_ISVTX != 0 {
		m |= fs.ModeSticky
	}
	return m
}

// openFlags are the flags of package os as the protocol has them.
func openFlags(flag int) (uint32, error) {
	flags := proto.OpenFlag_OPEN_READ
	switch flag & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR) {
	case os.O_RDONLY:
	case os.O_WRONLY:
		flags = proto.OpenFlag_OPEN_WRITE
	case os.O_RDWR:
		flags |= proto.OpenFlag_OPEN_WRITE
	default:
		return 0, syscall.EINVAL
	}
	rest := flag &^ (os.O_RDONLY | os.O_WRONLY | os.O_RDWR)
	for bit, f := range map[int]proto.OpenFlag{
		os.O_APPEND: proto.OpenFlag_OPEN_APPEND, os.O_CREATE: proto.OpenFlag_OPEN_CREATE, os.O_EXCL: proto.OpenFlag_OPEN_EXCL,
		os.O_TRUNC: proto.OpenFlag_OPEN_TRUNC, os.O_SYNC: proto.OpenFlag_OPEN_SYNC,
	} {
		if rest&bit == bit {
			flags |= f
			rest &^= bit
		}
	}
	if rest != 0 {
		return 0, syscall.EINVAL
	}
	return uint32(flags), nil
}
