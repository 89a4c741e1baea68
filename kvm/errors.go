package kvm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

var (
	// ErrUnavailable says that the kernel lacks a capability. The error that
	// wraps it names the capability and the first Linux that has it.
	ErrUnavailable = errors.New("not available in this kernel")
	// ErrAPIVersion says that /dev/kvm is not the KVM that this package knows.
	ErrAPIVersion = errors.New("unknown KVM API version")
	// ErrMalformedExit says that the kernel described an exit in a way that
	// makes no sense: a width or an offset out of bounds.
	ErrMalformedExit = errors.New("malformed exit")
	// ErrClosed says that the VM or vCPU was closed.
	ErrClosed = errors.New("closed")
	// ErrInvalid says that the caller's argument cannot be what was meant.
	ErrInvalid = errors.New("invalid argument")
)

// Error is a failed operation of KVM. Err is the host's errno, or one of the
// package's errors.
type Error struct {
	Op  string // the request by its C name, such as "KVM_CREATE_VM", or "open /dev/kvm"
	Err error
}

func (e *Error) Error() string {
	if r := e.Remedy(); r != "" {
		return fmt.Sprintf("%s: %v (%s)", e.Op, e.Err, r)
	}
	return fmt.Sprintf("%s: %v", e.Op, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Remedy is what to do about the error, or empty if nothing common is known.
func (e *Error) Remedy() string {
	is := func(errno unix.Errno) bool { return errors.Is(e.Err, errno) }
	switch e.Op {
	case opOpen:
		switch {
		case is(unix.EACCES), is(unix.EPERM):
			return "add the user to the group that owns /dev/kvm: sudo usermod -aG kvm $USER, then log in again"
		case is(unix.ENOENT), is(unix.ENODEV), is(unix.ENXIO):
			return "enable virtualization in the firmware, or nested virtualization on the cloud's side; then modprobe kvm_intel or kvm_amd; in a container, pass --device /dev/kvm"
		case is(unix.EBUSY):
			return "another hypervisor holds the processor's virtualization: stop VirtualBox or VMware"
		}
	case "KVM_CREATE_VM":
		switch {
		case is(unix.EBUSY):
			return "another hypervisor holds the processor's virtualization: stop VirtualBox or VMware"
		case is(unix.ENOMEM):
			return "the host is out of memory"
		case is(unix.EMFILE):
			return "raise the limit on open files: ulimit -n"
		}
	case "KVM_CREATE_VCPU":
		switch {
		case is(unix.EINVAL):
			return "more vCPUs than KVM allows"
		case is(unix.EMFILE):
			return "raise the limit on open files: ulimit -n"
		}
	}
	return ""
}

// unavailable is the error of an operation that needs c.
func unavailable(op string, c Cap) error {
	err := fmt.Errorf("%v: %w", c, ErrUnavailable)
	if since := c.Since(); since != "" {
		err = fmt.Errorf("%v, Linux %s or later: %w", c, since, ErrUnavailable)
	}
	return &Error{op, err}
}
