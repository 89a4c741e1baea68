package agent

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// readFile answers with a whole small file, or the beginning of another.
func (s *fileSession) readFile(path string, r *proto.FileRequest, resp *proto.FileResponse) error {
	var st unix.Stat_t
	h, err := openHandle(path, &proto.FileRequest{Flags: uint32(proto.OpenFlag_OPEN_READ), Nofollow: r.GetNofollow()}, &st)
	if err != nil {
		return err
	}
	defer h.close()
	resp.Attr = fileAttr(&st)
	buf := s.files.agent.chunks.get()
	defer s.files.agent.chunks.put(buf)
	n := 0
	for n < len(*buf) {
		m, err := pread(h.fd, (*buf)[n:], int64(n))
		if err != nil {
			return err
		}
		if n += m; m == 0 {
			resp.Eof = true
			break
		}
	}
	if !resp.GetEof() {
		var one [1]byte
		m, err := pread(h.fd, one[:], int64(n))
		resp.Eof = m == 0 && err == nil
	}
	resp.Data = append([]byte(nil), (*buf)[:n]...)
	return nil
}

// writeFile writes a whole small file.
func (s *fileSession) writeFile(path string, r *proto.FileRequest, resp *proto.FileResponse) error {
	var st unix.Stat_t
	h, err := openHandle(path, r, &st)
	if err != nil {
		return err
	}
	n, err := h.write(r.GetData(), 0)
	resp.Written = uint32(n)
	switch {
	case err != nil:
	case r.GetTemp():
		err = h.commit(r.GetSet())
	case r.GetSet() != nil:
		err = setFD(h.fd, r.GetSet())
	}
	if closeErr := h.close(); err == nil {
		err = closeErr
	}
	return err
}

// Bounds of one piece of a listing: so many entries are read at once, and so
// many bytes of them sent.
const (
	listEntries = 256
	listBytes   = 48 << 10
)

// listPath answers with the beginning of a listing.
func (s *fileSession) listPath(path string, resp *proto.FileResponse) error {
	var st unix.Stat_t
	h, err := openHandle(path, &proto.FileRequest{Flags: uint32(proto.OpenFlag_OPEN_READ | proto.OpenFlag_OPEN_DIRECTORY)}, &st)
	if err != nil {
		return err
	}
	defer h.close()
	size := 0
	for !resp.GetEof() {
		entries := resp.Entries
		if err := h.listPiece(resp); err != nil {
			return err
		}
		for _, e := range resp.GetEntries() {
			size += entrySize(e)
		}
		resp.Entries = append(entries, resp.GetEntries()...)
		if size > listBytes {
			// The caller begins anew, with a handle.
			resp.Entries, resp.Eof = nil, false
			return nil
		}
	}
	return nil
}

// listPiece answers with the next entries of a directory.
func (h *fileHandle) listPiece(resp *proto.FileResponse) error {
	if h.list == nil {
		h.list = os.NewFile(uintptr(h.fd), "directory")
	}
	if len(h.entries) == 0 {
		names, err := h.list.Readdirnames(listEntries)
		if err != nil && !errors.Is(err, io.EOF) {
			return unwrapSyscall(err)
		}
		resp.Eof = errors.Is(err, io.EOF)
		for _, name := range names {
			var st unix.Stat_t
			err := ignoringEINTR(func() error { return unix.Fstatat(h.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed meanwhile
			}
			e := &proto.FileEntry{Name: []byte(name)}
			if err == nil {
				e.Attr = fileAttr(&st)
			}
			h.entries = append(h.entries, e)
		}
	}
	n, size := 0, 0
	for n < len(h.entries) {
		if size += entrySize(h.entries[n]); size > listBytes && n > 0 {
			break
		}
		n++
	}
	resp.Entries = h.entries[:n:n]
	if h.entries = h.entries[n:]; len(h.entries) == 0 {
		h.entries = nil
	}
	return nil
}

// entrySize bounds the encoded size of an entry: eleven numbers of ten bytes
// with their tags, and what is around them.
func entrySize(e *proto.FileEntry) int { return len(e.GetName()) + 150 }

// unwrapSyscall takes away what the os package adds.
func unwrapSyscall(err error) error {
	var se *os.SyscallError
	if errors.As(err, &se) {
		return se.Err
	}
	return unwrapPath(err)
}
