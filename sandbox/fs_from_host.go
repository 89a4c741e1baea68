package sandbox

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// CopyFromHost copies a file or a tree of the host's into the guest, to exactly
// dst, whose parent exists. A directory that exists is added to and keeps its
// attributes; a file or link that exists is replaced, a file once its copy is
// complete. Links of the source are never followed out of it. Holes stay holes.
// When it fails, what was complete by then stays.
func (f *FS) CopyFromHost(ctx context.Context, src, dst string, opt CopyOptions) error {
	if err := opt.check(); err != nil {
		return err
	}
	stat := os.Lstat
	if opt.FollowSource {
		stat = os.Stat
	}
	info, err := stat(src)
	if err != nil {
		return err
	}
	g, err := newGuestCopy(ctx, f, opt)
	if err != nil {
		return f.pathError("copy", dst, err)
	}
	defer g.session.Close()
	c := &fromHost{guestCopy: g}
	dst = string(guestPath(dst))
	switch info.Mode().Type() {
	case fs.ModeDir:
		err = c.tree(src, dst)
	case fs.ModeSymlink:
		var target string
		if target, err = os.Readlink(src); err == nil {
			err = c.link(target, dst, info)
		}
	case 0:
		var file *os.File
		if file, info, err = openPlain(os.OpenFile, src); err == nil {
			defer file.Close()
			err = c.file(file, dst, info)
		}
	default:
		err = opt.special(src)
	}
	if err == nil {
		err = c.settle(0)
	}
	if err != nil {
		c.abandon()
	}
	return err
}

// abandonTime bounds the wait for the guest to have removed a part of a file.
const abandonTime = 2 * time.Second

// abandon has the guest remove the part of a file that was being copied. It
// would do so by itself when the session ends, but then a little later than the
// copy returns.
func (c *fromHost) abandon() {
	if c.handle == 0 || c.ctx.Err() != nil {
		return
	}
	limit := time.AfterFunc(abandonTime, func() { c.session.Close() })
	defer limit.Stop()
	// That there is nothing to close is no matter.
	_, _ = c.session.Do(&proto.FileRequest{Kind: proto.FileRequest_CLOSE, Handle: c.handle})
}

// fromHost copies into the guest.
type fromHost struct {
	*guestCopy
	buf    []byte
	handle uint32 // the last one that was used
}

// tree copies a directory. It is walked beneath an open directory, so that what
// changes in it meanwhile cannot lead elsewhere. Directories get their
// attributes when everything is in them.
func (c *fromHost) tree(src, dst string) error {
	root, err := os.OpenRoot(src)
	if err != nil {
		return err
	}
	defer root.Close()
	type made struct {
		name string
		info fs.FileInfo
	}
	var dirs []made
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := c.ctx.Err(); err != nil {
			return c.fs.pathError("copy", dst, err)
		}
		info, err := root.Lstat(name)
		if err != nil {
			return err
		}
		target := path.Join(dst, name)
		switch info.Mode().Type() {
		case fs.ModeDir:
			isNew, err := c.dir(target, name == ".")
			if isNew {
				dirs = append(dirs, made{target, info})
			}
			return err
		case fs.ModeSymlink:
			to, err := root.Readlink(name)
			if err != nil {
				return err
			}
			return c.link(to, target, info)
		case 0:
			file, info, err := openPlain(root.OpenFile, name)
			if err != nil {
				return err
			}
			defer file.Close()
			return c.file(file, target, info)
		}
		return c.opt.special(filepath.Join(src, name))
	})
	for i := len(dirs) - 1; i >= 0 && err == nil; i-- {
		d := dirs[i]
		err = c.start(&proto.FileRequest{Kind: proto.FileRequest_SET, Path: []byte(d.name), Set: c.opt.guestSet(d.info)}, c.checked("chmod", d.name))
	}
	return err
}

// dir makes a directory, or finds one. The top one may be a link to it.
func (c *fromHost) dir(name string, top bool) (isNew bool, err error) {
	_, err = c.do("mkdir", name, &proto.FileRequest{Kind: proto.FileRequest_MKDIR, Path: []byte(name), Mode: 0o700})
	if !errors.Is(err, fs.ErrExist) {
		return err == nil, err
	}
	resp, err := c.do("lstat", name, &proto.FileRequest{Kind: proto.FileRequest_STAT, Path: []byte(name), Nofollow: !top})
	if err == nil && !goMode(resp.GetAttr().GetMode()).IsDir() {
		err = &fs.PathError{Op: "mkdir", Path: name, Err: syscall.ENOTDIR}
	}
	return false, err
}

