package agent

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// outputGrace is how long the output of a command is waited for after the
// command itself has ended, when descendants keep its pipes open. What is in
// the pipes at the end of it is still delivered.
const outputGrace = 500 * time.Millisecond

// execution is one running command. The handler of its Exec call owns it; a
// goroutine each receives input, writes stdin, and reads stdout and stderr.
type execution struct {
	agent  *Agent
	stream proto.Agent_ExecServer
	ctx    context.Context // of the connection; of a kept command, nobody's
	start  *proto.ExecStart
	serial uint64 // unlike the ID, never used again
	pid    int
	since  time.Time // its start
	cgroup *cgroup   // nil without cgroup v2
	kept   *kept     // nil unless the command outlives its callers

	stdin  *os.File // nil: /dev/null
	stdout *output
	stderr *output // nil on a terminal
	master *os.File

	input    chan []byte   // stdin messages, at most a window; closed at EOF
	inputEOF bool          // by the receiving goroutine only
	done     chan struct{} // closed when the handler is about to return
	abort    func()        // ends the output pumps at once
}

// Exec implements the streaming call.
func (a *Agent) Exec(ctx context.Context, stream proto.Agent_ExecServer) (err error) {
	defer a.recovered("exec", &err)
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if r := first.GetAttach(); r != nil {
		return a.attach(ctx, stream, r)
	}
	start := first.GetStart()
	if start == nil {
		return statusInvalid("the first message of an exec must be its start, or an attach")
	}
	if err := validateStart(start); err != nil {
		return sendFailure(stream, err)
	}
	x := &execution{
		agent: a, stream: stream, ctx: ctx, start: start,
		input: make(chan []byte, proto.Window),
		done:  make(chan struct{}),
	}
	if start.GetKeep() {
		x.stream, x.ctx = nil, context.Background()
		return a.startKept(ctx, stream, x)
	}
	if err := a.admit(x); err != nil {
		return sendFailure(stream, err)
	}
	defer a.release(x)
	end, err := x.launch()
	if err != nil {
		a.ended(x)
		return sendFailure(stream, err)
	}
	if err := stream.Send(&proto.ExecOutput{Output: &proto.ExecOutput_Started{Started: &proto.ExecStarted{Pid: int32(x.pid)}}}); err != nil {
		x.kill()
		<-end
		x.removeCgroup()
		x.mainEnded(nil)
		return err
	}
	exit, err := x.supervise(end)
	x.removeCgroup()
	a.ended(x)
	defer x.mainEnded(exit)
	if err != nil {
		return err
	}
	return stream.Send(&proto.ExecOutput{Output: &proto.ExecOutput_Exit{Exit: exit}})
}

func sendFailure(stream proto.Agent_ExecServer, err error) error {
	return stream.Send(&proto.ExecOutput{Output: &proto.ExecOutput_Failure{Failure: asFailure(err).reply()}})
}

// launch makes the command's files and group, and starts it.
func (x *execution) launch() (<-chan exited, error) {
	cmd, err := x.agent.newCommand(x.start)
	if err != nil {
		return nil, err
	}
	files, err := x.openFiles(cmd)
	if err != nil {
		x.closeFiles()
		return nil, err
	}
	defer files.close()
	if x.kept != nil {
		x.kept.outputs()
	}
	if cg := x.agent.cgroups; cg != nil {
		if x.cgroup, err = cg.create("exec-" + x.start.GetId() + "." + strconv.FormatUint(x.serial, 10)); err != nil {
			x.closeFiles()
			return nil, &Error{Op: "create cgroup", Err: err}
		}
		cmd.cgroup = x.cgroup
	}
	pid, end, err := cmd.spawn(x.agent.reaper)
	if err != nil {
		x.closeFiles()
		x.removeCgroup()
		return nil, err
	}
	x.agent.started(x, pid)
	return end, nil
}

// supervise carries the streams until the command has ended and its output
// has been sent. An error means that the connection is gone; nothing of the
// command is left then.
func (x *execution) supervise(end <-chan exited) (*proto.ExecExit, error) {
	outCtx, abort := context.WithCancel(x.ctx)
	defer abort()
	x.abort = abort
	var pumps sync.WaitGroup
	pumps.Go(func() {
		defer x.caught("stdout")
		x.stdout.run(outCtx)
	})
	if x.stderr != nil {
		pumps.Go(func() {
			defer x.caught("stderr")
			x.stderr.run(outCtx)
		})
	}
	var writer sync.WaitGroup
	if x.kept == nil {
		writer.Go(x.writeStdin)
		// It ends with the call's context, right after the handler returns.
		go x.receive()
	}

	var timeout <-chan time.Time
	if d := x.start.GetTimeoutNs(); d > 0 {
		t := time.NewTimer(time.Duration(d))
		defer t.Stop()
		timeout = t.C
	}
	var e exited
	var timedOut bool
	gone := x.ctx.Done()
	for running := true; running; {
		select {
		case e = <-end:
			running = false
		case <-timeout:
			timedOut = true
			x.kill()
			timeout = nil
		case <-gone:
			x.kill()
			gone = nil
		}
	}
	close(x.done)
	if x.stdin != nil && x.stdin != x.master {
		x.stdin.Close() // a writer that waits for a descendant to read
	}
	x.stdout.end(outputGrace)
	if x.stderr != nil {
		x.stderr.end(outputGrace)
	}
	pumps.Wait()
	if x.master != nil {
		x.master.Close()
	}
	writer.Wait()
	if x.ctx.Err() != nil {
		x.kill() // what the command left behind when its caller went away
		return nil, x.ctx.Err()
	}
	return x.exit(e, timedOut), nil
}

func (x *execution) exit(e exited, timedOut bool) *proto.ExecExit {
	exit := &proto.ExecExit{
		Code:     int32(e.status.ExitStatus()),
		TimedOut: timedOut,
		UserNs:   e.usage.Utime.Nano(),
		SystemNs: e.usage.Stime.Nano(),
	}
	if e.status.Signaled() {
		exit.Signal = int32(e.status.Signal())
		exit.Code = 128 + exit.Signal
	}
	if x.cgroup != nil {
		exit.OomKilled = x.cgroup.oomKilled()
		if user, system, ok := x.cgroup.usage(); ok {
			exit.UserNs, exit.SystemNs = user.Nanoseconds(), system.Nanoseconds()
		}
	}
	return exit
}

// caught, deferred, keeps a panic of one of the execution's goroutines from
// ending the agent. It costs the command.
func (x *execution) caught(what string) {
	if p := recover(); p != nil {
		x.agent.log.Error("panic", "in", what, "value", fmt.Sprint(p), "stack", string(debug.Stack()))
		x.kill()
	}
}

// kill ends the command and all its descendants: whatever is in its cgroup.
// Without cgroup v2, its process group only.
func (x *execution) kill() {
	if x.cgroup != nil {
		if err := x.cgroup.kill(); err != nil {
			x.agent.log.Error("kill cgroup", "exec", x.start.GetId(), "err", err)
		}
	}
	_ = x.agent.reaper.signalGroup(x.pid, syscall.SIGKILL)
}

// signal sends a signal to the process group; SIGKILL to everything.
func (x *execution) signal(sig syscall.Signal) error {
	if sig == syscall.SIGKILL {
		x.kill()
		return nil
	}
	return x.agent.reaper.signalGroup(x.pid, sig)
}

func (x *execution) removeCgroup() {
	if x.cgroup != nil {
		x.cgroup.remove()
	}
}
