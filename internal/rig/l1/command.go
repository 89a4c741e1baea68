package l1

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/rig/wire"
)

// grace is how long the output of a command may stay open after its first
// process has ended, before the rest of its cgroup is killed.
const grace = 500 * time.Millisecond

// command is one command from its Start frame to its Exit frame.
type command struct {
	srv    *server
	id     uint32
	spec   wire.Spec
	stdin  *wire.Receiver
	stdout *wire.Sender
	stderr *wire.Sender

	mu      sync.Mutex // guards what follows
	pid     int        // of the process group; 0 before the start and after the end
	cgroup  string     // its directory, or ""
	tty     *os.File   // the pty's master, or nil
	aborted bool
	pending unix.Signal // a signal that came before the start
}

func newCommand(s *server, id uint32, spec wire.Spec) *command {
	return &command{srv: s, id: id, spec: spec,
		stdin:  wire.NewReceiver(s.conn, id, wire.Stdin),
		stdout: wire.NewSender(s.conn, id, wire.Stdout),
		stderr: wire.NewSender(s.conn, id, wire.Stderr),
	}
}

// run runs the command to its end and returns how it ended.
func (c *command) run() wire.Exit {
	setClock(c.spec.UnixNano)
	if c.spec.Refresh {
		refresh()
	}
	st, err := c.openStdio()
	if err != nil {
		return wire.Exit{Code: 126, Error: err.Error()}
	}
	status, err := c.start(st)
	if err != nil {
		st.closeAll()
		code := 126
		if errors.Is(err, os.ErrNotExist) {
			code = 127
		}
		return wire.Exit{Code: code, Error: err.Error()}
	}
	st.closeTheirs()
	st.pump(c)
	ws := <-status
	st.finish(c)
	c.cleanUp()
	c.srv.flush()
	if ws.Signaled() {
		return wire.Exit{Signal: int(ws.Signal())}
	}
	return wire.Exit{Code: ws.ExitStatus()}
}

// start starts the process, in its cgroup from its first instruction.
func (c *command) start(st *stdio) (<-chan unix.WaitStatus, error) {
	env, dir := wire.Strings(c.spec.Env), string(c.spec.Dir)
	if len(c.spec.Args) == 0 || len(c.spec.Args[0]) == 0 {
		return nil, errors.New("no command")
	}
	makeRuntimeDir(env)
	if fi, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("working directory: %w", err)
	} else if !fi.IsDir() {
		return nil, fmt.Errorf("working directory: %s is not a directory", dir)
	}
	args := wire.Strings(c.spec.Args)
	path, err := lookPath(args[0], dir, env)
	if err != nil {
		return nil, err
	}
	attr := &syscall.ProcAttr{Dir: dir, Env: env, Files: st.fds(),
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: c.spec.TTY, Ctty: 0}}
	cgroup := fmt.Sprintf("%s/kvmrig-%d", cgroupRoot, c.id)
	if err := os.Mkdir(cgroup, 0o755); err == nil {
		d, err := os.Open(cgroup)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(d.Fd())
	} else {
		cgroup = ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cgroup = cgroup
	if c.aborted {
		return nil, errAborted
	}
	pid, status, err := c.srv.reaper.start(path, args, attr)
	if err != nil {
		if cgroup != "" {
			_ = os.Remove(cgroup)
		}
		return nil, &os.PathError{Op: "exec", Path: path, Err: err}
	}
	c.pid, c.tty = pid, st.master
	if c.pending != 0 {
		_ = unix.Kill(-pid, c.pending)
	}
	return status, c.srv.conn.SendJSON(wire.KindStarted, c.id, wire.Started{PID: pid, Now: monotonic()})
}

// makeRuntimeDir creates XDG_RUNTIME_DIR, because /run is L1's own and empty.
func makeRuntimeDir(env []string) {
	for _, kv := range env {
		if d, ok := strings.CutPrefix(kv, "XDG_RUNTIME_DIR="); ok && strings.HasPrefix(d, "/run/") {
			_ = os.MkdirAll(d, 0o700)
		}
	}
}

// lookPath finds an executable as a shell would, with the command's own PATH
// and relative to its own directory.
func lookPath(name, dir string, env []string) (string, error) {
	if strings.ContainsRune(name, '/') {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, executable(name)
	}
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	found := error(&os.PathError{Op: "find in PATH", Path: name, Err: os.ErrNotExist})
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		p := filepath.Join(d, name)
		err := executable(p)
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			found = err
		}
	}
	return "", found
}

func executable(path string) error {
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case fi.IsDir():
		return &os.PathError{Op: "exec", Path: path, Err: unix.EISDIR}
	case fi.Mode()&0o111 == 0:
		return &os.PathError{Op: "exec", Path: path, Err: unix.EACCES}
	}
	return nil
}

// signal sends sig to the process group; SIGKILL goes to the whole cgroup.
func (c *command) signal(sig unix.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.pid == 0:
		c.pending = sig
	case sig == unix.SIGKILL:
		c.kill()
	default:
		_ = unix.Kill(-c.pid, sig)
	}
}

// abort kills the command and stops carrying its streams.
func (c *command) abort() {
	c.stdin.Fail(errAborted)
	c.stdout.Fail(errAborted)
	c.stderr.Fail(errAborted)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.aborted = true
	c.kill()
}

// kill kills all of the command; called with c.mu held.
func (c *command) kill() {
	if c.pid != 0 {
		_ = unix.Kill(-c.pid, unix.SIGKILL)
	}
	if c.cgroup != "" {
		_ = os.WriteFile(c.cgroup+"/cgroup.kill", []byte("1"), 0)
	}
}

func (c *command) resize(rows, cols uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tty != nil {
		_ = setSize(c.tty, rows, cols)
	}
}

// killRest kills what the first process left behind.
func (c *command) killRest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kill()
}

// cleanUp removes the cgroup once it is empty.
func (c *command) cleanUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kill()
	c.pid, c.tty = 0, nil
	if c.cgroup == "" {
		return
	}
	for range 200 {
		if !errors.Is(removeCgroup(c.cgroup), unix.EBUSY) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	c.cgroup = ""
}

// removeCgroup removes a cgroup and those that the command made below it.
func removeCgroup(dir string) error {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(dir)
}