func (c *fromHost) link(target, name string, info fs.FileInfo) error {
	r := &proto.FileRequest{Kind: proto.FileRequest_SYMLINK, Path: []byte(name), Target: []byte(target)}
	_, err := c.do("symlink", name, r)
	if errors.Is(err, fs.ErrExist) {
		resp, statErr := c.do("lstat", name, &proto.FileRequest{Kind: proto.FileRequest_STAT, Path: []byte(name), Nofollow: true})
		if statErr != nil || goMode(resp.GetAttr().GetMode()).IsDir() {
			return errors.Join(err, statErr)
		}
		if _, err := c.do("remove", name, &proto.FileRequest{Kind: proto.FileRequest_REMOVE, Path: []byte(name)}); err != nil {
			return err
		}
		_, err = c.do("symlink", name, r)
	}
	if err != nil {
		return err
	}
	return c.start(&proto.FileRequest{Kind: proto.FileRequest_SET, Path: []byte(name), Nofollow: true, Set: c.opt.guestSet(info)}, c.checked("chtimes", name))
}

// file copies one file: a small one in one request, any other piece by piece.
func (c *fromHost) file(f *os.File, name string, info fs.FileInfo) error {
	if len(name) > maxGuestName {
		return &fs.PathError{Op: "open", Path: name, Err: syscall.ENAMETOOLONG}
	}
	if c.buf == nil {
		c.buf = make([]byte, proto.MaxChunk)
	}
	if info.Size() < proto.MaxChunk {
		n, err := io.ReadFull(f, c.buf)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		if err != nil {
			return c.start(&proto.FileRequest{
				Kind: proto.FileRequest_WRITE_FILE, Path: []byte(name), Data: c.buf[:n], Temp: true, Set: c.opt.guestSet(info),
			}, c.checked("write", name))
		}
		// It has grown.
	}
	return c.large(f, name, info)
}

func (c *fromHost) large(f *os.File, name string, info fs.FileInfo) error {
	// Another handle than the one before, which may still be open.
	c.handle = c.handle%proto.MaxFileHandles + 1
	err := c.start(&proto.FileRequest{Kind: proto.FileRequest_OPEN, Path: []byte(name), Handle: c.handle, Temp: true}, c.checked("open", name))
	if err != nil {
		return err
	}
	var end int64
	for offset := int64(0); ; {
		data, err := f.Seek(offset, unix.SEEK_DATA)
		if errors.Is(err, syscall.ENXIO) {
			break
		}
		hole := int64(1<<63 - 1)
		if err != nil {
			// A file system that knows of no holes.
			if data, err = f.Seek(offset, io.SeekStart); err != nil {
				return err
			}
		} else if h, err := f.Seek(data, unix.SEEK_HOLE); err == nil && h > data {
			hole = h
		}
		if offset, err = c.extent(f, name, data, hole); err != nil {
			return err
		}
		end = offset
		if offset < hole {
			break
		}
	}
	if now, err := f.Stat(); err == nil {
		end = max(end, now.Size())
	}
	if err := c.start(&proto.FileRequest{Kind: proto.FileRequest_TRUNCATE, Handle: c.handle, Offset: end}, c.checked("truncate", name)); err != nil {
		return err
	}
	return c.start(&proto.FileRequest{Kind: proto.FileRequest_CLOSE, Handle: c.handle, Commit: true, Set: c.opt.guestSet(info)}, c.checked("close", name))
}

// extent sends what is between two offsets, or up to the end of the file, and
// says how far it came.
func (c *fromHost) extent(f *os.File, name string, from, end int64) (int64, error) {
	for from < end {
		n, err := f.ReadAt(c.buf[:min(end-from, int64(len(c.buf)))], from)
		if n > 0 {
			r := &proto.FileRequest{Kind: proto.FileRequest_WRITE, Handle: c.handle, Offset: from, Data: c.buf[:n]}
			if err := c.start(r, c.checked("write", name)); err != nil {
				return from, err
			}
			from += int64(n)
		}
		if err == io.EOF {
			return from, nil
		}
		if err != nil {
			return from, err
		}
	}
	return from, nil
}
