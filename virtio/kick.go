package virtio

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// kick is the eventfd behind a queue's notification. KVM or a trapped register
// write adds to its counter; the queue's worker reads it.
//
// A busy queue's worker blocks in read(2) itself, so that a kick costs one
// thread wake-up and one system call, and no pass through the network poller.
// It needs no second descriptor to be stopped by: whoever stops the queue sets
// its flag and then signals this same eventfd, and because the counter stays
// until it is read, the worker sees the flag either before it blocks or after
// it is woken. The descriptor is closed after the worker is joined.
type kick struct {
	mu     sync.RWMutex // guards closed, and fd against being closed in use
	closed bool

	fd   int
	file *os.File // owns fd; polled if it is non-blocking
	poll bool

	count [8]byte // the worker's read buffer
	one   [8]byte // what signal writes
}

func newKick(poll bool) (*kick, error) {
	flags := unix.EFD_CLOEXEC
	if poll {
		flags |= unix.EFD_NONBLOCK
	}
	fd, err := unix.Eventfd(0, flags)
	if err != nil {
		return nil, os.NewSyscallError("eventfd2", err)
	}
	k := &kick{fd: fd, poll: poll}
	binary.NativeEndian.PutUint64(k.one[:], 1)
	if poll {
		k.file = os.NewFile(uintptr(fd), "eventfd")
	}
	return k, nil
}

// wait blocks until the counter is not zero, and zeroes it. One goroutine waits.
func (k *kick) wait() error {
	if k.poll {
		_, err := k.file.Read(k.count[:])
		return err
	}
	for {
		_, err := unix.Read(k.fd, k.count[:])
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("read eventfd", err)
		}
	}
}

// signal makes one wait return. The counter would have to reach 2⁶⁴-2 for this
// to block.
func (k *kick) signal() {
	k.mu.RLock()
	defer k.mu.RUnlock()
	for !k.closed {
		if _, err := unix.Write(k.fd, k.one[:]); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

func (k *kick) close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	if k.file != nil {
		return k.file.Close()
	}
	return os.NewSyscallError("close eventfd", unix.Close(k.fd))
}
