package agent

import (
	"errors"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// exited is how a child ended.
type exited struct {
	status syscall.WaitStatus
	usage  syscall.Rusage
}

// reaper waits for every child of the process: those that it started, whose
// end it reports, and those that PID 1 inherits, which it only buries.
//
// Starting and registering a child happen under the lock, and so do wait4 and
// the dispatch of its answer. So an end is never seen before its child is
// registered, and a number is never mistaken for the process that had it
// before.
type reaper struct {
	orphan func() // called, without the lock, after an inherited child was buried

	mu       sync.Mutex
	children map[int]chan exited
}

func newReaper(orphan func()) *reaper {
	return &reaper{orphan: orphan, children: map[int]chan exited{}}
}

// start runs fork and registers the child that it returns. Its end arrives on
// the channel, once.
func (r *reaper) start(fork func() (int, error)) (int, <-chan exited, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := fork()
	if err != nil {
		return 0, nil, err
	}
	end := make(chan exited, 1)
	r.children[pid] = end
	return pid, end, nil
}

// signalGroup signals the process group of a child that has not been reaped,
// so that the number is certainly still its own. ESRCH if it has.
func (r *reaper) signalGroup(pid int, sig syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.children[pid]; !ok {
		return unix.ESRCH
	}
	return unix.Kill(-pid, sig)
}

// reap buries all children that have ended. It never waits. It reports
// whether children are left.
func (r *reaper) reap() (left bool) {
	for {
		pid, known, left := r.reapOne()
		if pid <= 0 {
			return left
		}
		if !known && r.orphan != nil {
			r.orphan()
		}
	}
}

func (r *reaper) reapOne() (pid int, known, left bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var e exited
	for {
		var err error
		pid, err = syscall.Wait4(-1, &e.status, syscall.WNOHANG, &e.usage)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil { // ECHILD
			return 0, false, false
		}
		break
	}
	if pid == 0 {
		return 0, false, true
	}
	end, known := r.children[pid]
	if known {
		delete(r.children, pid)
		end <- e
	}
	return pid, known, true
}
