package monitor

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/vmm"
)

// RoleTrace is the descriptor that the trace is written to, if there is one.
const RoleTrace = "trace"

// Bounds of a trace. The guest decides how much there is to tell.
const (
	// traceLimit is how many bytes of it are written: some 150,000 exits.
	traceLimit = 32 << 20
	// tracePatience is how long the guest waits for a reader that does not read.
	tracePatience = 5 * time.Second
	// traceData is how many bytes of an access are told. A string instruction
	// has up to a page of them.
	traceData = 8
)

// TraceEvent is a line of a trace.
type TraceEvent struct {
	// Time is since the machine's construction began, in nanoseconds; Took is
	// how long a step, a phase or the serving of an exit took.
	Time int64 `json:"time_ns"`
	Took int64 `json:"took_ns,omitempty"`
	// Event is "step" (the machine was built so far), "exit" (a vCPU left the
	// guest and was served), "queue" (a device used chains of a virtqueue),
	// "needs-reset" (a device gave up), "phase" (a part of the boot, when it is
	// over), "end" (of the machine) or "cut" (more happened, and is not told).
	Event string `json:"event"`

	// Of an exit: the vCPU, the kind as KVM names it, the port or guest-physical
	// address, the value read or written in hexadecimal, its width in bytes, and
	// how many such accesses a string instruction made.
	CPU     int    `json:"cpu,omitempty"`
	Exit    string `json:"exit,omitempty"`
	Write   bool   `json:"write,omitempty"`
	Address string `json:"address,omitempty"`
	Value   string `json:"value,omitempty"`
	Size    int    `json:"size,omitempty"`
	Count   int    `json:"count,omitempty"`

	// Device was accessed, at Offset in its window, or used Chains of Queue.
	// Register and Note decode what was read or written.
	Device   string `json:"device,omitempty"`
	Offset   uint64 `json:"offset,omitempty"`
	Register string `json:"register,omitempty"`
	Note     string `json:"note,omitempty"`
	Queue    int    `json:"queue,omitempty"`
	Chains   int    `json:"chains,omitempty"`

	// Text tells the other events.
	Text string `json:"text,omitempty"`
}

// tracer writes a trace. A nil tracer writes none.
type tracer struct {
	log   *slog.Logger
	birth time.Time
	over  atomic.Bool // nothing more about exits and queues

	mu   sync.Mutex // guards what follows
	file *os.File   // nil once writing failed
	left int        // bytes
}

// newTracer returns nil without a file. A reader that is slow holds up the guest,
// one that stopped reading does not: hence the deadlines, which need a
// descriptor that does not block. Regular files have none and need none.
func newTracer(f *os.File, log *slog.Logger) *tracer {
	if f == nil {
		return nil
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		log.Warn("no trace", "err", err)
		return nil
	}
	f.Close()
	_ = unix.SetNonblock(fd, true) // fails for what does not block
	return &tracer{log: log, birth: time.Now(), file: os.NewFile(uintptr(fd), RoleTrace), left: traceLimit}
}

// hook is for vmm.Config.Trace: nil, at no cost, if nobody listens.
func (t *tracer) hook() func(vmm.Event) {
	if t == nil {
		return nil
	}
	return t.event
}

// event writes what the machine tells.
func (t *tracer) event(e vmm.Event) {
	if t.over.Load() {
		return
	}
	l := TraceEvent{
		Time: int64(e.Time), Took: int64(e.Took), Event: e.Kind.String(),
		Device: e.Device, Offset: e.Offset, Register: e.Register, Note: e.Note, Queue: e.Queue, Chains: e.Chains,
		Text: e.Text,
	}
	if x := e.Exit; x != nil {
		l.CPU, l.Exit = e.CPU, x.Kind.String()
		switch x.Kind {
		case kvm.ExitIO, kvm.ExitMMIO:
			l.Write, l.Address, l.Size = x.Write, fmt.Sprintf("%#x", x.Addr), int(x.Size)
			l.Value = hexValue(x.Data)
			if x.Count > 1 {
				l.Count = int(x.Count)
			}
		}
	}
	t.write(l, false)
}

// hexValue is the little-endian number that p holds.
func hexValue(p []byte) string {
	var b [traceData]byte
	copy(b[:], p)
	return fmt.Sprintf("%#x", binary.LittleEndian.Uint64(b[:]))
}

// say writes an event that is not the guest's to repeat: it is written whatever
// the trace's length.
func (t *tracer) say(l TraceEvent) {
	if t != nil {
		l.Time = int64(time.Since(t.birth))
		t.write(l, true)
	}
}

func (t *tracer) write(l TraceEvent, always bool) {
	line, err := json.Marshal(l)
	if err != nil {
		t.log.Warn("trace", "err", err)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !always && t.left < len(line)+1 {
		if t.over.Swap(true) {
			return
		}
		line, _ = json.Marshal(TraceEvent{Time: l.Time, Event: "cut",
			Text: fmt.Sprintf("the trace has reached %d MiB: what the guest does from here on is not told", traceLimit>>20)})
	}
	t.left -= len(line) + 1
	if t.file == nil {
		return
	}
	_ = t.file.SetWriteDeadline(time.Now().Add(tracePatience)) // see newTracer
	if _, err := t.file.Write(append(line, '\n')); err != nil {
		t.log.Warn("trace ends here", "err", err)
		t.over.Store(true)
		t.close()
	}
}

// close is called with t.mu held.
func (t *tracer) close() {
	if t.file != nil {
		t.file.Close()
		t.file = nil
	}
}

// booted tells the phases of a boot.
func (t *tracer) booted(b *Boot) {
	for _, p := range b.Phases {
		t.say(TraceEvent{Event: "phase", Took: int64(p.Duration), Text: p.Name})
	}
}

// end tells how the machine ended, and ends the trace.
func (t *tracer) end(text string) {
	if t == nil {
		return
	}
	t.say(TraceEvent{Event: "end", Text: text})
	t.over.Store(true)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.close()
}

// endText says why a machine ended.
func endText(reason vmm.Reason, err error) string {
	if err != nil {
		return err.Error()
	}
	return reason.String()
}
