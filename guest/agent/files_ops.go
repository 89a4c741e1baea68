package agent

import (
	"context"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// fileSession is the handles of one session, or none and one operation.
type fileSession struct {
	files *files
	ctx   context.Context
	stop  context.CancelFunc

	mu      sync.Mutex // over an operation
	ended   bool
	handles map[uint32]*fileHandle
	chunk   *[]byte // what the response's data is in, until it was sent
}

func newFileSession(ctx context.Context, f *files) *fileSession {
	ctx, stop := context.WithCancel(ctx)
	return &fileSession{files: f, ctx: ctx, stop: stop, handles: map[uint32]*fileHandle{}}
}

// end stops what is under way and closes what is open.
func (s *fileSession) end() {
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for n, h := range s.handles {
		delete(s.handles, n)
		_ = h.close()
		_ = s.files.reserve(-1)
	}
}

// sent gives the response's buffer back.
func (s *fileSession) sent() {
	if s.chunk != nil {
		s.files.agent.chunks.put(s.chunk)
		s.chunk = nil
	}
}

func (s *fileSession) do(r *proto.FileRequest) *proto.FileResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &proto.FileResponse{}
	err := error(unix.ESHUTDOWN)
	if !s.ended {
		err = s.serve(r, resp)
	}
	if err != nil {
		resp.Failure = fileFailure(err)
	}
	return resp
}

func (s *fileSession) serve(r *proto.FileRequest, resp *proto.FileResponse) error {
	if n := r.GetHandle(); n != 0 && r.GetKind() != proto.FileRequest_OPEN {
		h := s.handles[n]
		if h == nil {
			return unix.EBADF
		}
		return s.onHandle(h, r, resp)
	}
	path, err := checkPath(r.GetPath())
	if err != nil {
		return err
	}
	switch r.GetKind() {
	case proto.FileRequest_SYMLINK:
		if len(r.GetTarget()) == 0 {
			return unix.ENOENT
		}
		return unwrapPath(os.Symlink(string(r.GetTarget()), path))
	case proto.FileRequest_RENAME, proto.FileRequest_LINK, proto.FileRequest_COPY:
		target, err := checkPath(r.GetTarget())
		if err != nil {
			return err
		}
		switch r.GetKind() {
		case proto.FileRequest_RENAME:
			return unwrapPath(os.Rename(path, target))
		case proto.FileRequest_LINK:
			return unwrapPath(os.Link(path, target))
		}
		c := treeCopy{ctx: s.ctx, keepOwner: r.GetKeepOwner(), keepSetuid: r.GetKeepSetuid()}
		return c.run(path, target)
	}
	return s.onPath(path, r, resp)
}

// onPath does what needs one name only.
func (s *fileSession) onPath(path string, r *proto.FileRequest, resp *proto.FileResponse) error {
	switch r.GetKind() {
	case proto.FileRequest_STAT:
		var st unix.Stat_t
		err := statPath(path, &st, r.GetNofollow())
		resp.Attr = fileAttr(&st)
		return err
	case proto.FileRequest_READLINK:
		target, err := os.Readlink(path)
		resp.Target = []byte(target)
		return unwrapPath(err)
	case proto.FileRequest_LIST:
		return s.listPath(path, resp)
	case proto.FileRequest_MKDIR:
		if r.GetAll() {
			return os.MkdirAll(path, goMode(r.GetMode()))
		}
		return unwrapPath(os.Mkdir(path, goMode(r.GetMode())))
	case proto.FileRequest_REMOVE:
		if r.GetAll() {
			return removeTree(s.ctx, path)
		}
		return unwrapPath(os.Remove(path))
	case proto.FileRequest_SET:
		return setPath(path, r.GetNofollow(), r.GetSet())
	case proto.FileRequest_TRUNCATE:
		return unwrapPath(os.Truncate(path, r.GetOffset()))
	case proto.FileRequest_READ_FILE:
		return s.readFile(path, r, resp)
	case proto.FileRequest_WRITE_FILE:
		return s.writeFile(path, r, resp)
	case proto.FileRequest_OPEN:
		return s.open(path, r, resp)
	}
	return unix.EINVAL
}

