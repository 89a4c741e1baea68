package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/state"
)

// Files are what a creator opened for its monitor. Start takes them: they are
// closed when it returns.
type Files struct {
	KVM, Kernel, Initramfs *os.File
	Lock                   *os.File
	Trace                  *os.File // may be nil
	Disks                  []Disk
}

// Disk is a disk of the guest. Serial names it to the agent.
type Disk struct {
	Serial   string
	Format   string // "" or "raw", or "qcow2"
	File     *os.File
	ReadOnly bool
	PMem     bool // read-only persistent memory instead of a block device
}

// Close closes all files.
func (f *Files) Close() error {
	var errs []error
	for _, file := range []*os.File{f.KVM, f.Kernel, f.Initramfs, f.Lock, f.Trace} {
		if file != nil {
			errs = append(errs, file.Close())
		}
	}
	for _, d := range f.Disks {
		errs = append(errs, d.File.Close())
	}
	*f = Files{}
	return errors.Join(errs...)
}

// BootError is a sandbox that did not come up: the stage that failed and the
// last lines of the guest's console.
type BootError struct {
	Stage   string
	Err     error
	Console string
}

func (e *BootError) Error() string {
	s := "sandbox did not start: " + e.Stage + ": " + e.Err.Error()
	if e.Console != "" {
		s += "\nthe console's last lines:\n" + e.Console
	}
	return s
}

func (e *BootError) Unwrap() error { return e.Err }

// Process is a monitor, seen by its creator.
type Process struct {
	Boot *Boot

	cmd  *exec.Cmd
	conn net.Conn

	ended chan struct{} // closed when the monitor said so, or died
	final *state.State  // set before ended; nil if it died without a word
	gone  chan struct{} // closed when the process is reaped

	mu       sync.Mutex
	detached bool
}

// Start starts the monitor of a sandbox and waits until its agent is ready. If
// ctx ends first, or anything fails, the monitor is killed and reaped before
// Start returns; the sandbox's directory is the caller's to remove.
func Start(ctx context.Context, d *state.Dir, spec Spec, files *Files) (_ *Process, err error) {
	defer files.Close()
	listener, err := listen(d)
	if err != nil {
		return nil, &BootError{Stage: "control socket", Err: err}
	}
	defer listener.Close()
	control, err := listener.File()
	if err != nil {
		return nil, &BootError{Stage: "control socket", Err: err}
	}
	defer control.Close()
	log, err := os.OpenFile(d.File(state.MonitorLog), os.O_CREATE|os.O_WRONLY|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, &BootError{Stage: "monitor log", Err: err}
	}
	defer log.Close()
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, &BootError{Stage: "socket", Err: err}
	}
	defer theirs.Close()

	spec.Magic = magic
	spec.Name = d.Name
	extra := []*os.File{theirs}
	spec.Files = nil
	add := func(r FileRole, f *os.File) {
		spec.Files = append(spec.Files, r)
		extra = append(extra, f)
	}
	add(FileRole{Role: RoleKVM}, files.KVM)
	add(FileRole{Role: RoleKernel}, files.Kernel)
	add(FileRole{Role: RoleInitramfs}, files.Initramfs)
	add(FileRole{Role: RoleLock}, files.Lock)
	add(FileRole{Role: RoleControl}, control)
	if files.Trace != nil {
		add(FileRole{Role: RoleTrace}, files.Trace)
	}
	for _, disk := range files.Disks {
		add(FileRole{Role: RoleDisk, Disk: disk.Serial, Format: disk.Format, ReadOnly: disk.ReadOnly, PMem: disk.PMem}, disk.File)
	}

	cmd := &exec.Cmd{
		Path: "/proc/self/exe",
		Args: []string{ProcessName, d.Name},
		// The monitor inherits no secret of its creator's environment.
		Env:        []string{},
		Dir:        "/",
		Stdout:     log,
		Stderr:     log,
		ExtraFiles: extra,
		// A session of its own: the terminal's Ctrl-C is not for it.
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, &BootError{Stage: "start the monitor process", Err: err}
	}
	p := &Process{
		cmd:      cmd,
		conn:     ours,
		detached: spec.Detached,
		ended:    make(chan struct{}),
		gone:     make(chan struct{}),
	}
	go p.reap()
	// Ours are closed now, so that the lock and the sockets are the monitor's
	// alone, and end with it.
	files.Close()
	for _, c := range []io.Closer{theirs, control, listener, log} {
		c.Close()
	}
	if err := p.await(ctx, &spec); err != nil {
		p.Abort()
		return nil, withLog(err, d)
	}
	if !spec.Hold {
		go p.listen()
	}
	return p, nil
}

