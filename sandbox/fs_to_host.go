package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// CopyToHost copies a file or a tree of the guest's to the host, to exactly dst,
// whose parent exists. A directory that exists is added to and keeps its
// attributes; a file or link that exists is replaced, never written through.
// A file has a temporary name until its copy is complete; when the copy fails,
// what was complete by then stays.
//
// Nothing outside dst is touched, whatever the guest does: links are made but
// not followed, and names are checked. The guest decides how much there is to
// copy; ctx and opt bound it.
func (f *FS) CopyToHost(ctx context.Context, src, dst string, opt CopyOptions) error {
	if err := opt.check(); err != nil {
		return err
	}
	if opt.KeepOwner && os.Geteuid() != 0 {
		return &ConfigError{[]FieldError{{"KeepOwner", "only root can give files to others; run as root, or copy without it"}}}
	}
	if opt.MaxEntries == 0 {
		opt.MaxEntries = defaultMaxEntries
	}
	g, err := newGuestCopy(ctx, f, opt)
	if err != nil {
		return f.pathError("copy", src, err)
	}
	defer g.session.Close()
	c := &toHost{guestCopy: g, src: string(guestPath(src))}
	resp, err := c.do("lstat", src, &proto.FileRequest{Kind: proto.FileRequest_STAT, Path: []byte(c.src), Nofollow: !opt.FollowSource})
	if err != nil {
		return err
	}
	info := newFileInfo(src, resp.GetAttr())
	if info.IsDir() {
		return c.tree(dst)
	}
	parent, base := filepath.Split(filepath.Clean(dst))
	if parent == "" {
		parent = "."
	}
	if !validEntry(base) {
		return &fs.PathError{Op: "copy", Path: dst, Err: syscall.EISDIR}
	}
	if c.root, err = os.OpenRoot(parent); err != nil {
		return err
	}
	defer c.root.Close()
	if err := c.entry(c.src, base, info, opt.FollowSource); err != nil {
		return err
	}
	return c.settle(0)
}

// toHost copies to the host, beneath root.
type toHost struct {
	*guestCopy
	src  string
	root *os.Root

	entries int
	bytes   int64
	names   int // bytes of the names of directories
	dirs    []guestDir
}

// guestDir is a directory: to be read, then to be given its attributes.
type guestDir struct {
	name  string // in root
	info  *fileInfo
	isNew bool
}

func (c *toHost) tree(dst string) error {
	top := filepath.Clean(dst)
	err := os.Mkdir(top, 0o700)
	isNew := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if c.root, err = os.OpenRoot(top); err != nil {
		return err
	}
	defer c.root.Close()
	resp, err := c.do("stat", c.src, &proto.FileRequest{Kind: proto.FileRequest_STAT, Path: []byte(c.src)})
	if err != nil {
		return err
	}
	c.dirs = []guestDir{{".", newFileInfo(".", resp.GetAttr()), isNew}}
	for i := 0; i < len(c.dirs); i++ { // it grows meanwhile
		if err := c.dir(c.dirs[i].name); err != nil {
			return err
		}
	}
	if err := c.settle(0); err != nil {
		return err
	}
	for i := len(c.dirs) - 1; i >= 0; i-- {
		if d := c.dirs[i]; d.isNew {
			if err := c.attributes(d.name, d.info); err != nil {
				return err
			}
		}
	}
	return nil
}

// attributes sets those of a directory.
func (c *toHost) attributes(name string, info *fileInfo) error {
	if c.opt.KeepOwner {
		if err := c.root.Lchown(name, int(info.attr.GetUid()), int(info.attr.GetGid())); err != nil {
			return err
		}
	}
	if err := c.root.Chmod(name, c.opt.mode(info.Mode())); err != nil {
		return err
	}
	return c.root.Chtimes(name, time.Time{}, info.ModTime())
}

// listHandle is the handle of the directory that is read, fileHandle that of a
// large file.
const (
	listHandle = 1
	fileHandle = 2
)

// dir copies the entries of one directory.
func (c *toHost) dir(name string) error {
	from := path.Join(c.src, name)
	_, err := c.do("open", from, &proto.FileRequest{
		Kind: proto.FileRequest_OPEN, Path: []byte(from), Handle: listHandle, Nofollow: name != "." || !c.opt.FollowSource,
		Flags: uint32(proto.OpenFlag_OPEN_READ | proto.OpenFlag_OPEN_DIRECTORY),
	})
	if err != nil {
		return err
	}
	for {
		resp, err := c.do("readdir", from, &proto.FileRequest{Kind: proto.FileRequest_LIST, Handle: listHandle})
		if err != nil {
			return err
		}
		list, err := dirEntries(resp.GetEntries())
		if err != nil {
			return &Error{c.fs.sandbox, "readdir " + from, err}
		}
		for _, e := range list {
			if err := c.entry(path.Join(from, e.Name()), path.Join(name, e.Name()), e.(dirEntry).info, false); err != nil {
				return err
			}
		}
		if resp.GetEof() {
			break
		}
		if c.entries++; c.entries > c.opt.MaxEntries { // of nothing, endlessly
			return c.tooMuch(errTooManyFiles)
		}
	}
	_, err = c.do("close", from, &proto.FileRequest{Kind: proto.FileRequest_CLOSE, Handle: listHandle})
	return err
}

func (c *toHost) tooMuch(err error) error {
	return &Error{c.fs.sandbox, "copy " + c.src, err}
}

