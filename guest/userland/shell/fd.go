package shell

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

// maxFD is the highest descriptor that a redirection may name, plus one.
const maxFD = 256

// openFile is a kernel descriptor shared by one or more table entries.
type openFile struct {
	fd   int
	refs int
}

// fdTable maps shell descriptors to kernel descriptors.
type fdTable map[int]*openFile

// inheritedFDs is the table at start: whatever is open and meant to survive an
// exec. The runtime's own descriptors are close-on-exec.
func inheritedFDs() fdTable {
	t := make(fdTable, 4)
	for fd := range 10 {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		t[fd] = &openFile{fd: fd, refs: 1}
		if fd > 2 {
			unix.CloseOnExec(fd) // children get it through the table
		}
	}
	return t
}

// clone returns a copy that shares the open files.
func (t fdTable) clone() fdTable {
	c := make(fdTable, len(t)+1)
	for n, f := range t {
		f.refs++
		c[n] = f
	}
	return c
}

// set makes shell descriptor n refer to f, whose reference it takes over.
func (t fdTable) set(n int, f *openFile) {
	if old := t[n]; old != nil {
		old.release()
	}
	if f == nil {
		delete(t, n)
		return
	}
	t[n] = f
}

func (t fdTable) close() {
	for n, f := range t {
		f.release()
		delete(t, n)
	}
}

func (f *openFile) release() {
	if f.refs--; f.refs == 0 {
		unix.Close(f.fd)
	}
}

// files returns the table in the form that a new process takes.
func (t fdTable) files() []uintptr {
	top := 2
	for n := range t {
		top = max(top, n)
	}
	list := make([]uintptr, top+1)
	for i := range list {
		list[i] = ^uintptr(0) // closed
		if f := t[i]; f != nil {
			list[i] = uintptr(f.fd)
		}
	}
	return list
}

func newPipe() (r, w *openFile, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	return &openFile{p[0], 1}, &openFile{p[1], 1}, nil
}

// open opens a file for a redirection.
func open(path string, flags int) (*openFile, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o666)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %s", path, message(err))
		}
		return &openFile{fd, 1}, nil
	}
}

// withRedirs runs body with the redirections applied. The bodies of exec
// without arguments keep them: body then returns true.
func (s *Shell) withRedirs(redirs []*syntax.Redirect, body func() (keep bool)) {
	if len(redirs) == 0 {
		body()
		return
	}
	old := s.fds
	s.fds = old.clone()
	for _, rd := range redirs {
		if err := s.redirect(rd); err != nil {
			s.fds.close()
			s.fds = old
			s.status = 1
			if !errors.Is(err, errReported) {
				s.errorf("%v", err)
			}
			return
		}
	}
	if body() {
		old.close()
		return
	}
	s.fds.close()
	s.fds = old
}

func (s *Shell) redirect(rd *syntax.Redirect) error {
	n := 1
	switch rd.Op {
	case syntax.RdrIn, syntax.RdrInOut, syntax.DplIn, syntax.Hdoc, syntax.DashHdoc, syntax.WordHdoc:
		n = 0
	}
	if rd.N != nil {
		v, err := strconv.Atoi(rd.N.Value)
		if err != nil || v >= maxFD {
			return fmt.Errorf("%s: bad file descriptor", rd.N.Value)
		}
		n = v
	}
	switch rd.Op {
	case syntax.Hdoc, syntax.DashHdoc:
		text, err := s.hereDoc(rd)
		if err != nil {
			return err
		}
		return s.redirectText(n, text)
	}
	arg, err := expand.Literal(s.cfg, rd.Word)
	if err != nil {
		return s.expandFailed(err)
	}
	var flags int
	switch rd.Op {
	case syntax.WordHdoc:
		return s.redirectText(n, arg+"\n")
	case syntax.DplIn, syntax.DplOut:
		return s.duplicate(rd, n, arg)
	case syntax.RdrIn:
		flags = unix.O_RDONLY
	case syntax.RdrInOut:
		flags = unix.O_RDWR | unix.O_CREAT
	case syntax.AppOut, syntax.AppAll:
		flags = unix.O_WRONLY | unix.O_CREAT | unix.O_APPEND
	case syntax.RdrOut, syntax.RdrClob, syntax.RdrAll:
		flags = unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC
		if s.opts.noclobber && rd.Op == syntax.RdrOut {
			if fi, err := os.Stat(arg); err == nil && fi.Mode().IsRegular() {
				return fmt.Errorf("%s: cannot overwrite existing file", arg)
			}
		}
	default:
		return fmt.Errorf("%v: unsupported redirection", rd.Op)
	}
	f, err := open(arg, flags)
	if err != nil {
		return err
	}
	s.fds.set(n, f)
	if rd.Op == syntax.RdrAll || rd.Op == syntax.AppAll {
		f.refs++
		s.fds.set(2, f)
	}
	return nil
}

// duplicate handles n<&arg and n>&arg.
func (s *Shell) duplicate(rd *syntax.Redirect, n int, arg string) error {
	if arg == "-" {
		s.fds.set(n, nil)
		return nil
	}
	m, err := strconv.Atoi(arg)
	if err != nil {
		if rd.Op == syntax.DplOut && rd.N == nil { // >&file is &>file
			f, err := open(arg, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC)
			if err != nil {
				return err
			}
			f.refs++
			s.fds.set(1, f)
			s.fds.set(2, f)
			return nil
		}
		return fmt.Errorf("%s: ambiguous redirect", arg)
	}
	f := s.fds[m]
	if f == nil {
		return fmt.Errorf("%d: bad file descriptor", m)
	}
	f.refs++
	s.fds.set(n, f)
	return nil
}

// redirectText makes n read text: from a pipe if it fits, so that nothing has
// to run beside the command, else from a memory file.
func (s *Shell) redirectText(n int, text string) error {
	if len(text) <= 4096 {
		r, w, err := newPipe()
		if err != nil {
			return err
		}
		err = writeAll(w.fd, text)
		w.release()
		if err != nil {
			r.release()
			return err
		}
		s.fds.set(n, r)
		return nil
	}
	fd, err := unix.MemfdCreate("here-document", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("here-document: %w", err)
	}
	f := &openFile{fd, 1}
	if err := writeAll(fd, text); err != nil {
		f.release()
		return fmt.Errorf("here-document: %w", err)
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		f.release()
		return err
	}
	s.fds.set(n, f)
	return nil
}
