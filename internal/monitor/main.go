package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/state"
	"github.com/sandpit-vm/sandpit/virtio"
	"github.com/sandpit-vm/sandpit/vmm"
)

// RunIfMonitor turns this process into a monitor, and does not return, if it
// was started as one. In every other process it does nothing, at the cost of
// one comparison.
func RunIfMonitor() {
	if len(os.Args) == 0 || os.Args[0] != ProcessName {
		return
	}
	logrus.SetOutput(io.Discard) // ttrpc's: a line for each answer that comes late
	// Init functions run locked to the main thread, which would make every
	// wake-up of this goroutine a switch of threads.
	status := make(chan int)
	go func() { status <- run() }()
	os.Exit(<-status)
}

// monitor is the life of one sandbox, from the monitor's side.
type monitor struct {
	spec *Spec
	in   *inherited
	dir  *state.Dir
	log  *slog.Logger
	// creator is the socket to the creator; it may be gone.
	creator net.Conn

	machine *vmm.Machine
	blocks  []*virtio.Blk
	logs    *logs
	link    *link
	control *control
	trace   *tracer

	drainer  drainer
	activity activity
	// stateMu guards state while the machine runs: it is declared by clients'
	// goroutines too, until final.
	stateMu sync.Mutex
	state   state.State
	final   bool
	stops   stops
	asked   *stopRequest // the request that ends the sandbox; main's own
	// creatorCleans: the creator knows that there is no sandbox, and removes
	// the directory. Two at once would be in each other's way.
	creatorCleans bool
	housekeeping  sync.WaitGroup // goroutines that end with the machine
	toClose       []io.Closer    // disks whose format keeps something back
	begun         chan struct{}  // has room for one: the creator ended the Hold
}

// Reasons in a final state.
const (
	ReasonStopped = "stopped" // Stop, or the guest powered off
	ReasonKilled  = "killed"  // Kill
	ReasonCreator = "creator-ended"
	ReasonDrained = "drained" // Drain, and the last command has ended
	ReasonIdle    = "idle-timeout"
	ReasonCrashed = "crashed"

	ReasonMaxDuration = "max-duration"
)

func run() int {
	began := now()
	conn, err := creatorSocket()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", ProcessName, err)
		return 2
	}
	dec := json.NewDecoder(io.LimitReader(conn, maxSpec))
	spec, err := readSpec(dec)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", ProcessName, err)
		return 2
	}
	// A thread that blocks in KVM_RUN or on a hot queue's eventfd may keep its
	// processor of Go's scheduler until the runtime takes it back, which takes
	// up to milliseconds: one for each vCPU, two for vsock, one for each disk,
	// and two for the rest.
	runtime.GOMAXPROCS(max(spec.CPUs+spec.disks()+4, runtime.NumCPU()))
	debug.SetGCPercent(50)

	m := &monitor{
		spec:    spec,
		creator: conn,
		stops:   newStops(),
		begun:   make(chan struct{}, 1),
		log:     slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: spec.LogLevel})),
	}
	spec.Clock.markAt("monitor process started", began)
	m.state = state.State{Status: state.Starting, Created: spec.Created}
	if m.in, err = adopt(spec); err == nil {
		m.dir, err = spec.Home.Open(spec.Name)
	}
	if err != nil {
		m.tell(Message{Event: eventFailed, Stage: "inherit", Error: err.Error()})
		return 2
	}
	return m.live(dec)
}

// creatorSocket is the socket this process was started with.
func creatorSocket() (net.Conn, error) {
	f := os.NewFile(handshakeFD, "creator")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("this name belongs to Sandpit's monitor process, which a sandbox starts by itself: %w", err)
	}
	unix.CloseOnExec(handshakeFD)
	return conn, nil
}

// live brings the sandbox up, waits for its end and cleans up. It returns the
// process's exit status.
func (m *monitor) live(dec *json.Decoder) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)

	// The creator's end, and its wish to be forgotten.
	go m.watchCreator(dec)

	var (
		reason vmm.Reason
		err    error
	)
	if stage, bootErr := m.boot(); bootErr != nil {
		m.fail(stage, bootErr)
		m.shutdownMachine()
		m.cleanUp()
		return 1
	}
	m.untilEnd(signals)
	reason, err = m.link.outcome()
	m.trace.end(endText(reason, err))
	diskErr := m.closeDisks()
	m.logs.close()
	m.finish(reason, err, diskErr)
	m.cleanUp()
	return 0
}

// untilEnd returns when the machine has ended, by itself or by somebody's wish.
func (m *monitor) untilEnd(signals <-chan os.Signal) {
	for {
		select {
		case <-m.begun:
			if err := m.begin(); err != nil {
				m.stops.request(stopRequest{reason: ReasonCrashed, detail: err.Error()})
			}
			continue
		case <-m.link.machineEnded:
		case sig := <-signals:
			m.endGracefully(stopRequest{reason: ReasonStopped, detail: "monitor received " + sig.String(), grace: m.spec.StopGrace})
		case req := <-m.stops.graceful:
			m.endGracefully(req)
		case req := <-m.stops.now:
			m.endNow(req)
		}
		return
	}
}

// watchCreator reads the creator's socket until it closes.
func (m *monitor) watchCreator(dec *json.Decoder) {
	detached := m.spec.Detached && !m.spec.Hold
	for {
		var r request
		if err := dec.Decode(&r); err != nil {
			if !detached {
				m.stops.request(stopRequest{reason: ReasonCreator, detail: "the creating process ended", grace: m.spec.StopGrace})
			}
			return
		}
		switch r.Op {
		case opDetach:
			detached = true
		case opBegin:
			detached = detached || m.spec.Detached
			select {
			case m.begun <- struct{}{}:
			default:
			}
		}
	}
}

