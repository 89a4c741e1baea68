package agent

import (
	"slices"
	"time"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Bounds of what is remembered of kept commands that have ended.
const (
	maxEnded      = 64
	maxEndedBytes = 4 << 20 // of their screens
	endedFor      = 10 * time.Minute
)

// remember moves a command from the running to the ended ones, in one step.
func (a *Agent) remember(k *kept) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := k.x.start.GetId()
	if a.execs[id] == k.x {
		delete(a.execs, id)
	}
	a.keptEnded = append(a.keptEnded, k)
	a.forgetLocked()
}

// forgetLocked keeps the bounds. The caller holds a.mu.
func (a *Agent) forgetLocked() {
	list := a.keptEnded
	if over := len(list) - maxEnded; over > 0 {
		list = list[over:]
	}
	for len(list) > 0 && time.Since(list[0].endedAt) > endedFor {
		list = list[1:]
	}
	a.keptEnded = slices.Clone(list)
	size := 0
	for _, k := range slices.Backward(a.keptEnded) {
		if size += len(k.last); size > maxEndedBytes {
			k.forgetScreen()
		}
	}
}

func (k *kept) forgetScreen() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = nil
}

// kept finds the command that a caller wants to attach to: the running one of
// that ID, else the last one that has ended.
func (a *Agent) kept(r *proto.AttachStart) (*kept, error) {
	if r.GetRows() > proto.MaxTermCells || r.GetCols() > proto.MaxTermCells {
		return nil, fail(proto.StartFailure_BAD_ARGS, nil, "terminal of %d by %d: more than %d", r.GetRows(), r.GetCols(), proto.MaxTermCells)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	id := r.GetId()
	if x := a.execs[id]; x != nil {
		if x.kept == nil {
			return nil, fail(proto.StartFailure_NO_EXEC, nil, "the command %q belongs to its caller: it was not started to be attached to", shorten(id))
		}
		if x.pid == 0 {
			return nil, fail(proto.StartFailure_NO_EXEC, nil, "the command %q is still starting", id)
		}
		return x.kept, nil
	}
	a.forgetLocked()
	for _, k := range slices.Backward(a.keptEnded) {
		if k.x.start.GetId() == id {
			return k, nil
		}
	}
	return nil, fail(proto.StartFailure_NO_EXEC, nil, "no command %q runs, or has ended lately", shorten(id))
}
