package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// signalGrace is between SIGTERM and SIGKILL when the guest itself powers off.
const signalGrace = 3 * time.Second

// Init is the life of PID 1. It never returns: its end would be the kernel's.
func Init() {
	// Small and seldom: what the agent allocates is the guest's memory.
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(32 << 20)

	openStdio()
	_ = closeInherited()
	early := mountEarly()
	log, console := openLog()
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(console, "sandpit-agent: panic: %v\n%s\n", p, debug.Stack())
		}
		log.Error("agent ended")
		powerOff(nil, 255)
	}()
	if early != nil {
		log.Error("early mounts", "err", early)
	}
	// What commands start with, like elsewhere; the kernel's are 1024 and 4096.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 65536, Max: 1 << 20}); err != nil {
		log.Warn("limit of open files", "err", err)
	}
	if err := run(log); err != nil {
		log.Error("agent", "err", err)
		fmt.Fprintf(console, "sandpit-agent: %v\n", err)
	}
}

func run(log *slog.Logger) error {
	// Opened before a guest program can put another file in its place.
	ports, err := os.OpenFile("/dev/port", os.O_WRONLY, 0)
	if err != nil {
		log.Warn("no exit device: power-off will reset the machine", "err", err)
		ports = nil
	}
	loopback := make(chan error, 1)
	go func() { loopback <- raiseLoopback() }()
	var mounted *root
	a, err := New(Config{
		Log: log,
		Setup: func(r *proto.SetupRequest) (*proto.SetupResponse, string, error) {
			var resp *proto.SetupResponse
			var cgroup string
			var err error
			mounted, resp, cgroup, err = setUp(r, log)
			if err := <-loopback; err != nil {
				log.Warn("setup", "err", err)
			}
			return resp, cgroup, err
		},
		DialOutput: func() (net.Conn, error) { return dialVsock(unix.VMADDR_CID_HOST, proto.OutputPort) },
		PowerOff: func(code uint8) {
			writeBack(mounted, log)
			powerOff(ports, code)
		},
	})
	if err != nil {
		return err
	}
	handleSignals(a, log)
	go func() {
		defer logPanic(log)
		listen(a, log)
	}()
	go func() {
		defer logPanic(log)
		dial(a, log)
	}()
	return a.Run(context.Background())
}

// setUp does what the Setup call asks for.
func setUp(r *proto.SetupRequest, log *slog.Logger) (*root, *proto.SetupResponse, string, error) {
	mounted, err := enterRoot(r)
	if err != nil {
		return nil, nil, "", err
	}
	cgroup, err := furnish(r, log)
	if err != nil {
		return nil, nil, "", err
	}
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	return mounted, &proto.SetupResponse{
		KernelRelease: unix.ByteSliceToString(uts.Release[:]),
		TmpfsUpper:    mounted.tmpfsUpper,
		Phases:        &proto.Phases{RootMountedNs: mounted.mountedNs},
	}, cgroup, nil
}

// openStdio fills descriptors 0 to 2 when the kernel found no console, lest
// they become something else's.
func openStdio() {
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDWR, 0)
		if err != nil {
			fd, err = unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		}
		if err != nil {
			return
		}
		if fd > 2 {
			unix.Close(fd)
			return
		}
	}
}

// closeInherited keeps all descriptors but 0 to 2 from commands. The agent's
// own never get that far, but it did not open what it was started with.
func closeInherited() error {
	return unix.CloseRange(3, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC)
}

// mountEarly mounts what finding the disks needs.
func mountEarly() error {
	var errs []error
	for _, m := range []mountPoint{
		{source: "devtmpfs", target: "/dev", fstype: "devtmpfs", flags: unix.MS_NOSUID, data: "mode=0755"},
		{source: "proc", target: "/proc", fstype: "proc"},
		{source: "sysfs", target: "/sys", fstype: "sysfs"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// openLog logs to the kernel's log, which keeps it off the console unless the
// command line asks for more. console is for last words.
func openLog() (log *slog.Logger, console io.Writer) {
	console = os.Stderr
	if f, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0); err == nil {
		console = f
	}
	w := console
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		w = f
	}
	return slog.New(newKmsgHandler(w)), console
}

// handleSignals reaps children, and shuts down on the signals by which
// poweroff, halt and reboot of various kinds speak to PID 1.
func handleSignals(a *Agent, log *slog.Logger) {
	child := make(chan os.Signal, 1)
	signal.Notify(child, unix.SIGCHLD)
	go func() {
		for {
			reapOnce(a, child, log)
		}
	}()
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM, unix.SIGINT, unix.SIGPWR, unix.SIGUSR1, unix.SIGUSR2)
	go func() {
		defer logPanic(log)
		s := <-end
		log.Info("shutting down", "signal", s.String())
		a.Stop(0, signalGrace)
	}()
}

func reapOnce(a *Agent, child <-chan os.Signal, log *slog.Logger) {
	defer logPanic(log)
	<-child
	a.Reap()
}

func logPanic(log *slog.Logger) {
	if p := recover(); p != nil {
		log.Error("panic", "value", fmt.Sprint(p), "stack", string(debug.Stack()))
	}
}

// listen serves the host's connections.
func listen(a *Agent, log *slog.Logger) {
	for wait := retryFirst; ; wait = min(2*wait, retryMax) {
		l, err := listenVsock(proto.Port, unix.VMADDR_CID_HOST)
		if err == nil {
			err = a.Serve(l)
			l.Close()
		}
		log.Error("vsock listener; trying again", "err", err, "after", wait)
		time.Sleep(wait)
	}
}

// Waits between attempts.
const (
	retryFirst = 10 * time.Millisecond
	retryMax   = time.Second
)

// dial keeps a connection to the monitor and serves it. If it breaks, what
// runs in the guest goes on.
func dial(a *Agent, log *slog.Logger) {
	wait, quiet := retryFirst, false
	for {
		conn, err := dialVsock(unix.VMADDR_CID_HOST, proto.Port)
		if err == nil {
			a.Connected()
			wait, quiet = retryFirst, false
			err = a.ServeConn(conn)
		}
		if !quiet {
			log.Warn("no connection to the monitor; trying on", "err", fmt.Sprint(err))
			quiet = true
		}
		time.Sleep(wait)
		wait = min(2*wait, retryMax)
	}
}
