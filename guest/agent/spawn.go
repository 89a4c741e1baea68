package agent

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
	pb "google.golang.org/protobuf/proto"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// command is a validated request with everything filled in.
type command struct {
	start   *proto.ExecStart // env, dir and rlimits merged with the defaults
	account account
	files   [3]int // stdin, stdout, stderr of the child
	tty     bool
	cgroup  *cgroup
}

// newCommand resolves the user and lays the defaults under a request.
func (a *Agent) newCommand(s *proto.ExecStart) (*command, error) {
	acc, err := lookupAccount(s.GetUser(), "/etc/passwd", "/etc/group")
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	env, limits, scripts := a.defaultEnv, a.defaultRlimits, a.scripts
	a.mu.Unlock()
	base := []string{"PATH=" + defaultPath, "HOME=" + acc.home}
	if acc.name != "" {
		base = append(base, "USER="+acc.name, "LOGNAME="+acc.name)
	}
	if s.GetTty() {
		base = append(base, "TERM=xterm-256color")
	}
	full := &proto.ExecStart{
		Id: s.GetId(), Args: s.GetArgs(), Dir: s.GetDir(), User: s.GetUser(), Tty: s.GetTty(),
		Env:     mergeEnv(base, env, s.GetEnv()),
		Rlimits: append(limits[:len(limits):len(limits)], s.GetRlimits()...),
	}
	if scripts {
		full.Env = scriptsFirst(full.Env)
	}
	if full.Dir == "" {
		full.Dir = "/"
	}
	return &command{start: full, account: acc, tty: s.GetTty()}, nil
}

// spawn starts the command as a child of r, leader of a session of its own.
//
// The kernel does all of it in one fork, unless resource limits are asked for:
// those are set by a stage of the agent's own binary in between. The stage is
// also asked when the direct way has failed, for it can tell the reasons
// apart: it looks at the guest's files with the command's own identity.
func (c *command) spawn(r *reaper) (int, <-chan exited, error) {
	if len(c.start.GetRlimits()) == 0 {
		path, err := lookPath(c.start.GetArgs()[0], getenv(c.start.GetEnv(), "PATH"), c.start.GetDir(), accessMode)
		if err == nil {
			pid, end, err := r.start(func() (int, error) { return c.forkDirect(path) })
			if err == nil {
				return pid, end, nil
			}
		}
	}
	return c.spawnStaged(r)
}

func (c *command) sysProcAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if c.tty {
		attr.Setctty = true // of descriptor 0
	}
	if c.cgroup != nil {
		attr.UseCgroupFD = true
		attr.CgroupFD = int(c.cgroup.dir.Fd())
	}
	return attr
}

func (c *command) forkDirect(path string) (int, error) {
	attr := c.sysProcAttr()
	attr.Credential = &syscall.Credential{Uid: c.account.uid, Gid: c.account.gid, Groups: c.account.groups}
	return syscall.ForkExec(path, c.start.GetArgs(), &syscall.ProcAttr{
		Dir:   c.start.GetDir(),
		Env:   c.start.GetEnv(),
		Files: []uintptr{uintptr(c.files[0]), uintptr(c.files[1]), uintptr(c.files[2])},
		Sys:   attr,
	})
}

// spawnStaged starts the stage (stage.go), hands it the request over a
// socketpair, and reads its answer: nothing if it became the command.
func (c *command) spawnStaged(r *reaper) (int, <-chan exited, error) {
	request, err := pb.Marshal(c.start)
	if err != nil {
		return 0, nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, err
	}
	ours := os.NewFile(uintptr(pair[0]), "stage")
	defer ours.Close()
	pid, end, err := r.start(func() (int, error) {
		return syscall.ForkExec("/proc/self/exe", []string{StageName}, &syscall.ProcAttr{
			Dir:   "/",
			Env:   []string{"GOMAXPROCS=1", "GOGC=off"},
			Files: []uintptr{uintptr(c.files[0]), uintptr(c.files[1]), uintptr(c.files[2]), uintptr(pair[1])},
			Sys:   c.sysProcAttr(),
		})
	})
	unix.Close(pair[1])
	if err != nil {
		return 0, nil, &Error{Op: "start the exec stage", Err: err}
	}
	_, writeErr := ours.Write(request)
	_ = unix.Shutdown(int(ours.Fd()), unix.SHUT_WR)
	answer, readErr := io.ReadAll(io.LimitReader(ours, 64<<10))
	if len(answer) == 0 && writeErr == nil && readErr == nil {
		return pid, end, nil
	}
	<-end // the stage ends after a failure
	if err := errors.Join(writeErr, readErr); err != nil {
		return 0, nil, &Error{Op: "talk to the exec stage", Err: err}
	}
	var f proto.StartFailure
	if err := pb.Unmarshal(answer, &f); err != nil {
		return 0, nil, &Error{Op: "answer of the exec stage", Err: err}
	}
	return 0, nil, &failure{kind: f.GetKind(), message: f.GetMessage(), errno: syscall.Errno(f.GetErrno())}
}
