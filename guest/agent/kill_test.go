package agent

import (
	"bytes"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// stubborn leaves descendants in other sessions that ignore every polite
// signal and hold the output open.
const stubborn = `trap "" TERM HUP INT
echo before
for i in 1 2 3; do setsid sh -c 'trap "" TERM HUP INT; (setsid sleep 1000 &); while :; do sleep 1; done' & done
sleep 0.2
echo started
wait`

func TestExec_TimeoutKillsTree(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	begin := time.Now()
	r := g.run(&proto.ExecStart{Args: []string{"sh", "-c", stubborn}, TimeoutNs: int64(time.Second)})
	require.True(t, r.exit.TimedOut)
	require.EqualValues(t, syscall.SIGKILL, r.exit.Signal)
	require.Equal(t, "before\nstarted\n", r.stdout)
	require.Less(t, time.Since(begin), 10*time.Second)
	g.requireNoProcesses()
}

func TestExec_TimeoutNotReached(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	r := g.run(&proto.ExecStart{Args: []string{"true"}, TimeoutNs: int64(time.Minute)})
	require.False(t, r.exit.TimedOut)
	require.Zero(t, r.exit.Code)
}

func TestExec_TimeoutWithoutCgroup(t *testing.T) {
	g := newGuest(t, "plain", &proto.SetupRequest{})
	r := g.run(&proto.ExecStart{Args: []string{"sh", "-c", `trap "" TERM; echo a; sleep 1000 & wait`}, TimeoutNs: int64(300 * time.Millisecond)})
	require.True(t, r.exit.TimedOut)
	require.Equal(t, "a\n", r.stdout)
	g.requireNoProcesses()
}

func TestExec_ConnectionLossKillsTree(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	for _, stdin := range []bool{false, true} {
		e, err := g.start(&proto.ExecStart{Args: []string{"sh", "-c", stubborn}, Stdin: stdin}, nil, nil)
		require.NoError(t, err)
		if stdin { // blocked on it, too
			go func() { _, _ = e.Write(make([]byte, 8<<20)) }()
		}
		time.Sleep(500 * time.Millisecond)
		require.NotEmpty(t, g.processes())
		require.NoError(t, e.Close())
		_, err = e.Wait()
		require.ErrorIs(t, err, proto.ErrLost)
		g.requireNoProcesses()
	}
}

func TestExec_SignalGroup(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	var out bytes.Buffer
	e, err := g.start(&proto.ExecStart{Id: "s", Args: []string{"sh", "-c", `trap 'echo usr1' USR1; echo ready; while :; do sleep 0.05; done`}}, &out, nil)
	require.NoError(t, err)
	time.Sleep(300 * time.Millisecond)
	c := g.client()
	_, err = c.Signal(g.ctx(), &proto.SignalRequest{Id: "s", Signal: int32(syscall.SIGUSR1)})
	require.NoError(t, err)
	time.Sleep(200 * time.Millisecond)
	_, err = c.Signal(g.ctx(), &proto.SignalRequest{Id: "s", Signal: int32(syscall.SIGTERM)})
	require.NoError(t, err)
	exit, err := e.Wait()
	require.NoError(t, err)
	require.EqualValues(t, syscall.SIGTERM, exit.Signal)
	require.EqualValues(t, 143, exit.Code)
	require.Contains(t, out.String(), "ready\n")
	for _, bad := range []*proto.SignalRequest{{Id: "s", Signal: 15}, {Id: "nobody", Signal: 15}, {Id: "s", Signal: 0}, {Id: "s", Signal: 99}, {Id: "s", Signal: -9}} {
		_, err = c.Signal(g.ctx(), bad)
		require.Error(t, err)
	}
}

// A background process that keeps the output open delays the exit by the
// grace only, lives on, and does not lose what was written before.
func TestExec_BackgroundProcess(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	begin := time.Now()
	r := g.sh("sleep 1000 & echo hello; (sleep 0.1; echo late) &")
	require.Equal(t, "hello\nlate\n", r.stdout)
	require.Zero(t, r.exit.Code)
	require.Less(t, time.Since(begin), 5*time.Second)
	require.Len(t, g.processes(), 1)
	g.sh("pkill sleep || kill $(pidof sleep)")
	g.requireNoProcesses()
}

// Output that the caller has not taken yet when the grace ends is not lost.
func TestExec_SlowReaderAndBackground(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	n := 0
	out := writerFunc(func(p []byte) (int, error) {
		if n == 0 {
			time.Sleep(1500 * time.Millisecond)
		}
		n += len(p)
		return len(p), nil
	})
	e, err := proto.StartExec(g.ctx(), g.dial(), &proto.ExecStart{Id: "x", Args: []string{"sh", "-c", "sleep 1000 & head -c 1100000 /dev/zero"}}, out, nil)
	require.NoError(t, err)
	exit, err := e.Wait()
	require.NoError(t, err)
	require.Zero(t, exit.Code)
	require.Equal(t, 1100000, n)
}

func TestReaper_NoZombies(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	r := g.sh(`i=0; while [ $i -lt 200 ]; do (setsid true &); i=$((i+1)); done; exit 5`)
	require.EqualValues(t, 5, r.exit.Code)
	g.requireNoProcesses()
}

func TestExec_CPUTime(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	r := g.sh(`i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done`)
	require.Positive(t, r.exit.UserNs+r.exit.SystemNs)
}

// The kernel's cgroup v2 must have the memory controller: the rig's has, and
// a development machine with both versions of cgroups may not.
func TestExec_OOMKilled(t *testing.T) {
	if os.Getenv("KVMRIG") == "" {
		t.Skip("runs in the rig: go test -exec bin/kvmrig ./guest/agent")
	}
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	r := g.sh(`d=$(sed -n 's/^0:://p' /proc/self/cgroup); m=$(sed -n 's/.* \(\/tmp\/agent-test-cgroup-[^ ]*\) .*cgroup2.*/\1/p' /proc/self/mountinfo)
echo 16M > $m$d/memory.max && echo 0 > $m$d/memory.swap.max; head -c 100M /dev/zero | tail -c 90M > /dev/null; exit 4`)
	require.True(t, r.exit.OomKilled, r.stderr)
	require.False(t, g.sh("true").exit.OomKilled)
}

func TestShutdown(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	var out bytes.Buffer
	e, err := g.start(&proto.ExecStart{Args: []string{"sh", "-c", `trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done`}}, &out, nil)
	require.NoError(t, err)
	deaf, err := g.start(&proto.ExecStart{Args: []string{"sh", "-c", stubborn}}, nil, nil)
	require.NoError(t, err)
	time.Sleep(500 * time.Millisecond)
	done := make(chan error, 1)
	c := g.client()
	go func() {
		_, err := c.Shutdown(g.ctx(), &proto.ShutdownRequest{Code: 42, GraceNs: int64(time.Second)})
		done <- err
	}()
	time.Sleep(300 * time.Millisecond)
	_, err = g.start(&proto.ExecStart{Args: []string{"true"}}, nil, nil)
	var failed *proto.StartError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, proto.StartFailure_DRAINING, failed.Failure.GetKind())
	exit, err := e.Wait()
	require.NoError(t, err)
	require.EqualValues(t, 9, exit.Code)
	require.True(t, strings.HasSuffix(out.String(), "bye\n"), out.String())
	exit, err = deaf.Wait()
	require.NoError(t, err)
	require.EqualValues(t, syscall.SIGKILL, exit.Signal)
	require.Error(t, <-done) // the machine is gone
	<-g.done
	require.Equal(t, 42, g.cmd.ProcessState.ExitCode())
}

