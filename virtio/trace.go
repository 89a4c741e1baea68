package virtio

// EventKind says what an Event is about.
type EventKind uint8

const (
	EventRead       EventKind = iota + 1 // the driver read a register
	EventWrite                           // the driver wrote a register
	EventStatus                          // the device status changed; Value is the new one
	EventQueue                           // a worker used chains
	EventNeedsReset                      // the device gave up; Err says why
)

func (k EventKind) String() string {
	switch k {
	case EventRead:
		return "read"
	case EventWrite:
		return "write"
	case EventStatus:
		return "status"
	case EventQueue:
		return "queue"
	case EventNeedsReset:
		return "needs-reset"
	}
	return "unknown"
}

// Event is something a transport did, for people who watch: see MMIO.SetTrace.
type Event struct {
	Kind   EventKind
	Device string // "blk", "vsock", …

	Register string // name, for EventRead and EventWrite
	Offset   uint64 // in the register window
	Size     int    // of the access, in bytes
	Value    uint64 // read, written, or the status

	Queue  int // for EventQueue
	Chains int // used by the worker in one go

	Err error // for EventNeedsReset
}

// SetTrace has f called for each event from now on; nil ends it. f is called
// from vCPU threads and workers, several at once, and must not call t. What KVM
// does by itself is not seen: a notification through an ioeventfd shows as the
// queue's activity only.
func (t *MMIO) SetTrace(f func(Event)) {
	if f == nil {
		t.trace.Store(nil)
		return
	}
	t.trace.Store(&f)
}

// emit reports e if someone watches.
func (t *MMIO) emit(e Event) {
	if f := t.trace.Load(); f != nil {
		e.Device = t.name
		(*f)(e)
	}
}

// traceAccess reports a register access.
func (t *MMIO) traceAccess(kind EventKind, off uint64, p []byte) {
	if t.trace.Load() == nil {
		return
	}
	var v uint64
	for i := min(len(p), 8) - 1; i >= 0; i-- {
		v = v<<8 | uint64(p[i])
	}
	t.emit(Event{Kind: kind, Register: registerName(off), Offset: off, Size: len(p), Value: v})
}
