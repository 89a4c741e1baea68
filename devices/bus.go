package devices

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
)

// Handler is the bus side of a device. off is relative to the device's window
// and off+len(p) never exceeds it; len(p) is 1 to 8. Read sets all of p. Both
// are called by any vCPU at any time, so they lock what they share, and they
// must not block: the vCPU stands still meanwhile.
type Handler interface {
	Read(off uint64, p []byte)
	Write(off uint64, p []byte)
}

// Interrupt is an edge-triggered interrupt line: each Trigger is one edge.
type Interrupt interface {
	Trigger() error
}

// Causes of a failed Map, for errors.Is.
var (
	ErrOverlap = errors.New("window overlaps another")
	ErrWindow  = errors.New("bad window")
)

// Error is every error of this package.
type Error struct {
	Op  string
	Err error
}

func (e *Error) Error() string { return "devices: " + e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// maxAccess is the widest access that a vCPU makes in one exit.
const maxAccess = 8

// Bus is an address space, of ports or of memory, in which each device has a
// window. Accesses take no lock: they read an immutable sorted list, which Map
// replaces.
//
// A device that panics is off the bus from then on, as if it were not there: its
// locks may be held for ever, so nobody asks it again. The others serve on.
type Bus struct {
	// OnPanic, which may be nil, is told of the device and of what it panicked
	// with, on the vCPU's goroutine. It is set before the first access.
	OnPanic func(name string, v any)

	mu      sync.Mutex // serializes Map
	windows atomic.Pointer[[]window]
}

type window struct {
	base, last uint64 // last is inclusive, so that a window may end the space
	name       string
	h          Handler
	broken     *atomic.Bool // it panicked; shared by the copies that Map makes
}

// NewBus returns an empty bus.
func NewBus() *Bus {
	b := new(Bus)
	b.windows.Store(new([]window))
	return b
}

// Map gives h the size addresses from base. The name is for errors and Lookup.
func (b *Bus) Map(name string, base, size uint64, h Handler) error {
	op := fmt.Sprintf("map %s at %#x", name, base)
	last := base + size - 1
	if size == 0 || last < base || h == nil {
		return &Error{op, fmt.Errorf("%w: size %#x, handler %T", ErrWindow, size, h)}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	old := *b.windows.Load()
	i := sort.Search(len(old), func(i int) bool { return old[i].last >= base })
	if i < len(old) && old[i].base <= last {
		return &Error{op, fmt.Errorf("%w: %s at %#x to %#x", ErrOverlap, old[i].name, old[i].base, old[i].last)}
	}
	list := slices.Insert(slices.Clone(old), i, window{base, last, name, h, new(atomic.Bool)})
	b.windows.Store(&list)
	return nil
}

// Read lets the device at addr fill p. If there is none, or if the access
// reaches beyond its window, or if p is not 1 to 8 bytes long, all bits of p
// are set, as on a bus where nobody answers, and Read reports false. So it is
// with a device that has panicked.
func (b *Bus) Read(addr uint64, p []byte) bool {
	if w := b.find(addr); w != nil && w.fits(addr, p) && b.read(w, addr, p) {
		return true
	}
	for i := range p {
		p[i] = 0xff
	}
	return false
}

// Write hands p to the device at addr. If Read would report false, the write
// goes nowhere and Write reports false.
func (b *Bus) Write(addr uint64, p []byte) bool {
	if w := b.find(addr); w != nil && w.fits(addr, p) {
		return b.write(w, addr, p)
	}
	return false
}

func (b *Bus) read(w *window, addr uint64, p []byte) (ok bool) {
	defer b.caught(w, &ok)
	w.h.Read(addr-w.base, p)
	return true
}

func (b *Bus) write(w *window, addr uint64, p []byte) (ok bool) {
	defer b.caught(w, &ok)
	w.h.Write(addr-w.base, p)
	return true
}

// caught is deferred around a device's method. A panic takes the device off the
// bus.
func (b *Bus) caught(w *window, ok *bool) {
	v := recover()
	if v == nil {
		return
	}
	*ok = false
	if !w.broken.Swap(true) && b.OnPanic != nil {
		b.OnPanic(w.name, v)
	}
}

// Lookup returns the name of the device at addr and the offset in its window.
func (b *Bus) Lookup(addr uint64) (name string, off uint64, ok bool) {
	if w := b.find(addr); w != nil {
		return w.name, addr - w.base, true
	}
	return "", 0, false
}

func (b *Bus) find(addr uint64) *window {
	list := *b.windows.Load()
	lo, hi := 0, len(list)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if list[mid].last < addr {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(list) && list[lo].base <= addr {
		return &list[lo]
	}
	return nil
}

func (w *window) fits(addr uint64, p []byte) bool {
	return len(p) >= 1 && len(p) <= maxAccess && uint64(len(p)-1) <= w.last-addr && !w.broken.Load()
}
