package shell

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

const subshellFlag = "--subshell-state="

type encoder struct{ bytes.Buffer }

func (e *encoder) int(n int) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(n))
	e.Write(b[:])
}

func (e *encoder) str(v string) {
	e.int(len(v))
	e.WriteString(v)
}

func (e *encoder) strs(list []string) {
	e.int(len(list))
	for _, v := range list {
		e.str(v)
	}
}

type decoder struct {
	data []byte
	err  error
}

func (d *decoder) int() int {
	if len(d.data) < 8 {
		d.err = io.ErrUnexpectedEOF
		return 0
	}
	n := int(binary.LittleEndian.Uint64(d.data))
	d.data = d.data[8:]
	return n
}

func (d *decoder) str() string {
	n := d.int()
	if n < 0 || n > len(d.data) {
		d.err = io.ErrUnexpectedEOF
		return ""
	}
	v := string(d.data[:n])
	d.data = d.data[n:]
	return v
}

func (d *decoder) count() int {
	n := d.int()
	if n < 0 || n > len(d.data) {
		d.err = io.ErrUnexpectedEOF
		return 0
	}
	return n
}

// encode writes the shell's state and the commands to run.
func (s *Shell) encode(body []*syntax.Stmt) ([]byte, error) {
	text, err := source(body)
	if err != nil {
		return nil, err
	}
	var e encoder
	e.str(s.name)
	e.int(s.pid)
	e.int(s.status)
	e.int(s.lastBG)
	e.int(len(s.frames))
	e.int(s.sources)
	e.int(s.noErrExit)
	pipefail := ""
	if s.opts.pipefail {
		pipefail = "p"
	}
	e.str(s.opts.letters())
	e.str(pipefail)
	e.int(len(s.params))
	for _, p := range s.params {
		e.str(p)
	}
	e.int(len(s.vars))
	for name, v := range s.vars {
		e.str(name)
		flags := ""
		for _, f := range []struct {
			on bool
			c  string
		}{{v.Set, "s"}, {v.Exported, "x"}, {v.ReadOnly, "r"}, {v.Local, "l"}} {
			if f.on {
				flags += f.c
			}
		}
		e.str(flags)
		e.int(int(v.Kind))
		e.str(v.Str)
		e.int(len(v.List))
		for _, el := range v.List {
			e.str(el)
		}
	}
	e.int(len(s.funcs))
	for name, f := range s.funcs {
		if f.text == "" {
			if f.text, err = source([]*syntax.Stmt{f.body}); err != nil {
				return nil, err
			}
		}
		e.str(name)
		e.str(f.text)
	}
	e.int(len(s.aliases))
	for k, v := range s.aliases {
		e.str(k)
		e.str(v)
	}
	var ignored []string
	for name, action := range s.traps {
		if action == "" {
			ignored = append(ignored, name)
		}
	}
	e.strs(ignored)
	e.str(text)
	return e.Bytes(), nil
}

// decode is the inverse of encode: it fills the shell and returns the commands.
func (s *Shell) decode(data []byte) (body string, err error) {
	d := &decoder{data: data}
	s.name = d.str()
	s.pid = d.int()
	s.status = d.int()
	s.lastBG = d.int()
	s.frames = make([]frame, min(d.count(), 1000))
	s.sources = d.int()
	s.noErrExit = d.int()
	for _, c := range []byte(d.str()) {
		if o := s.opts.byLetter(c); o != nil {
			*o = true
		}
	}
	s.opts.pipefail = d.str() != ""
	s.opts.monitor = false
	s.params = nil
	for range d.count() {
		s.params = append(s.params, d.str())
	}
	clear(s.vars)
	for range d.count() {
		name, flags := d.str(), d.str()
		v := expand.Variable{
			Set: strings.Contains(flags, "s"), Exported: strings.Contains(flags, "x"),
			ReadOnly: strings.Contains(flags, "r"), Local: strings.Contains(flags, "l"),
			Kind: expand.ValueKind(d.int()), Str: d.str(),
		}
		for range d.count() {
			v.List = append(v.List, d.str())
		}
		if v.Kind == expand.Indexed && v.List == nil {
			v.List = []string{}
		}
		s.vars[name] = v
	}
	for range d.count() {
		name, text := d.str(), d.str()
		f, err := syntax.NewParser().Parse(strings.NewReader(text), "")
		if err != nil || len(f.Stmts) != 1 {
			return "", fmt.Errorf("function %s: %w", name, errors.Join(err, io.ErrUnexpectedEOF))
		}
		s.funcs[name] = &function{body: f.Stmts[0], text: text}
	}
	for n := d.count(); n > 0; n-- {
		if s.aliases == nil {
			s.aliases = make(map[string]string, n)
		}
		k := d.str()
		s.aliases[k] = d.str()
	}
	for range d.count() {
		s.traps[d.str()] = ""
	}
	body = d.str()
	return body, d.err
}

// launch starts a subshell that runs body with the given descriptors.
func (s *Shell) launch(body []*syntax.Stmt, fds fdTable, g *group) (*process, error) {
	state, err := s.encode(body)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("sh-state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := &openFile{fd: fd, refs: 1}
	defer f.release()
	if err := writeAll(fd, string(state)); err != nil {
		return nil, err
	}
	table := fds.clone()
	defer table.close()
	n := 3
	for table[n] != nil {
		n++
	}
	f.refs++
	table.set(n, f)
	return s.start(selfPath(), []string{"sh", subshellFlag + strconv.Itoa(n)}, s.environment(), table, g)
}

// subshellMain is the child's side of launch.
func subshellMain(arg string) int {
	fd, err := strconv.Atoi(strings.TrimPrefix(arg, subshellFlag))
	if err != nil {
		return 2
	}
	var data bytes.Buffer
	s := newShell("sh")
	s.subshell = true
	if f := s.fds[fd]; f != nil {
		unix.Seek(f.fd, 0, unix.SEEK_SET)
		err = readAll(f.fd, &data)
		s.fds.set(fd, nil)
	} else { // above what newShell takes over
		unix.Seek(fd, 0, unix.SEEK_SET)
		err = readAll(fd, &data)
		unix.Close(fd)
	}
	var body string
	if err == nil {
		body, err = s.decode(data.Bytes())
	}
	if err != nil {
		return s.fail(2, "subshell: %v", err)
	}
	s.updateExpand()
	f, err := syntax.NewParser().Parse(strings.NewReader(body), s.name)
	if err != nil {
		return s.fail(2, "subshell: %v", err)
	}
	s.stmts(f.Stmts, true)
	return s.exit()
}

// subshellFG runs ( list ).
func (s *Shell) subshellFG(body []*syntax.Stmt) {
	g := s.newGroup(false)
	p, err := s.launch(body, s.fds, g)
	if err != nil {
		s.status = s.fail(2, "cannot start a subshell: %v", err)
		return
	}
	s.status = s.waitForeground([]*process{p}, g, "( … )")
}