// entry copies one thing. from is its name in the guest, name that in root.
func (c *toHost) entry(from, name string, info *fileInfo, follow bool) error {
	if err := c.ctx.Err(); err != nil {
		return c.fs.pathError("copy", from, err)
	}
	if c.entries++; c.entries > c.opt.MaxEntries {
		return c.tooMuch(errTooManyFiles)
	}
	if len(from) > maxGuestName {
		return &fs.PathError{Op: "copy", Path: from, Err: syscall.ENAMETOOLONG}
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		return c.subdir(name, info)
	case fs.ModeSymlink:
		resp, err := c.do("readlink", from, &proto.FileRequest{Kind: proto.FileRequest_READLINK, Path: []byte(from)})
		if err != nil {
			return err
		}
		return c.link(string(resp.GetTarget()), name, info)
	case 0:
		if info.Size() > proto.MaxChunk {
			return c.large(from, name, follow)
		}
		r := &proto.FileRequest{Kind: proto.FileRequest_READ_FILE, Path: []byte(from), Nofollow: !follow}
		return c.start(r, func(resp *proto.FileResponse, err error) error {
			if err != nil {
				return c.fs.pathError("open", from, err)
			}
			if !resp.GetEof() { // it has grown
				return c.large(from, name, follow)
			}
			return c.file(name, newFileInfo(name, resp.GetAttr()), func(f *os.File) error {
				var counted int64
				if err := c.count(resp.GetData(), 0, &counted); err != nil {
					return err
				}
				_, err := f.Write(resp.GetData())
				return err
			})
		})
	}
	return c.opt.special(from)
}

// diskBlock is what the disk gives a file at a time, on most.
const diskBlock = 4096

// count counts the blocks that a piece of a file takes, up to counted those of
// the pieces before it: a byte here and there takes a block each.
func (c *toHost) count(data []byte, offset int64, counted *int64) error {
	begin := max(offset&^(diskBlock-1), *counted)
	*counted = max((offset+int64(len(data))+diskBlock-1)&^(diskBlock-1), *counted)
	if c.bytes += *counted - begin; c.opt.MaxBytes > 0 && c.bytes > c.opt.MaxBytes {
		return c.tooMuch(errTooManyBytes)
	}
	return nil
}

func (c *toHost) subdir(name string, info *fileInfo) error {
	err := c.root.Mkdir(name, 0o700)
	isNew := err == nil
	if errors.Is(err, fs.ErrExist) {
		// A link to a directory is none.
		old, statErr := c.root.Lstat(name)
		if err = statErr; err == nil && !old.IsDir() {
			err = &fs.PathError{Op: "mkdir", Path: name, Err: syscall.ENOTDIR}
		}
	}
	if err != nil {
		return err
	}
	if c.names += len(name); c.names > maxListBytes {
		return c.tooMuch(errTooManyFiles)
	}
	c.dirs = append(c.dirs, guestDir{name, info, isNew})
	return nil
}

func (c *toHost) link(target, name string, info *fileInfo) error {
	temp := c.temporary(name)
	if err := c.root.Symlink(target, temp); err != nil {
		return err
	}
	var err error
	if c.opt.KeepOwner {
		err = c.root.Lchown(temp, int(info.attr.GetUid()), int(info.attr.GetGid()))
	}
	if err == nil {
		err = c.root.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, c.root.Remove(temp))
	}
	return nil
}

// temporary is a name beside another.
func (c *toHost) temporary(name string) string {
	return path.Join(path.Dir(name), ".sandpit-"+rand.Text())
}

// file makes a file. It has its name only when it is complete.
func (c *toHost) file(name string, info *fileInfo, fill func(*os.File) error) (err error) {
	temp := c.temporary(name)
	f, err := c.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.root.Remove(temp))
		}
	}()
	err = fill(f)
	if err == nil && c.opt.KeepOwner {
		err = f.Chown(int(info.attr.GetUid()), int(info.attr.GetGid()))
	}
	if err == nil {
		err = f.Chmod(c.opt.mode(info.Mode()))
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = c.root.Chtimes(temp, time.Time{}, info.ModTime())
	}
	if err == nil {
		err = c.root.Rename(temp, name)
	}
	return err
}

// large copies a file of any size; what is a hole stays one.
func (c *toHost) large(from, name string, follow bool) error {
	if err := c.settle(0); err != nil {
		return err
	}
	resp, err := c.session.Do(&proto.FileRequest{
		Kind: proto.FileRequest_OPEN, Path: []byte(from), Handle: fileHandle, Nofollow: !follow, Flags: uint32(proto.OpenFlag_OPEN_READ),
	})
	if err != nil {
		return c.fs.pathError("open", from, err)
	}
	err = c.file(name, newFileInfo(name, resp.GetAttr()), func(f *os.File) error {
		var counted int64
		end, err := readExtents(c.session, fileHandle, 0, func(data []byte, offset int64) error {
			if err := c.count(data, offset, &counted); err != nil {
				return err
			}
			_, err := f.WriteAt(data, offset)
			return err
		})
		var own readError
		if errors.As(err, &own) {
			return c.fs.pathError("read", from, own.err)
		}
		if err != nil {
			return err
		}
		return f.Truncate(end)
	})
	if err != nil {
		return err
	}
	_, err = c.session.Do(&proto.FileRequest{Kind: proto.FileRequest_CLOSE, Handle: fileHandle})
	return c.fs.pathError("close", from, err)
}
