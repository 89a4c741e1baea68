package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// guestRole tells a re-execution of the test binary to be PID 1 of a pretend
// guest: its own PID and mount namespaces on this machine.
const guestRole = "AGENT_TEST_ROLE"

func TestMain(m *testing.M) {
	switch {
	case os.Args[0] == StageName:
		Stage()
	case os.Getenv(guestRole) != "":
		if err := pretendGuest(os.Getenv(guestRole)); err != nil {
			fmt.Fprintln(os.Stderr, "pretend guest:", err)
		}
		os.Exit(254)
	}
	os.Exit(m.Run())
}

// pretendGuest serves the listener on descriptor 3 as PID 1.
func pretendGuest(role string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	if err := mount("devpts", "/dev/pts", "devpts", 0, "newinstance,gid=5,mode=0620,ptmxmode=0666"); err != nil {
		return err
	}
	if err := mount("/dev/pts/ptmx", "/dev/ptmx", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	group := ""
	if role == "cgroup" {
		dir, err := os.MkdirTemp("", "agent-test-cgroup-")
		if err != nil {
			return err
		}
		if err := mount("cgroup2", dir, "cgroup2", 0, ""); err != nil {
			return err
		}
		delegate(dir)
		group = filepath.Join(dir, filepath.Base(dir))
		if err := os.Mkdir(group, 0o755); err != nil {
			return err
		}
		delegate(group)
	}
	if err := closeInherited(); err != nil {
		return err
	}
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	a, err := New(Config{
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Setup: func(*proto.SetupRequest) (*proto.SetupResponse, string, error) {
			return &proto.SetupResponse{}, group, nil
		},
		DialOutput: func() (net.Conn, error) { return net.Dial("unix", os.Getenv(outputEnv)) },
		PowerOff: func(code uint8) {
			if group != "" {
				_ = os.Remove(group + "/sandpit")
				_ = os.Remove(group)
				_ = unix.Unmount(filepath.Dir(group), unix.MNT_DETACH)
				_ = os.Remove(filepath.Dir(group))
			}
			os.Exit(int(code))
		},
	})
	if err != nil {
		return err
	}
	handleSignals(a, slog.New(slog.DiscardHandler))
	countGoroutines()
	go func() { _ = a.Serve(l) }()
	return a.Run(context.Background())
}

// countGoroutines tells the number of goroutines, after the number of the
// question, in the process's name at every SIGWINCH: not at a signal that nohup
// has the test ignore, for its children are to do so too.
func countGoroutines() {
	ask := make(chan os.Signal, 1)
	signal.Notify(ask, unix.SIGWINCH)
	go func() {
		for n := 1; ; n++ {
			<-ask
			_ = os.WriteFile("/proc/self/comm", fmt.Appendf(nil, "%d:%d", n, runtime.NumGoroutine()), 0)
		}
	}()
}

// goroutines is how many the agent has.
func (g *guest) goroutines() (count int) {
	g.t.Helper()
	g.asked++
	require.NoError(g.t, g.cmd.Process.Signal(unix.SIGWINCH))
	require.Eventually(g.t, func() bool {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", g.cmd.Process.Pid))
		require.NoError(g.t, err)
		question := 0
		_, err = fmt.Sscanf(string(comm), "%d:%d", &question, &count)
		return err == nil && question == g.asked
	}, 5*time.Second, time.Millisecond)
	return count
}

// guest is a pretend guest, from outside.
type guest struct {
	t      testing.TB
	socket string
	cmd    *exec.Cmd
	done   chan struct{}
	stderr bytes.Buffer
	asked  int // by goroutines
}

// newGuest starts a pretend guest that has been set up. role is "cgroup" or
// "plain".
func newGuest(t testing.TB, role string, setup *proto.SetupRequest) *guest {
	t.Helper()
	if os.Geteuid() != 0 {
		if testing.Short() {
			t.Skip("needs root for namespaces")
		}
		t.Fatal("needs root for namespaces: run as root, or with go test -exec bin/kvmrig, or with -short")
	}
	dir, err := os.MkdirTemp("", "agent-test-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { os.RemoveAll(dir) })
	g := &guest{t: t, socket: filepath.Join(dir, "s"), done: make(chan struct{})}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: g.socket, Net: "unix"})
	require.NoError(t, err)
	f, err := l.File()
	require.NoError(t, err)
	g.cmd = exec.Command("/proc/self/exe")
	g.cmd.Args[0] = "pretend-guest"
	g.cmd.Env = append(os.Environ(), guestRole+"="+role)
	g.cmd.ExtraFiles = []*os.File{f}
	g.cmd.Stderr = &g.stderr
	g.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	require.NoError(t, g.cmd.Start())
	f.Close()
	l.SetUnlinkOnClose(false)
	l.Close()
	go func() {
		_ = g.cmd.Wait()
		close(g.done)
	}()
	t.Cleanup(g.stop)
	if setup != nil {
		_, err := g.client().Setup(g.ctx(), setup)
		require.NoError(t, err)
	}
	return g
}