func statPath(path string, st *unix.Stat_t, nofollow bool) error {
	flags := 0
	if nofollow {
		flags = unix.AT_SYMLINK_NOFOLLOW
	}
	return ignoringEINTR(func() error { return unix.Fstatat(unix.AT_FDCWD, path, st, flags) })
}

// setPath and setFD change attributes.
func setPath(path string, nofollow bool, set *proto.FileSet) error {
	flags := 0
	if nofollow {
		flags = unix.AT_SYMLINK_NOFOLLOW
	}
	return setAt(unix.AT_FDCWD, path, flags, set)
}

func setFD(fd int, set *proto.FileSet) error {
	if err := setOwnerAndMode(set,
		func(uid, gid int) error { return unix.Fchown(fd, uid, gid) },
		func(mode uint32) error { return unix.Fchmod(fd, mode) }); err != nil {
		return err
	}
	return setTimes(fd, "", unix.AT_EMPTY_PATH, set)
}

func setAt(dir int, name string, flags int, set *proto.FileSet) error {
	if err := setOwnerAndMode(set,
		func(uid, gid int) error { return unix.Fchownat(dir, name, uid, gid, flags) },
		func(mode uint32) error { return unix.Fchmodat(dir, name, mode, flags) }); err != nil {
		return err
	}
	return setTimes(dir, name, flags, set)
}

func setOwnerAndMode(set *proto.FileSet, chown func(uid, gid int) error, chmod func(uint32) error) error {
	if set.GetHasOwner() {
		uid, gid := set.GetUid(), set.GetGid()
		// 2^32-1 would be "unchanged", which -1 asks for.
		if uid < -1 || gid < -1 || uid >= 1<<32-1 || gid >= 1<<32-1 {
			return unix.EINVAL
		}
		if err := ignoringEINTR(func() error { return chown(int(uid), int(gid)) }); err != nil {
			return err
		}
	}
	if set.GetHasMode() {
		return ignoringEINTR(func() error { return chmod(set.GetMode() & 0o7777) })
	}
	return nil
}

func setTimes(dir int, name string, flags int, set *proto.FileSet) error {
	if !set.GetHasAtime() && !set.GetHasMtime() {
		return nil
	}
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
	if set.GetHasAtime() {
		ts[0] = nsToTimespec(set.GetAtimeNs())
	}
	if set.GetHasMtime() {
		ts[1] = nsToTimespec(set.GetMtimeNs())
	}
	return ignoringEINTR(func() error { return unix.UtimesNanoAt(dir, name, ts, flags) })
}

// nsToTimespec keeps the nanoseconds positive before 1970 too, as the kernel
// wants them.
func nsToTimespec(ns int64) unix.Timespec {
	ts := unix.Timespec{Sec: ns / 1e9, Nsec: ns % 1e9}
	if ts.Nsec < 0 {
		ts.Sec--
		ts.Nsec += 1e9
	}
	return ts
}

func fileAttr(st *unix.Stat_t) *proto.FileAttr {
	return &proto.FileAttr{
		Mode: st.Mode, Size: st.Size, Uid: st.Uid, Gid: st.Gid,
		MtimeNs: st.Mtim.Nano(), AtimeNs: st.Atim.Nano(), CtimeNs: st.Ctim.Nano(),
		Ino: st.Ino, Dev: uint64(st.Dev), Nlink: uint64(st.Nlink), Rdev: uint64(st.Rdev), Blocks: st.Blocks,
	}
}

// goMode is a mode of the kernel's as Go has it.
func goMode(mode uint32) os.FileMode {
	return patchMode(&proto.PatchRequest{HasMode: true, Mode: mode}, 0)
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
