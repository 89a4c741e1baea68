package shell

import (
	"io"
	"strconv"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/syntax"
)

// commandSubst runs $( list ) and writes what it prints to w.
func (s *Shell) commandSubst(w io.Writer, cs *syntax.CmdSubst) error {
	if len(cs.Stmts) == 0 {
		s.substStatus = 0
		return nil
	}
	defer s.nested()()
	if file := onlyRead(cs.Stmts); file != nil { // $(<file)
		path, err := s.literal(file)
		if err != nil {
			return err
		}
		f, err := open(path, unix.O_RDONLY)
		if err != nil {
			s.errorf("%v", err)
			s.substStatus = 1
			return nil
		}
		defer f.release()
		s.substStatus = 0
		return readAll(f.fd, w)
	}
	if len(cs.Stmts) == 1 {
		if out, status, ok := s.pureOutput(cs.Stmts[0]); ok {
			io.WriteString(w, out)
			s.substStatus = status
			return nil
		}
	}
	r, pw, err := newPipe()
	if err != nil {
		return err
	}
	old := s.fds
	s.fds = old.clone()
	s.fds.set(1, pw)
	// Its children are not the terminal's job: they stay in our group.
	procs := s.launchStmts(cs.Stmts, &group{})
	s.fds.close()
	s.fds = old
	err = readAll(r.fd, w)
	r.release()
	status := s.status
	if len(procs) > 0 {
		status = s.finish(&job{procs: procs})
	}
	s.substStatus = status
	return err
}

// onlyRead returns the word of a lone "< word".
func onlyRead(stmts []*syntax.Stmt) *syntax.Word {
	if len(stmts) != 1 {
		return nil
	}
	st := stmts[0]
	if st.Cmd != nil || st.Negated || st.Background || len(st.Redirs) != 1 || st.Redirs[0].Op != syntax.RdrIn || st.Redirs[0].N != nil {
		return nil
	}
	return st.Redirs[0].Word
}

// processSubst runs <( list ) or >( list ) and returns the path that names its
// other end, a descriptor of the command being prepared.
func (s *Shell) processSubst(ps *syntax.ProcSubst) (string, error) {
	defer s.nested()()
	r, w, err := newPipe()
	if err != nil {
		return "", err
	}
	mine, theirs, n := r, w, 1
	if ps.Op == syntax.CmdOut {
		mine, theirs, n = w, r, 0
	}
	table := s.fds.clone()
	table.set(n, theirs)
	p, err := s.launch(ps.Stmts, table, &group{})
	table.close()
	if err != nil {
		mine.release()
		return "", err
	}
	s.lastBG = p.pid
	fd := 63
	for s.fds[fd] != nil {
		fd--
	}
	s.fds.set(fd, mine)
	s.procFDs = append(s.procFDs, fd)
	return "/proc/self/fd/" + strconv.Itoa(fd), nil
}
