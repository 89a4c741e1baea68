package agent

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// rlimit is a resource limit by its number.
type rlimit struct {
	name     string
	resource int
	value    syscall.Rlimit
}

// memory tells whether the limit is on the process's own memory.
func (l rlimit) memory() bool { return l.resource == unix.RLIMIT_AS || l.resource == unix.RLIMIT_DATA }

// rlimitResource maps a limit's name to its number.
func rlimitResource(name string) (int, bool) {
	switch name {
	case "as":
		return unix.RLIMIT_AS, true
	case "core":
		return unix.RLIMIT_CORE, true
	case "cpu":
		return unix.RLIMIT_CPU, true
	case "data":
		return unix.RLIMIT_DATA, true
	case "fsize":
		return unix.RLIMIT_FSIZE, true
	case "locks":
		return unix.RLIMIT_LOCKS, true
	case "memlock":
		return unix.RLIMIT_MEMLOCK, true
	case "msgqueue":
		return unix.RLIMIT_MSGQUEUE, true
	case "nice":
		return unix.RLIMIT_NICE, true
	case "nofile":
		return unix.RLIMIT_NOFILE, true
	case "nproc":
		return unix.RLIMIT_NPROC, true
	case "rss":
		return unix.RLIMIT_RSS, true
	case "rtprio":
		return unix.RLIMIT_RTPRIO, true
	case "rttime":
		return unix.RLIMIT_RTTIME, true
	case "sigpending":
		return unix.RLIMIT_SIGPENDING, true
	case "stack":
		return unix.RLIMIT_STACK, true
	}
	return 0, false
}

// parseRlimits checks names and values. The last of a name wins.
func parseRlimits(in []*proto.Rlimit) ([]rlimit, error) {
	if len(in) > 64 {
		return nil, fail(proto.StartFailure_RLIMIT, nil, "%d resource limits: more than 64", len(in))
	}
	var out []rlimit
next:
	for _, l := range in {
		resource, ok := rlimitResource(l.GetName())
		if !ok {
			return nil, fail(proto.StartFailure_RLIMIT, nil, "unknown resource limit %q", shorten(l.GetName()))
		}
		if l.GetSoft() > l.GetHard() {
			return nil, fail(proto.StartFailure_RLIMIT, nil, "resource limit %s: soft %d is over hard %d", l.GetName(), l.GetSoft(), l.GetHard())
		}
		v := syscall.Rlimit{Cur: l.GetSoft(), Max: l.GetHard()}
		for i := range out {
			if out[i].resource == resource {
				out[i].value = v
				continue next
			}
		}
		out = append(out, rlimit{l.GetName(), resource, v})
	}
	return out, nil
}
