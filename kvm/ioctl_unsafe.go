package kvm

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlPtr does one request whose argument the kernel reads or writes. op names
// the request in errors. EINTR, which reaches set-up requests too whenever the Go
// runtime preempts by signal, is retried.
func ioctlPtr[T any](fd int, op string, req uintptr, arg *T) (int, error) {
	for {
		// SAFETY: the conversion stands in Syscall's own argument list, which
		// is the one place where the compiler keeps *arg alive and in place.
		// A helper that took a uintptr would let the stack move under the
		// kernel. T has the size that is encoded in req, or more.
		n, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), req, uintptr(unsafe.Pointer(arg)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return int(n), &Error{Op: op, Err: errno}
		}
	}
}

// ioctlVal does one request whose argument is a number, retried like ioctlPtr.
func ioctlVal(fd int, op string, req, arg uintptr) (int, error) {
	for {
		n, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), req, arg)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return int(n), &Error{Op: op, Err: errno}
		}
	}
}
