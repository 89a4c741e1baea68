package monitor

import (
	"context"
	"errors"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// The guest's wall clock is the host's as of its boot, and runs by the same
// counter, but nobody tells it when the host's clock is corrected, or jumps
// because the host was suspended. So it is compared once after the boot, every
// minute, and when the host's clock was set: of that the kernel says so
// (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET), which costs nothing until then.
const (
	clockEvery = time.Minute
	// clockTolerance is not corrected, clockSlew at most is corrected by
	// running faster or slower, and the rest by a step.
	clockTolerance = 2 * time.Millisecond
	clockSlew      = 50 * time.Millisecond
	// clockTries comparisons are made, and the one with the shortest round trip
	// counts; one that took less than clockGood ends them, and so does one that
	// shows the clock right within clockRight: the first is made beside a
	// sandbox's first command.
	clockTries = 5
	clockGood  = 2 * time.Millisecond
	clockRight = 8 * time.Millisecond
)

// keepTime keeps the guest's clock right until the machine ends.
func (m *monitor) keepTime() {
	set := make(chan struct{}, 1)
	if w, err := newClockWatch(); err != nil {
		m.log.Warn("jumps of the host's clock are noticed only by the minute", "err", err)
	} else {
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			w.run(set)
		}()
		defer func() {
			w.file.Close()
			<-watched
		}()
	}
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	failed := false
	for first := true; ; first = false {
		err := m.syncClock(first)
		if err != nil && !errors.Is(err, errEnded) && !failed { // said once
			m.log.Warn("the guest's clock was not compared", "err", err)
		}
		failed = err != nil
		select {
		case <-m.link.machineEnded:
			return
		case <-set:
		case <-tick.C:
		}
	}
}

// syncClock compares the guest's clock with the host's and corrects it. It is
// called by keepTime only. step says that nothing in the guest can mind a step.
func (m *monitor) syncClock(step bool) error {
	ctx, cancel := context.WithTimeout(m.link.runCtx, callTimeout)
	defer cancel()
	best := time.Duration(math.MaxInt64)
	var offset time.Duration
	for range clockTries {
		before := time.Now()
		guest, err := m.setClock(ctx, &proto.SetClockRequest{})
		if err != nil {
			return err
		}
		trip := time.Since(before)
		if trip < best {
			best = trip
			// Round: a monotonic reading must not be mixed with a wall clock's.
			offset = guest.Sub(before.Round(0).Add(trip / 2))
		}
		if trip < clockGood || offset.Abs()+best/2 < clockRight {
			break
		}
	}
	if offset.Abs() <= max(clockTolerance, best/4) {
		return nil
	}
	r := &proto.SetClockRequest{AdjustNs: int64(-offset), Slew: !step && offset.Abs() <= clockSlew}
	m.log.Debug("the guest's clock is corrected", "offset", offset, "round trip", best, "slew", r.GetSlew())
	_, err := m.setClock(ctx, r)
	return err
}

func (m *monitor) setClock(ctx context.Context, r *proto.SetClockRequest) (time.Time, error) {
	shown := make(chan int64, 1)
	err := m.link.call(ctx, func() error {
		resp, err := m.link.agent.SetClock(ctx, r)
		if err == nil {
			shown <- resp.GetWallClockNs()
		}
		return err
	})
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(0, <-shown), nil
}

// clockWatch waits for discontinuous changes of the host's wall clock.
type clockWatch struct{ file *os.File }

func newClockWatch() (*clockWatch, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	w := &clockWatch{os.NewFile(uintptr(fd), "clock")}
	if err := w.arm(); err != nil {
		w.file.Close()
		return nil, err
	}
	return w, nil
}

// arm waits for a moment that never comes, unless the clock is set.
func (w *clockWatch) arm() error {
	rc, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	var setErr error
	err = rc.Control(func(fd uintptr) {
		spec := unix.ItimerSpec{Value: unix.Timespec{Sec: math.MaxInt32 << 20}}
		setErr = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &spec, nil)
	})
	return errors.Join(err, os.NewSyscallError("timerfd_settime", setErr))
}

// run tells of each change until the file is closed.
func (w *clockWatch) run(set chan<- struct{}) {
	var b [8]byte
	for {
		_, err := w.file.Read(b[:])
		if err != nil && !errors.Is(err, unix.ECANCELED) {
			return
		}
		select {
		case set <- struct{}{}:
		default:
		}
		if w.arm() != nil {
			return
		}
	}
}
