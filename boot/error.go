package boot

import (
	"errors"
	"fmt"
)

// Causes of a failed Load or Inspect, for errors.Is. Every message that a user
// sees also names the figures and the remedy.
var (
	// ErrNoKernel: no kernel was given, or it is empty.
	ErrNoKernel = errors.New("no kernel")
	// ErrNotKernel: the file is neither an ELF image nor a bzImage.
	ErrNotKernel = errors.New("not a kernel")
	// ErrTruncated: the file ends before what its headers announce.
	ErrTruncated = errors.New("file is truncated")
	// ErrMalformed: the headers contradict themselves or exceed a limit.
	ErrMalformed = errors.New("kernel image is malformed")
	// ErrUnsupported: a kernel, but not one that can be entered here.
	ErrUnsupported = errors.New("kernel is not supported")
	// ErrOutsideMemory: the kernel wants to be where no usable RAM is.
	ErrOutsideMemory = errors.New("kernel lies outside guest memory")
	// ErrInitramfsTooBig: the initramfs does not fit beside the kernel.
	ErrInitramfsTooBig = errors.New("initramfs is too big")
	// ErrCmdline: the command line is too long or holds a NUL byte.
	ErrCmdline = errors.New("bad command line")
	// ErrCPUs: the number of CPUs is out of range.
	ErrCPUs = errors.New("bad number of CPUs")
	// ErrSeed: the random seed is too long.
	ErrSeed = errors.New("random seed is too long")
	// ErrLayout: guest memory is not laid out as Ranges lays it out.
	ErrLayout = errors.New("unsuitable guest memory layout")
)

// Error is every error of this package: what was being done, and why it failed.
type Error struct {
	Op  string // "kernel", "initramfs", "command line", "memory", ...
	Err error
}

func (e *Error) Error() string { return "boot: " + e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// MemoryTooSmallError says how much guest memory a kernel and its initramfs
// need. It is found inside an [*Error] with errors.As.
type MemoryTooSmallError struct {
	Have uint64 // bytes of RAM below the MMIO gap
	Need uint64 // bytes that suffice, an estimate (see Image.MinMemory)
}

func (e *MemoryTooSmallError) Error() string {
	return fmt.Sprintf("guest memory is too small: %d MiB given, at least %d MiB needed", e.Have>>20, e.Need>>20)
}

func fail(op string, cause error, format string, args ...any) error {
	return &Error{op, fmt.Errorf("%w: "+format, append([]any{cause}, args...)...)}
}
