package l1

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// reaper starts processes and waits for every child of process 1, its own and
// the orphans that the kernel hands it.
type reaper struct {
	mu      sync.Mutex // guards waiting; held over fork, so that no child is reaped unknown
	waiting map[int]chan unix.WaitStatus
}

// newReaper starts the goroutine that reaps; it lives as long as L1.
func newReaper() *reaper {
	r := &reaper{waiting: make(map[int]chan unix.WaitStatus)}
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, unix.SIGCHLD)
	go func() {
		for range sig {
			for r.reap() {
			}
		}
	}()
	return r
}

// reap waits for one ended child, if there is one.
func (r *reaper) reap() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var status unix.WaitStatus
	pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
	if errors.Is(err, unix.EINTR) {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	if c := r.waiting[pid]; c != nil {
		delete(r.waiting, pid)
		c <- status
	}
	return true
}

// start starts a process; its status arrives on the channel.
func (r *reaper) start(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan unix.WaitStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, nil, err
	}
	c := make(chan unix.WaitStatus, 1)
	r.waiting[pid] = c
	return pid, c, nil
}
