package agent

import (
	"crypto/rand"
	"errors"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// fileHandle is an open file or directory.
type fileHandle struct {
	fd     int
	append bool
	cursor int64 // of NEXT
	extent int64 // up to here from cursor on is data, as far as is known
	failed error // of a write; keeps it from being committed

	// A file that has a temporary name until it is committed: its directory,
	// the two names. dir is -1 otherwise.
	dir        int
	temp, name string

	list    *os.File           // of a directory that is being listed
	entries []*proto.FileEntry // read and not yet sent
}

// openFlags are those of the protocol as the kernel has them. Nothing waits,
// neither for the other end of a FIFO nor for a device.
func openFlags(r *proto.FileRequest) (int, error) {
	f := r.GetFlags()
	flags := unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY
	has := func(bit proto.OpenFlag) bool { return f&uint32(bit) != 0 }
	switch {
	case has(proto.OpenFlag_OPEN_READ) && has(proto.OpenFlag_OPEN_WRITE):
		flags |= unix.O_RDWR
	case has(proto.OpenFlag_OPEN_WRITE):
		flags |= unix.O_WRONLY
	case !has(proto.OpenFlag_OPEN_READ):
		return 0, unix.EINVAL
	}
	for bit, flag := range map[proto.OpenFlag]int{
		proto.OpenFlag_OPEN_APPEND: unix.O_APPEND, proto.OpenFlag_OPEN_CREATE: unix.O_CREAT,
		proto.OpenFlag_OPEN_EXCL: unix.O_EXCL, proto.OpenFlag_OPEN_TRUNC: unix.O_TRUNC,
		proto.OpenFlag_OPEN_SYNC: unix.O_SYNC, proto.OpenFlag_OPEN_DIRECTORY: unix.O_DIRECTORY,
	} {
		if has(bit) {
			flags |= flag
		}
	}
	if r.GetNofollow() {
		flags |= unix.O_NOFOLLOW
	}
	return flags, nil
}

// openHandle opens a file or directory. What is neither is not even opened,
// but for the devices of memory: to open others may do something.
func openHandle(name string, r *proto.FileRequest, st *unix.Stat_t) (*fileHandle, error) {
	if r.GetTemp() {
		return openTemp(name, st)
	}
	flags, err := openFlags(r)
	if err != nil {
		return nil, err
	}
	// These do not open what they should not.
	safe := flags&(unix.O_CREAT|unix.O_EXCL) == unix.O_CREAT|unix.O_EXCL || flags&unix.O_DIRECTORY != 0
	if err := statPath(name, st, r.GetNofollow()); err == nil && !safe && !openable(st) {
		return nil, unix.EOPNOTSUPP
	}
	var fd int
	if err := ignoringEINTR(func() (err error) {
		fd, err = unix.Open(name, flags, r.GetMode()&0o7777)
		return err
	}); err != nil {
		return nil, err
	}
	err = unix.Fstat(fd, st)
	if err == nil && !openable(st) { // it has become something else
		err = unix.EOPNOTSUPP
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &fileHandle{fd: fd, append: flags&unix.O_APPEND != 0, dir: -1}, nil
}

func openable(st *unix.Stat_t) bool {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
		return true
	case unix.S_IFLNK: // O_NOFOLLOW says the right thing
		return true
	case unix.S_IFCHR: // null, zero, full, random, urandom
		major, minor := unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
		return major == 1 && (minor == 3 || minor == 5 || minor == 7 || minor == 8 || minor == 9)
	}
	return false
}

// openTemp makes a file with a name of its own beside the one that it is to
// have.
func openTemp(name string, st *unix.Stat_t) (*fileHandle, error) {
	dirName, base := path.Split(name)
	if base == "" || base == "." || base == ".." {
		return nil, unix.EISDIR
	}
	dir, err := unix.Open(dirName, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	h := &fileHandle{dir: dir, name: base, temp: ".sandpit-" + rand.Text()}
	if err := unix.Fstatat(dir, base, st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		unix.Close(dir)
		return nil, unix.EISDIR
	}
	h.fd, err = unix.Openat(dir, h.temp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err == nil {
		if err = unix.Fstat(h.fd, st); err != nil {
			h.close()
			return nil, err
		}
		return h, nil
	}
	unix.Close(dir)
	return nil, err
}

// commit gives a file its attributes and its name.
func (h *fileHandle) commit(set *proto.FileSet) error {
	switch {
	case h.dir < 0:
		return unix.EINVAL
	case h.failed != nil:
		return h.failed
	}
	if err := setFD(h.fd, set); err != nil {
		return err
	}
	if err := unix.Renameat(h.dir, h.temp, h.dir, h.name); err != nil {
		return err
	}
	h.temp = ""
	return nil
}

// close closes the file; what was not committed is removed.
func (h *fileHandle) close() error {
	var err error
	if h.list != nil {
		err = h.list.Close() // it has the descriptor
	} else {
		err = unix.Close(h.fd)
	}
	if h.dir >= 0 {
		if h.temp != "" {
			err = errors.Join(err, unix.Unlinkat(h.dir, h.temp, 0))
		}
		unix.Close(h.dir)
	}
	return err
}

func (s *fileSession) open(name string, r *proto.FileRequest, resp *proto.FileResponse) error {
	n := r.GetHandle()
	if n == 0 || s.handles[n] != nil {
		return unix.EBADF
	}
	if err := s.files.reserve(1); err != nil {
		return err
	}
	var st unix.Stat_t
	h, err := openHandle(name, r, &st)
	if err != nil {
		_ = s.files.reserve(-1)
		return err
	}
	s.handles[n] = h
	resp.Attr = fileAttr(&st)
	return nil
}

func (s *fileSession) onHandle(h *fileHandle, r *proto.FileRequest, resp *proto.FileResponse) error {
	switch r.GetKind() {
	case proto.FileRequest_STAT:
		var st unix.Stat_t
		err := unix.Fstat(h.fd, &st)
		resp.Attr = fileAttr(&st)
		return err
	case proto.FileRequest_SET:
		return setFD(h.fd, r.GetSet())
	case proto.FileRequest_TRUNCATE:
		return h.note(ignoringEINTR(func() error { return unix.Ftruncate(h.fd, r.GetOffset()) }))
	case proto.FileRequest_SYNC:
		return h.note(ignoringEINTR(func() error { return unix.Fsync(h.fd) }))
	case proto.FileRequest_READ:
		return s.read(h, r.GetOffset(), r.GetLength(), resp)
	case proto.FileRequest_WRITE:
		n, err := h.write(r.GetData(), r.GetOffset())
		resp.Written = uint32(n)
		return h.note(err)
	case proto.FileRequest_SEEK:
		if r.GetOffset() < 0 {
			return unix.EINVAL
		}
		h.cursor, h.extent = r.GetOffset(), 0
		return nil
	case proto.FileRequest_NEXT:
		return s.next(h, r.GetLength(), resp)
	case proto.FileRequest_LIST:
		return h.listPiece(resp)
	case proto.FileRequest_CLOSE:
		delete(s.handles, r.GetHandle())
		defer s.files.reserve(-1)
		if r.GetCommit() {
			if err := h.commit(r.GetSet()); err != nil {
				h.close()
				return err
			}
		}
		return h.close()
	}
	return unix.EINVAL
}

// note remembers that a write has failed: what follows it may have been sent
// already.
func (h *fileHandle) note(err error) error {
	if err != nil && h.failed == nil {
		h.failed = err
	}
	return err
}

func (h *fileHandle) write(p []byte, offset int64) (int, error) {
	done := 0
	for done < len(p) {
		var n int
		err := ignoringEINTR(func() (err error) {
			if h.append {
				n, err = unix.Write(h.fd, p[done:])
			} else if n, err = unix.Pwrite(h.fd, p[done:], offset+int64(done)); err == unix.ESPIPE {
				n, err = unix.Write(h.fd, p[done:]) // of the kernel's: it has no offsets
			}
			return err
		})
		if err != nil {
			return done, err
		}
		if n <= 0 {
			return done, unix.EIO
		}
		done += n
	}
	return done, nil
}

// read answers with what one system call gives. No data is the end.
func (s *fileSession) read(h *fileHandle, offset int64, length uint32, resp *proto.FileResponse) error {
	if offset < 0 || length == 0 {
		return unix.EINVAL
	}
	if s.chunk == nil {
		s.chunk = s.files.agent.chunks.get()
	}
	buf := (*s.chunk)[:length]
	n, err := pread(h.fd, buf, offset)
	if err != nil {
		return err
	}
	resp.Data, resp.Offset, resp.Eof = buf[:n], offset, n == 0
	return nil
}

func pread(fd int, buf []byte, offset int64) (n int, err error) {
	err = ignoringEINTR(func() (err error) {
		if n, err = unix.Pread(fd, buf, offset); err == unix.ESPIPE {
			n, err = unix.Read(fd, buf)
		}
		return err
	})
	return max(n, 0), err
}

// next answers with the data at the cursor, or behind the hole there. File
// systems that know of no holes say that everything is data.
func (s *fileSession) next(h *fileHandle, length uint32, resp *proto.FileResponse) error {
	if length == 0 {
		return unix.EINVAL
	}
	if h.cursor >= h.extent {
		data, err := unix.Seek(h.fd, h.cursor, unix.SEEK_DATA)
		switch {
		case err == unix.ENXIO: // a hole up to the end, or behind it
			return endOf(h, resp)
		case err != nil || data < h.cursor: // a device has no offsets
			data, h.extent = h.cursor, 1<<63-1
		default:
			if h.extent, err = unix.Seek(h.fd, data, unix.SEEK_HOLE); err != nil || h.extent <= data {
				h.extent = 1<<63 - 1
			}
		}
		h.cursor = data
	}
	length = uint32(min(int64(length), h.extent-h.cursor))
	if err := s.read(h, h.cursor, length, resp); err != nil {
		return err
	}
	if resp.GetEof() {
		return endOf(h, resp)
	}
	h.cursor += int64(len(resp.GetData()))
	return nil
}

// endOf answers with the end of the file. One whose size is not known in
// advance, as in /proc, ends where reading did.
func endOf(h *fileHandle, resp *proto.FileResponse) error {
	var st unix.Stat_t
	if err := unix.Fstat(h.fd, &st); err != nil {
		return err
	}
	h.cursor = max(h.cursor, st.Size)
	resp.Eof, resp.Offset = true, h.cursor
	return nil
}
