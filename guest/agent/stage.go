package agent

import (
	"errors"
	"io"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
	pb "google.golang.org/protobuf/proto"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// StageName is argv[0] of the agent's binary when it is to run [Stage].
const StageName = "sandpit-exec"

// stageFD is the stage's end of the socketpair.
const stageFD = 3

// Stage is the short life of a child between fork and exec: it reads an
// ExecStart from descriptor 3, sets resource limits, identity and directory,
// and becomes the command. If that fails it writes a StartFailure and exits.
// It never returns.
func Stage() {
	// The memory limits set below leave no room for a profiler's tables.
	runtime.MemProfileRate = 0
	syscall.CloseOnExec(stageFD)
	answer, _ := pb.Marshal(asFailure(stage()).reply())
	// Limits of the command may be in force: no more than a write is safe.
	for len(answer) > 0 {
		n, err := syscall.Write(stageFD, answer)
		if err != nil && !errors.Is(err, unix.EINTR) {
			break
		}
		answer = answer[max(n, 0):]
	}
	os.Exit(127)
}

func stage() error {
	in := os.NewFile(stageFD, "stage")
	request, err := io.ReadAll(in)
	if err != nil {
		return &Error{Op: "read request", Err: err}
	}
	var start proto.ExecStart
	if err := pb.Unmarshal(request, &start); err != nil || len(start.GetArgs()) == 0 {
		return &Error{Op: "read request", Err: errString("malformed")}
	}
	limits, err := parseRlimits(start.GetRlimits())
	if err != nil {
		return err
	}
	acc, err := lookupAccount(start.GetUser(), "/etc/passwd", "/etc/group")
	if err != nil {
		return err
	}
	groups := make([]int, len(acc.groups))
	for i, g := range acc.groups {
		groups[i] = int(g)
	}
	// Raising a limit needs root; everything after it has the command's eyes.
	if err := setLimits(limits, func(l rlimit) bool { return !l.memory() }); err != nil {
		return err
	}
	if err := syscall.Setgroups(groups); err != nil {
		return fail(proto.StartFailure_OTHER, err, "set groups")
	}
	if err := syscall.Setgid(int(acc.gid)); err != nil {
		return fail(proto.StartFailure_OTHER, err, "set group %d", acc.gid)
	}
	if err := syscall.Setuid(int(acc.uid)); err != nil {
		return fail(proto.StartFailure_OTHER, err, "set user %d", acc.uid)
	}
	if err := syscall.Chdir(start.GetDir()); err != nil {
		return fail(proto.StartFailure_BAD_DIR, err, "working directory %s", start.GetDir())
	}
	path, err := lookPath(start.GetArgs()[0], getenv(start.GetEnv(), "PATH"), start.GetDir(), accessReal)
	if err != nil {
		return err
	}
	// A limit meant for the command may be less than this program has already:
	// from here on it should need no memory. The kernel starts these without a
	// limit, so nobody's root is needed to lower them.
	if err := setLimits(limits, rlimit.memory); err != nil {
		return err
	}
	return execFailure(path, syscall.Exec(path, start.GetArgs(), start.GetEnv()))
}

func setLimits(limits []rlimit, which func(rlimit) bool) error {
	for _, l := range limits {
		if !which(l) {
			continue
		}
		if err := syscall.Setrlimit(l.resource, &l.value); err != nil {
			return fail(proto.StartFailure_RLIMIT, err, "resource limit %s", l.name)
		}
	}
	return nil
}
