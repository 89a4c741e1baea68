package agent

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// maxExecs is how many commands run at the same time.
const maxExecs = 1024

// Config is what an Agent needs of the machine that it runs on.
type Config struct {
	// Log may be nil.
	Log *slog.Logger
	// Setup prepares the machine. It is called once. It returns the path of
	// the cgroup v2 mount, "" if there is none: descendants of a command that
	// leave its process group are then out of reach. Nil: nothing to prepare.
	Setup func(*proto.SetupRequest) (*proto.SetupResponse, string, error)
	// DialOutput connects to the host's port for what commands write
	// (proto.OutputPort). Nil: a Setup that asks for it is refused.
	DialOutput func() (net.Conn, error)
	// PowerOff writes back the file systems and ends the machine. It does not
	// return, but in tests.
	PowerOff func(code uint8)
}

// Agent serves the protocol. Its goroutines: one per connection and call (by
// ttrpc), those of each execution (exec.go), and the reaper's.
type Agent struct {
	log     *slog.Logger
	config  Config
	reaper  *reaper
	server  *ttrpc.Server
	conns   *connQueue
	cgroups *cgroups // set by Setup, before ready
	chunks  chunkPool
	patches patcher
	files   *files
	capture *capture // nil: not asked for. Set by Setup, before ready

	measuring oneMeasurement

	shutdown sync.Once
	// execConns counts the connections that carry an Exec. A caller closes its
	// connection when it has the exit.
	execConns atomic.Int64

	mu             sync.Mutex
	phases         proto.Phases
	setup          setupState
	draining       bool
	execs          map[string]*execution // by ID; without a PID while it starts
	calls          int                   // Exec calls that have not returned, and kept commands
	keptEnded      []*kept               // the last ones, the oldest first
	work           int                   // see beginWork
	lastActive     int64                 // when a command, or work, last ended; monotonic, ns
	drained        chan struct{}         // closed when draining has nothing left to wait for
	serial         uint64                // of the last execution
	defaultEnv     []string
	defaultRlimits []*proto.Rlimit
	scripts        bool // there are some: they come first in PATH
	stopSignal     syscall.Signal
}

type setupState int

const (
	setupNone setupState = iota
	setupRunning
	setupFailed
	setupHeld // patches may come; no command runs yet
	setupDone
)

// New makes an agent. From then on it reaps all children of the process, when
// [Agent.Reap] is called.
func New(c Config) (*Agent, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		return nil, &Error{Op: "ttrpc server", Err: err}
	}
	a := &Agent{
		log: c.Log, config: c, server: server,
		conns:     newConnQueue(),
		execs:     map[string]*execution{},
		measuring: make(oneMeasurement, 1),
		drained:   make(chan struct{}),
		patches:   patcher{root: -1}, stopSignal: syscall.SIGTERM,
	}
	a.reaper = newReaper(a.orphanReaped)
	a.phases.InitNs = monotonic()
	a.files = newFiles(a)
	proto.RegisterAgentService(server, a)
	proto.RegisterFilesService(server, a.files)
	return a, nil
}

// Run serves the connections given to ServeConn and Serve until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { a.server.Close() })
	defer stop()
	quiet := logrus.New() // ttrpc's own log; what matters of it is in ours
	quiet.SetOutput(io.Discard)
	return a.server.Serve(log.WithLogger(ctx, logrus.NewEntry(quiet)), a.conns)
}

// ServeConn serves one connection and returns when it has ended.
func (a *Agent) ServeConn(conn net.Conn) error {
	g := a.newGuard(conn)
	if err := a.conns.push(g); err != nil {
		conn.Close()
		return err
	}
	<-g.closed
	return nil
}

func (a *Agent) newGuard(conn net.Conn) *guard {
	g := newGuard(conn, a.log)
	g.execs = &a.execConns
	return g
}

// Serve serves every connection of a listener.
func (a *Agent) Serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		if err := a.conns.push(a.newGuard(conn)); err != nil {
			conn.Close()
			return err
		}
	}
}

// Reap buries the children that have ended. It is to be called after every
// SIGCHLD.
func (a *Agent) Reap() { a.reaper.reap() }

// Connected notes when the connection to the host stood.
func (a *Agent) Connected() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.phases.ConnectedNs == 0 {
		a.phases.ConnectedNs = monotonic()
	}
}

func (a *Agent) orphanReaped() {
	a.mu.Lock()
	cg := a.cgroups
	a.mu.Unlock()
	if cg != nil {
		cg.sweep()
	}
}

// admit reserves the execution's ID and a place.
func (a *Agent) admit(x *execution) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := x.start.GetId()
	if err := a.admittingLocked(); err != nil {
		return err
	}
	if a.calls >= maxExecs {
		return fail(proto.StartFailure_TOO_MANY, nil, "%d commands are running already", maxExecs)
	}
	if _, taken := a.execs[id]; taken {
		return fail(proto.StartFailure_BAD_ARGS, nil, "exec id %q is taken", id)
	}
	a.execs[id] = x
	a.calls++
	a.serial++
	x.serial = a.serial
	return nil
}

func (a *Agent) started(x *execution, pid int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	x.pid, x.since = pid, time.Now()
}

// ended frees the ID before the caller learns of the end: it may use the ID
// again at once.
func (a *Agent) ended(x *execution) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if id := x.start.GetId(); a.execs[id] == x {
		delete(a.execs, id)
	}
}

// release notes that the call has returned, or the kept command has ended.
func (a *Agent) release(x *execution) {
	a.ended(x)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls--
	a.restLocked()
}

func (a *Agent) running(id string) (*execution, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if x := a.execs[id]; x != nil && x.pid != 0 {
		return x, nil
	}
	return nil, status.Errorf(codes.NotFound, "no exec %q is running", shorten(id))
}

// isInit tells whether signals to all processes are the agent's to send.
func isInit() bool { return os.Getpid() == 1 }

// pollEvery is how often the end of the last processes is looked for.
const pollEvery = 2 * time.Millisecond
