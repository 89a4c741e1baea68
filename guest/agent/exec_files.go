package agent

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// childFiles are the descriptors that only the child needs.
type childFiles []int

func (c childFiles) close() {
	for _, fd := range c {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// openFiles makes the command's stdin, stdout and stderr: a terminal, or
// pipes. The agent's ends do not block; the child's do.
func (x *execution) openFiles(cmd *command) (childFiles, error) {
	if cmd.tty {
		t, err := openTerminal(x.start.GetRows(), x.start.GetCols(), cmd.account.uid)
		if err != nil {
			return nil, err
		}
		cmd.files = [3]int{t.slave, t.slave, t.slave}
		x.master = t.master
		x.stdin = t.master
		x.stdout = newOutput(t.master, &x.agent.chunks, x.sendStdout)
		x.stdout.keep = true
		return childFiles{t.slave}, nil
	}
	var child childFiles
	in, err := x.openStdin(int(cmd.account.uid))
	if err != nil {
		return nil, err
	}
	child = append(child, in)
	out, err := openPipe(int(cmd.account.uid))
	if err != nil {
		child.close()
		return nil, err
	}
	child = append(child, out.child)
	x.stdout = newOutput(out.ours, &x.agent.chunks, x.sendStdout)
	x.stdout.capture = x.captured(proto.StreamStdout)
	errs, err := openPipe(int(cmd.account.uid))
	if err != nil {
		child.close()
		return nil, err
	}
	child = append(child, errs.child)
	x.stderr = newOutput(errs.ours, &x.agent.chunks, x.sendStderr)
	x.stderr.capture = x.captured(proto.StreamStderr)
	cmd.files = [3]int{in, out.child, errs.child}
	return child, nil
}

// closeFiles closes the agent's ends after a failed start.
func (x *execution) closeFiles() {
	if x.stdin != nil {
		x.stdin.Close()
	}
	if x.stdout != nil {
		x.stdout.file.Close()
	}
	if x.stderr != nil {
		x.stderr.file.Close()
	}
}

func (x *execution) openStdin(uid int) (int, error) {
	if !x.start.GetStdin() {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, &Error{Op: "open", Path: "/dev/null", Err: err}
		}
		return fd, nil
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return -1, &Error{Op: "pipe", Err: err}
	}
	_ = unix.Fchown(p[0], uid, -1) // /dev/stdin can be opened again
	_ = unix.SetNonblock(p[1], true)
	x.stdin = os.NewFile(uintptr(p[1]), "stdin")
	return p[0], nil
}

// outputPipe is a pipe that the child writes.
type outputPipe struct {
	ours  *os.File
	child int
}

func openPipe(uid int) (outputPipe, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return outputPipe{}, &Error{Op: "pipe", Err: err}
	}
	_ = unix.Fchown(p[1], uid, -1) // /dev/stdout can be opened again
	_ = unix.SetNonblock(p[0], true)
	return outputPipe{ours: os.NewFile(uintptr(p[0]), "output"), child: p[1]}, nil
}
