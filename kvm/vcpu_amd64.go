package kvm

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// kickSignal gets a thread out of KVM_RUN. It is a real-time signal, SIGRTMAX-2:
// SIGURG is the Go runtime's, the classic ones have meanings, 32 to 34 belong to
// C libraries, and the low real-time ones to service managers. Go's own handler
// ignores it unless somebody asks for it.
const kickSignal = unix.Signal(62)

// VCPU is a virtual processor. One goroutine owns it, and alone calls its
// methods; only Kick may be called by others.
type VCPU struct {
	fd   int
	page []byte // struct kvm_run and what follows it

	// runner is the thread that is inside Run, 0 if none is.
	runner atomic.Int64
	// unblocked is the thread whose signal mask was last seen to. Run's own.
	unblocked int
	// bound is the thread of the goroutine that called Bind, 0 if none did.
	bound int
	// runs counts Run's calls, and yielded is when it last gave way; see yield.
	runs    uint32
	yielded time.Time

	mu     sync.Mutex // Close against Kick
	closed bool
	// signals is where os/signal may deliver kicks. Nobody reads it: asking
	// for them is what guarantees a handler.
	signals chan os.Signal
}

// CreateVCPU makes virtual processor id: 0 is the one that boots, and an id is
// the initial APIC ID too.
func (vm *VM) CreateVCPU(id int) (*VCPU, error) {
	fd, err := ioctlVal(vm.fd, "KVM_CREATE_VCPU", _KVM_CREATE_VCPU, uintptr(id))
	if err != nil {
		return nil, err
	}
	page, err := unix.Mmap(fd, 0, vm.runSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		_ = unix.Close(fd)
		return nil, &Error{fmt.Sprintf("mmap of vCPU %d", id), err}
	}
	v := &VCPU{fd: fd, page: page, signals: make(chan os.Signal, 1)}
	// Were the signal at its default, a kick would end the process; were it
	// ignored (signal.Ignore in the embedding program, or a C archive's
	// runtime), it would not interrupt anything.
	signal.Notify(v.signals, kickSignal)
	return v, nil
}

// Close unmaps and closes the vCPU. Nobody may be inside Run. A second Close
// does nothing, and so does a Kick from then on.
func (v *VCPU) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil
	}
	v.closed = true
	signal.Stop(v.signals)
	err := unix.Munmap(v.page)
	v.page = nil
	if e := unix.Close(v.fd); err == nil {
		err = e
	}
	v.fd = -1 // the number will soon be another file's
	if err != nil {
		return &Error{"close vCPU", err}
	}
	return nil
}

// Run lets the guest run until it exits. An interruption is an exit too:
// ExitInterrupted. Errors are the host's: the vCPU is not usable any more.
//
// A goroutine that calls Run more than once should Bind the vCPU first. Without,
// Run locks the goroutine to its thread for its own duration, and has to ask the
// kernel which thread that is.
//
// The exit's data belongs to the vCPU: handle it before the next Run, which
// completes a read with it. To let a read complete without going on, as before
// saving the state, Kick first.
func (v *VCPU) Run() (Exit, error) {
	if v.page == nil {
		return Exit{}, &Error{"KVM_RUN", ErrClosed}
	}
	v.yield()
	tid := v.bound
	if tid == 0 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tid = unix.Gettid()
	}
	if tid != v.unblocked {
		// A parent may have left the signal blocked, and Go keeps that.
		if err := unblock(kickSignal); err != nil {
			return Exit{}, err
		}
		v.unblocked = tid
	}
	v.runner.Store(int64(tid))
	errno := v.enter()
	v.runner.Store(0)

	switch errno {
	case 0:
		return decodeExit(v.page)
	case unix.EINTR:
		// Whoever kicked before this line gets this interruption; who kicks
		// after it gets the next.
		v.clearImmediateExit()
		return Exit{Kind: ExitInterrupted}, nil
	}
	return Exit{}, &Error{"KVM_RUN", errno}
}

// How often Run looks at the clock, and how long its goroutine may go without a
// pass through Go's scheduler.
const (
	yieldLook  = 32
	yieldAfter = 5 * time.Millisecond
)

// yield keeps the runtime's monitor thread asleep. A goroutine that only makes
// system calls never ends its time slice. After 10 ms of one (forcePreemptNS in
// runtime/proc.go) that thread takes the processor away during a system call,
// each time it looks, and looks again after 20 µs because it found something to
// do. A pass through the scheduler begins a new slice.
func (v *VCPU) yield() {
	if v.runs++; v.runs%yieldLook != 0 {
		return
	}
	if now := time.Now(); now.Sub(v.yielded) >= yieldAfter {
		v.yielded = now
		runtime.Gosched()
	}
}

// Bind locks the calling goroutine to its thread for all its Runs up to Unbind.
// KVM keeps a vCPU's state with the thread that runs it, and moving it costs
// (9.29 µs an exit against 7.96).
func (v *VCPU) Bind() {
	runtime.LockOSThread()
	v.bound = unix.Gettid()
}

// Unbind undoes Bind. The same goroutine calls it.
func (v *VCPU) Unbind() {
	v.bound = 0
	runtime.UnlockOSThread()
}

// Kick makes Run return ExitInterrupted: the Run that is under way, or else the
// next. Several kicks may make one interruption, none is lost. Any goroutine may
// call it at any time.
//
// The flag alone does not stop a guest that runs, and the signal alone is lost
// if it lands outside KVM_RUN. So the flag first: either KVM_RUN reads it on
// entry, or the thread had announced itself before, and gets the signal.
func (v *VCPU) Kick() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	v.setImmediateExit()
	if tid := v.runner.Load(); tid != 0 {
		// The thread may be gone by now, or do something else, to which the
		// signal does nothing.
		_ = unix.Tgkill(os.Getpid(), int(tid), kickSignal)
	}
}

func unblock(sig unix.Signal) error {
	var set unix.Sigset_t
	set.Val[(sig-1)/64] |= 1 << ((sig - 1) % 64)
	if err := unix.PthreadSigmask(unix.SIG_UNBLOCK, &set, nil); err != nil {
		return &Error{"pthread_sigmask", err}
	}
	return nil
}

// FailMSR answers the ExitRDMSR or ExitWRMSR that Run just returned with a
// general protection fault.
func (v *VCPU) FailMSR() { v.page[runMSRError] = 1 }