// boot builds and starts the machine and waits for its agent. On error it
// names the stage that failed.
func (m *monitor) boot() (stage string, err error) {
	if stage, err := m.start(); err != nil {
		return stage, err
	}
	m.housekeeping.Go(m.watchRegisters) // a boot that does not end is asked too
	ctx, cancel := context.WithTimeout(context.Background(), m.spec.BootTimeout)
	defer cancel()
	if stage, err := m.meetAgent(ctx); err != nil {
		return stage, err
	}
	if !m.spec.Hold {
		if err := m.declareRunning(); err != nil {
			return "write the state", err
		}
	}
	boot := m.bootReport()
	m.trace.booted(boot)
	m.control.ready(boot)
	m.tell(Message{Event: eventReady, Boot: boot})
	// What the boot allocated is garbage now.
	debug.FreeOSMemory()
	return "", nil
}

// begin ends the Hold.
func (m *monitor) begin() error {
	if !m.spec.Hold {
		return nil
	}
	if err := m.declareRunning(); err != nil {
		return err
	}
	m.tell(Message{Event: eventRunning})
	return nil
}

// declareRunning lets the sandbox's times begin.
func (m *monitor) declareRunning() error {
	if err := m.declare(state.Running); err != nil {
		return err
	}
	m.housekeeping.Go(m.keepTime)
	if m.spec.IdleTimeout > 0 || m.spec.MaxDuration > 0 {
		m.housekeeping.Go(m.watchTimers)
	}
	return nil
}

// fail tells the creator why there is no sandbox, and writes it down for a
// sandbox that existed before.
func (m *monitor) fail(stage string, err error) {
	msg := Message{Event: eventFailed, Stage: stage, Error: shorten(err.Error())}
	if m.machine != nil {
		msg.Console = string(m.machine.ConsoleTail())
	}
	m.log.Error("sandbox did not come up", "stage", stage, "err", err)
	m.state.Status = state.Crashed
	m.state.Updated = time.Now()
	m.state.Reason, m.state.Detail, m.state.Console = ReasonCrashed, stage+": "+msg.Error, msg.Console
	if err := m.dir.WriteJSON(state.StateFile, m.state); err != nil {
		m.log.Error("state was not written", "err", err)
	}
	m.creatorCleans = m.tell(msg) == nil
}

// maxDetail bounds an error's text: the guest may have a part in it, and what
// is written down has to be readable again.
const maxDetail = 4 << 10

func shorten(s string) string {
	if len(s) <= maxDetail {
		return s
	}
	return strings.ToValidUTF8(s[:maxDetail], "") + "…"
}

// finish writes down how the sandbox ended. diskErr is what its disks lost: that
// is no orderly end, whatever the guest says.
func (m *monitor) finish(reason vmm.Reason, err, diskErr error) {
	m.housekeeping.Wait()
	m.stateMu.Lock()
	defer m.stateMu.Unlock()
	m.final = true
	s := &m.state
	s.Updated = time.Now()
	switch r := reason.(type) {
	case vmm.Shutdown:
		s.Status, s.Reason, s.Code = state.Stopped, ReasonStopped, int(r.Code)
		s.Detail = r.String()
	case vmm.Reset:
		// A sandbox does not start again by itself: what the guest asked for
		// is an end like any other.
		s.Status, s.Reason, s.Detail = state.Stopped, ReasonStopped, r.String()
	case vmm.Stopped:
		s.Status, s.Reason = state.Stopped, ReasonKilled
	case nil:
		s.Status, s.Reason, s.Detail = state.Crashed, ReasonCrashed, fmt.Sprint(err)
	default:
		s.Status, s.Reason, s.Detail = state.Crashed, ReasonCrashed, r.String()
		s.Console = string(m.machine.ConsoleTail())
	}
	if m.asked != nil && s.Status == state.Stopped {
		s.Reason, s.Detail = m.asked.reason, m.asked.detail
	}
	if diskErr != nil {
		m.log.Error("disks", "err", diskErr)
		s.Status, s.Reason, s.Detail = state.Crashed, ReasonCrashed, diskErr.Error()
	}
	if err := m.dir.WriteJSON(state.StateFile, s); err != nil {
		m.log.Error("state was not written", "err", err)
	}
	m.log.Info("sandbox ended", "status", s.Status, "reason", s.Reason, "detail", s.Detail)
}

// cleanUp releases what would outlive the process: the socket's name and, for
// an ephemeral sandbox, the whole directory. The creator is told last. Guest
// memory and KVM's descriptors are left to the end of the process, which the
// creator need not wait for.
func (m *monitor) cleanUp() {
	if err := m.closeDisks(); err != nil { // of a boot that failed
		m.log.Error("disks", "err", err)
	}
	m.logs.close() // of a boot that failed
	if m.control != nil {
		m.control.refuse()
	}
	if err := os.Remove(m.dir.File(state.ControlSocket)); err != nil && !errors.Is(err, os.ErrNotExist) {
		m.log.Error("control socket was not removed", "err", err)
	}
	if m.spec.Ephemeral && !m.creatorCleans {
		if err := m.dir.RemoveLocked(); err != nil {
			m.log.Error("directory was not removed", "err", err)
		}
	}
	if m.control != nil {
		m.control.end(&m.state)
	}
	m.tell(Message{Event: eventEnded, State: &m.state})
	m.creator.Close()
}

// tell sends a message to the creator, who may be gone or stuck: that is not
// the monitor's problem.
func (m *monitor) tell(msg Message) error {
	m.creator.SetWriteDeadline(time.Now().Add(5 * time.Second))
	err := json.NewEncoder(m.creator).Encode(msg)
	if err != nil {
		m.log.Debug("creator was not told", "event", msg.Event, "err", err)
	}
	return err
}
