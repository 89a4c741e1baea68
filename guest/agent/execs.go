package agent

import (
	"context"
	"slices"
	"strings"
	"time"

	pb "google.golang.org/protobuf/proto"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Bounds of an ExecList, which has to fit into a message.
const (
	maxListed     = 256
	maxListedArgs = 1 << 10 // bytes of each
	maxListBytes  = 32 << 10
)

// Execs implements the call.
func (a *Agent) Execs(_ context.Context, r *proto.ExecsRequest) (_ *proto.ExecList, err error) {
	defer a.recovered("execs", &err)
	running := a.snapshot()
	slices.SortFunc(running, func(x, y *execution) int { return strings.Compare(x.start.GetId(), y.start.GetId()) })
	list := new(proto.ExecList)
	size := 0
	for _, x := range running {
		if x.start.GetId() <= r.GetAfter() {
			continue
		}
		if len(list.Execs) == maxListed || size > maxListBytes {
			list.More = true
			break
		}
		info := x.info()
		list.Execs = append(list.Execs, info)
		size += pb.Size(info) + 4 // its tag and length
	}
	return list, nil
}

func (x *execution) info() *proto.ExecInfo {
	attached := true
	if x.kept != nil {
		attached = x.kept.current() != nil
	}
	return &proto.ExecInfo{
		Id: x.start.GetId(), Pid: int32(x.pid), Args: cutArgs(x.start.GetArgs()),
		Tty: x.start.GetTty(), Keep: x.kept != nil, Attached: attached,
		RunningNs: int64(time.Since(x.since)),
	}
}

// cutArgs is the beginning of a command line.
func cutArgs(args []string) []string {
	var out []string
	left := maxListedArgs
	for _, arg := range args {
		if len(arg)+8 > left {
			return append(out, strings.ToValidUTF8(arg[:max(0, min(len(arg), left-8))], "")+"…")
		}
		left -= len(arg) + 8
		out = append(out, arg)
	}
	return out
}