// Begin lets commands run in a sandbox that was started with Hold. If it
// fails, or is not to be called any more, Abort ends the sandbox.
func (p *Process) Begin(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { p.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := json.NewEncoder(p.conn).Encode(request{Op: opBegin}); err != nil {
		return p.silence(ctx, err)
	}
	var msg Message
	if err := readMessage(p.conn, &msg); err != nil {
		return p.silence(ctx, err)
	}
	if msg.Event != eventRunning {
		return &BootError{Stage: "begin", Err: fmt.Errorf("unexpected event %q", msg.Event)}
	}
	if !stop() {
		return ctx.Err()
	}
	go p.listen()
	return nil
}

// await sends the Spec and waits for the answer.
func (p *Process) await(ctx context.Context, spec *Spec) error {
	stop := context.AfterFunc(ctx, func() { p.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := json.NewEncoder(p.conn).Encode(spec); err != nil {
		return p.silence(ctx, err)
	}
	var msg Message
	if err := readMessage(p.conn, &msg); err != nil {
		return p.silence(ctx, err)
	}
	if msg.Event == eventFailed {
		return &BootError{Stage: msg.Stage, Err: errors.New(msg.Error), Console: msg.Console}
	}
	if msg.Event != eventReady {
		return &BootError{Stage: "handshake", Err: fmt.Errorf("unexpected event %q", msg.Event)}
	}
	if !stop() {
		return ctx.Err()
	}
	p.Boot = msg.Boot
	return nil
}

// silence explains a socket that failed before the monitor answered.
func (p *Process) silence(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	<-p.gone
	return &BootError{Stage: "monitor process", Err: fmt.Errorf("it ended without a word (%s): %w", p.cmd.ProcessState, err)}
}

// Abort kills the monitor of a sandbox that did not begin and waits for its
// end.
func (p *Process) Abort() {
	p.cmd.Process.Kill()
	<-p.gone
	p.conn.Close()
}

// reap waits for the process, whoever ended it.
func (p *Process) reap() {
	p.cmd.Wait()
	close(p.gone)
}

// listen waits for the monitor's last message, or its death.
func (p *Process) listen() {
	var msg Message
	if err := readMessage(p.conn, &msg); err == nil && msg.Event == eventEnded {
		p.final = msg.State
	} else {
		<-p.gone
	}
	p.conn.Close() // nothing more is said either way
	close(p.ended)
}

// Ended is closed when the sandbox has ended and its directory holds, or no
// longer exists to hold, its last state. The process itself may take some
// milliseconds more to give its memory back; see Gone.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Final is the last state, nil if the monitor died without writing one. Call
// it after Ended.
func (p *Process) Final() *state.State { return p.final }

// Gone is closed when the process has been reaped.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// Detach tells the monitor to outlive this process.
func (p *Process) Detach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.detached {
		return nil
	}
	if err := json.NewEncoder(p.conn).Encode(request{Op: opDetach}); err != nil {
		return fmt.Errorf("%w (%w)", ErrGone, err)
	}
	p.detached = true
	return nil
}

// Release lets go of a detached sandbox: nothing is said to its monitor, or
// heard from it, any more. The process is still reaped when it ends.
func (p *Process) Release() error {
	if err := p.conn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Kill kills the monitor process itself: the last resort, when it does not
// answer. Its sandbox counts as crashed.
func (p *Process) Kill() error { return p.cmd.Process.Kill() }

// socketPair is a connected pair: our end as a connection, the other as a file
// to inherit.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "monitor"), os.NewFile(uintptr(fds[1]), "creator")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}

// readMessage reads one of the monitor's messages.
func readMessage(conn net.Conn, msg *Message) error { return readLineMax(conn, msg, maxMessage) }

// maxMessage bounds a monitor's message: it carries 16 KiB of console, which
// JSON may make six times as long.
const maxMessage = 256 << 10

// withLog adds the monitor's own last words to an error that has no better
// explanation.
func withLog(err error, d *state.Dir) error {
	var boot *BootError
	if !errors.As(err, &boot) || boot.Stage != "monitor process" {
		return err
	}
	data, readErr := os.ReadFile(d.File(state.MonitorLog))
	if readErr != nil || len(data) == 0 {
		return err
	}
	const tail = 2048
	boot.Err = fmt.Errorf("%w; its log ends:\n%s", boot.Err, data[max(0, len(data)-tail):])
	return boot
}