// The guest's own poweroff and reboot speak to PID 1 by signals.
func TestShutdown_BySignal(t *testing.T) {
	for _, sig := range []string{"TERM", "PWR", "USR2"} {
		g := newGuest(t, "cgroup", &proto.SetupRequest{})
		e, err := g.start(&proto.ExecStart{Args: []string{"sh", "-c", "kill -" + sig + " 1; sleep 1000"}}, nil, nil)
		require.NoError(t, err)
		exit, err := e.Wait()
		require.NoError(t, err)
		require.EqualValues(t, syscall.SIGTERM, exit.Signal)
		<-g.done
		require.Zero(t, g.cmd.ProcessState.ExitCode())
	}
}

func TestSetup_Once(t *testing.T) {
	g := newGuest(t, "cgroup", nil)
	_, err := g.start(&proto.ExecStart{Args: []string{"true"}}, nil, nil)
	var failed *proto.StartError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, proto.StartFailure_NOT_READY, failed.Failure.GetKind())
	c := g.client()
	_, err = c.Setup(g.ctx(), &proto.SetupRequest{Hostname: "a/b"})
	require.ErrorContains(t, err, "hostname")
	resp, err := c.Setup(g.ctx(), &proto.SetupRequest{})
	require.NoError(t, err)
	require.Positive(t, resp.GetPhases().GetReadyNs())
	_, err = c.Setup(g.ctx(), &proto.SetupRequest{})
	require.ErrorContains(t, err, "before")
	ping, err := c.Ping(g.ctx(), &proto.PingRequest{})
	require.NoError(t, err)
	require.EqualValues(t, proto.Version, ping.GetProtocol())
	require.Positive(t, ping.GetUptimeNs())
}
