package virtio

import "errors"

// What is wrong with a ring or a chain. Each of these makes the device need a
// reset: the queue cannot be trusted any more.
var (
	ErrQueueSize   = errors.New("queue size is zero, not a power of two, or above the maximum")
	ErrRingAddress = errors.New("ring is misaligned or outside guest memory")
	ErrAvailIndex  = errors.New("available index is further ahead than the queue is long")
	ErrHead        = errors.New("head is beyond the descriptor table")
	ErrInFlight    = errors.New("head was made available while in flight")
	ErrNext        = errors.New("next is beyond the descriptor table")
	ErrChainLength = errors.New("chain has too many descriptors, or a loop")
	ErrChainBytes  = errors.New("chain has too many bytes")
	ErrBuffer      = errors.New("buffer is outside guest memory")
	ErrOrder       = errors.New("readable descriptor after a writable one")
	ErrIndirect    = errors.New("invalid indirect descriptor")
)

var (
	// ErrStopped ends a worker: its queue was stopped, by a reset or because
	// the device needs one.
	ErrStopped = errors.New("queue stopped")
	// ErrShortChain says that a chain has fewer bytes than were asked for.
	ErrShortChain = errors.New("chain is too short")
	// ErrPanic is a panic in a device, caught.
	ErrPanic = errors.New("device panicked")
)

// Error is a failed operation of a device or a queue.
type Error struct {
	Op  string // what was tried: "walk chain", "ready queue", "activate", …
	Err error
}

func (e *Error) Error() string { return "virtio: " + e.Op + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }
