package agent

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Drain implements the call. Commands and file operations that are refused get
// a DRAINING failure; those that run, and the sessions they are part of, go on.
func (a *Agent) Drain(ctx context.Context, r *proto.DrainRequest) (_ *proto.Empty, err error) {
	defer a.recovered("drain", &err)
	a.mu.Lock()
	if a.setup != setupDone {
		a.mu.Unlock()
		return nil, status.Error(codes.FailedPrecondition, "the guest is not set up yet")
	}
	a.draining = true
	a.restLocked()
	a.mu.Unlock()
	if !r.GetWait() {
		return &proto.Empty{}, nil
	}
	select {
	case <-a.drained:
		return &proto.Empty{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// beginWork admits what is no command but shall end before the guest does: a
// file operation, or a session of them. endWork follows.
func (a *Agent) beginWork() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.admittingLocked(); err != nil {
		return err
	}
	a.work++
	return nil
}

func (a *Agent) endWork() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.work--
	a.restLocked()
}

// admittingLocked is why nothing new is admitted, if that is so. The caller
// holds a.mu.
func (a *Agent) admittingLocked() error {
	switch {
	case a.draining:
		return fail(proto.StartFailure_DRAINING, nil, "the sandbox is draining or shutting down")
	case a.setup != setupDone:
		return fail(proto.StartFailure_NOT_READY, nil, "the guest is not set up yet")
	}
	return nil
}

// restLocked notes that something has ended, and lets Drain go when it was the
// last. The caller holds a.mu.
func (a *Agent) restLocked() {
	a.lastActive = monotonic()
	if a.draining && a.calls == 0 && a.work == 0 {
		select {
		case <-a.drained:
		default:
			close(a.drained)
		}
	}
}

// idleLocked is for how long nothing has run, in ns. The caller holds a.mu.
func (a *Agent) idleLocked() int64 {
	if a.calls > 0 || a.work > 0 {
		return 0
	}
	return monotonic() - a.lastActive
}