func (g *guest) stop() {
	select {
	case <-g.done:
	default:
		if c, err := net.Dial("unix", g.socket); err == nil {
			client := ttrpc.NewClient(c)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			_, _ = proto.NewAgentClient(client).Shutdown(ctx, &proto.ShutdownRequest{})
			cancel()
			client.Close()
		}
		_ = g.cmd.Process.Kill()
		<-g.done
	}
	if strings.Contains(g.stderr.String(), "DATA RACE") || strings.Contains(g.stderr.String(), "panic") {
		g.t.Error("a race or a panic in the guest")
	}
	if g.t.Failed() {
		g.t.Logf("guest's stderr:\n%s", g.stderr.String())
	}
}

func (g *guest) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	g.t.Cleanup(cancel)
	return ctx
}

func (g *guest) dial() net.Conn {
	c, err := net.Dial("unix", g.socket)
	require.NoError(g.t, err)
	return c
}

func (g *guest) client() proto.AgentClient {
	c := ttrpc.NewClient(g.dial())
	g.t.Cleanup(func() { c.Close() })
	return proto.NewAgentClient(c)
}

// start starts a command; its ID is the test's business if it is given.
func (g *guest) start(s *proto.ExecStart, stdout, stderr *bytes.Buffer) (*proto.Exec, error) {
	if s.Id == "" {
		s.Id = fmt.Sprintf("e%d", time.Now().UnixNano())
	}
	// A nil *bytes.Buffer must not become a non-nil io.Writer.
	switch {
	case stdout == nil && stderr == nil:
		return proto.StartExec(g.ctx(), g.dial(), s, nil, nil)
	case stderr == nil:
		return proto.StartExec(g.ctx(), g.dial(), s, stdout, nil)
	}
	return proto.StartExec(g.ctx(), g.dial(), s, stdout, stderr)
}

// result is all there is to know about a command that has ended.
type result struct {
	stdout, stderr string
	exit           *proto.ExecExit
}

func (g *guest) run(s *proto.ExecStart) result {
	g.t.Helper()
	var out, errs bytes.Buffer
	e, err := g.start(s, &out, &errs)
	require.NoError(g.t, err)
	exit, err := e.Wait()
	require.NoError(g.t, err)
	return result{out.String(), errs.String(), exit}
}

func (g *guest) sh(script string) result {
	g.t.Helper()
	return g.run(&proto.ExecStart{Args: []string{"sh", "-c", script}})
}

// processes lists the guest's processes but PID 1: "pid state command".
func (g *guest) processes() []string {
	g.t.Helper()
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", g.cmd.Process.Pid))
	require.NoError(g.t, err)
	entries, err := os.ReadDir("/proc")
	require.NoError(g.t, err)
	var out []string
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == g.cmd.Process.Pid {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// A zombie has no namespaces any more: its parent tells.
		rest := string(stat[bytes.LastIndexByte(stat, ')')+1:])
		f := strings.Fields(rest)
		its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
		if its == ns || err != nil && f[0] == "Z" && f[1] == strconv.Itoa(g.cmd.Process.Pid) {
			out = append(out, fmt.Sprintf("%d %s %s", pid, f[0], stat[:bytes.LastIndexByte(stat, ')')+1]))
		}
	}
	return out
}

func (g *guest) requireNoProcesses() {
	g.t.Helper()
	require.Eventually(g.t, func() bool { return len(g.processes()) == 0 }, 5*time.Second, 5*time.Millisecond,
		"left behind: %v", g.processes())
}

// rss is the resident memory of the agent.
func (g *guest) rss() int64 {
	g.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	require.NoError(g.t, err)
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			require.NoError(g.t, err)
			return n << 10
		}
	}
	g.t.Fatal("no VmRSS")
	return 0
}
