package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// ExecInfo is a command that runs in a sandbox.
type ExecInfo struct {
	// ID finds it for Reattach if it is Kept.
	ID string
	// PID is its process ID in the guest.
	PID int
	// Args is its command line; a long one is cut off.
	Args []string
	// TTY: it has a terminal.
	TTY bool
	// Kept: it outlives its caller. Attach and Cmd.StartDetached start such
	// commands.
	Kept bool
	// Attached: a caller has its streams.
	Attached bool
	// Running is for how long.
	Running time.Duration
}

// maxExecs bounds what a guest can make of a list; it runs no more at a time.
const maxExecs = 1024

// Execs lists the commands that run in the sandbox, by ID, those of other
// processes too. The guest tells: its words are not to be trusted, nor sent to
// a terminal as they are; only the IDs are known to be such.
func (s *Sandbox) Execs(ctx context.Context) ([]ExecInfo, error) {
	agent, err := s.agentClient(ctx)
	if err != nil {
		return nil, &Error{s.name, "execs", err}
	}
	list, err := listExecs(ctx, agent)
	if err != nil {
		return nil, &Error{s.name, "execs", err}
	}
	return list, nil
}

// execLister is what lists them, page by page.
type execLister interface {
	Execs(context.Context, *proto.ExecsRequest) (*proto.ExecList, error)
}

func listExecs(ctx context.Context, agent execLister) ([]ExecInfo, error) {
	var out []ExecInfo
	after := ""
	for {
		list, err := agent.Execs(ctx, &proto.ExecsRequest{After: after})
		if err != nil {
			return nil, err
		}
		for _, x := range list.GetExecs() {
			if x.GetId() <= after || len(out) >= maxExecs {
				return nil, errors.New("the guest's list has no order or no end")
			}
			if !validExecID(x.GetId()) {
				return nil, fmt.Errorf("the guest lists a command of the ID %.100q, which is none", x.GetId())
			}
			after = x.GetId()
			out = append(out, ExecInfo{
				ID: x.GetId(), PID: int(x.GetPid()), Args: x.GetArgs(), TTY: x.GetTty(), Kept: x.GetKeep(),
				Attached: x.GetAttached(), Running: time.Duration(x.GetRunningNs()),
			})
		}
		if !list.GetMore() || len(list.GetExecs()) == 0 {
			return out, nil
		}
	}
}

// StartDetached starts the command so that it outlives this process, and
// returns its ID. It has neither terminal nor stdin; what it writes is found in
// the sandbox's logs, if Config.CaptureOutput asks for that, and nowhere else.
// Reattach to the ID waits for its end. Stdin, Stdout, Stderr and TTY must not
// be set; for a command with a terminal there is Attach.
func (c *Cmd) StartDetached() (id string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.started {
		return "", &Error{c.sb.name, "exec", errors.New("the Cmd was already started")}
	}
	c.started = true
	if c.Stdin != nil || c.Stdout != nil || c.Stderr != nil || c.TTY != nil {
		return "", &ConfigError{[]FieldError{{"Stdin, Stdout, Stderr, TTY", "a detached command has none of them"}}}
	}
	if err := c.check(); err != nil {
		return "", err
	}
	start := c.request()
	start.Keep = true
	conn, err := c.sb.dialAgent(c.ctx)
	if err != nil {
		return "", &Error{c.sb.name, "exec", err}
	}
	exec, err := proto.StartExec(c.ctx, conn, start, nil, nil)
	if err != nil {
		return "", c.sb.startError(c.Args[0], err)
	}
	_ = exec.Close()
	_, _ = exec.Wait()
	return c.id, nil
}
