package agent

import (
	"context"
	"fmt"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// Setup implements the call.
func (a *Agent) Setup(_ context.Context, r *proto.SetupRequest) (_ *proto.SetupResponse, err error) {
	defer a.recovered("setup", &err)
	if err := validateSetup(r); err != nil {
		return nil, statusInvalid(err.Error())
	}
	a.mu.Lock()
	if a.setup != setupNone {
		a.mu.Unlock()
		return nil, status.Error(codes.FailedPrecondition, "setup was called before")
	}
	a.setup = setupRunning
	a.phases.SetupBeginNs = monotonic()
	a.mu.Unlock()

	state := setupFailed
	defer func() {
		a.mu.Lock()
		a.setup = state
		a.mu.Unlock()
	}()
	resp, cg, err := a.prepare(r)
	if err == nil {
		err = a.startCapture(r)
	}
	if err != nil {
		a.log.Error("setup failed", "err", err)
		return nil, status.Error(codes.Internal, err.Error())
	}
	a.mu.Lock()
	a.cgroups = cg
	a.defaultEnv, a.defaultRlimits = r.GetEnv(), r.GetRlimits()
	a.scripts = len(r.GetScripts()) > 0
	if sig := r.GetStopSignal(); sig != 0 {
		a.stopSignal = syscall.Signal(sig)
	}
	a.phases.ReadyNs = monotonic()
	resp.Phases = a.phasesLocked()
	a.mu.Unlock()
	state = setupDone
	if r.GetHold() {
		state = setupHeld
	}
	return resp, nil
}

func (a *Agent) prepare(r *proto.SetupRequest) (*proto.SetupResponse, *cgroups, error) {
	if ns := r.GetWallClockNs(); ns != 0 {
		if err := setClock(ns); err != nil {
			return nil, nil, err
		}
	}
	if a.config.Setup == nil {
		return &proto.SetupResponse{}, nil, nil
	}
	resp, mount, err := a.config.Setup(r)
	if err != nil {
		return nil, nil, err
	}
	a.mu.Lock()
	a.phases.RootMountedNs = resp.GetPhases().GetRootMountedNs()
	a.mu.Unlock()
	if mount == "" {
		a.log.Warn("no cgroup v2: a command's descendants that leave its process group outlive it")
		return resp, nil, nil
	}
	cg, err := openCgroups(mount, "sandpit")
	if err != nil {
		return nil, nil, &Error{Op: "cgroups", Err: err}
	}
	return resp, cg, nil
}

func (a *Agent) phasesLocked() *proto.Phases {
	return &proto.Phases{
		InitNs: a.phases.InitNs, ConnectedNs: a.phases.ConnectedNs, SetupBeginNs: a.phases.SetupBeginNs,
		RootMountedNs: a.phases.RootMountedNs, ReadyNs: a.phases.ReadyNs,
	}
}

// Signal implements the call.
func (a *Agent) Signal(_ context.Context, r *proto.SignalRequest) (_ *proto.Empty, err error) {
	defer a.recovered("signal", &err)
	if r.GetSignal() < 1 || r.GetSignal() > 64 {
		return nil, statusInvalid(fmt.Sprintf("signal %d is not in 1 to 64", r.GetSignal()))
	}
	x, err := a.running(r.GetId())
	if err != nil {
		return nil, err
	}
	if err := x.signal(syscall.Signal(r.GetSignal())); err != nil {
		return nil, status.Errorf(codes.NotFound, "exec %q has ended", r.GetId())
	}
	return &proto.Empty{}, nil
}

// Resize implements the call.
func (a *Agent) Resize(_ context.Context, r *proto.ResizeRequest) (_ *proto.Empty, err error) {
	defer a.recovered("resize", &err)
	if r.GetRows() > proto.MaxTermCells || r.GetCols() > proto.MaxTermCells {
		return nil, statusInvalid("terminal too large")
	}
	x, err := a.running(r.GetId())
	if err != nil {
		return nil, err
	}
	if x.master == nil {
		return nil, status.Errorf(codes.FailedPrecondition, "exec %q has no terminal", r.GetId())
	}
	if err := x.resize(r.GetRows(), r.GetCols()); err != nil {
		return nil, status.Errorf(codes.NotFound, "resize %q: %v", r.GetId(), err)
	}
	return &proto.Empty{}, nil
}

// SetClock implements the call.
func (a *Agent) SetClock(_ context.Context, r *proto.SetClockRequest) (_ *proto.SetClockResponse, err error) {
	defer a.recovered("set clock", &err)
	switch ns, d := r.GetWallClockNs(), r.GetAdjustNs(); {
	case d != 0 && r.GetSlew():
		err = slewClock(d)
	case d != 0:
		err = setClock(time.Now().UnixNano() + d)
	case ns != 0:
		err = setClock(ns)
	}
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &proto.SetClockResponse{WallClockNs: time.Now().UnixNano()}, nil
}

// Ping implements the call.
func (a *Agent) Ping(context.Context, *proto.PingRequest) (*proto.PingResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return &proto.PingResponse{
		Protocol: proto.Version,
		UptimeNs: monotonic(),
		Phases:   a.phasesLocked(),
		Execs:    uint32(len(a.execs)),
		IdleNs:   a.idleLocked(),
	}, nil
}

// recovered turns a panic of a call into an error: the end of PID 1 would be
// the end of the machine.
func (a *Agent) recovered(what string, err *error) {
	if p := recover(); p != nil {
		a.log.Error("panic", "in", what, "value", fmt.Sprint(p), "stack", string(debug.Stack()))
		*err = status.Errorf(codes.Internal, "%s: the agent failed", what)
	}
}

func statusInvalid(message string) error { return status.Error(codes.InvalidArgument, message) }

// monotonic is the time since the kernel's start.
func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

func setClock(ns int64) error {
	if ns <= 0 {
		return &Error{Op: "set clock", Err: errString("not after 1970")}
	}
	ts := unix.NsecToTimespec(ns)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return &Error{Op: "set clock", Err: err}
	}
	return nil
}

// slewClock makes the clock run faster or slower until it has made up for ns
// (adjtime(3)).
func slewClock(ns int64) error {
	t := unix.Timex{Modes: unix.ADJ_OFFSET_SINGLESHOT, Offset: ns / 1000}
	if _, err := unix.ClockAdjtime(unix.CLOCK_REALTIME, &t); err != nil {
		return &Error{Op: "slew clock", Err: err}
	}
	return nil
}
