package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// keep starts a command that is kept on a terminal of 24 by 80.
func keep(t *testing.T, g *guest, id, script string) (*proto.Exec, *shown) {
	t.Helper()
	return startTTY(t, g, &proto.ExecStart{Id: id, Keep: true, Args: []string{"sh", "-c", script}})
}

func reattach(t *testing.T, g *guest, id string) (*proto.Exec, *shown) {
	t.Helper()
	out := new(shown)
	e, err := proto.AttachExec(g.ctx(), g.dial(), &proto.AttachStart{Id: id, Rows: 24, Cols: 80}, out)
	require.NoError(t, err)
	return e, out
}

// picture is what a terminal of 24 by 80 shows.
func (s *shown) picture() string {
	u := newScreen(24, 80)
	_, _ = u.Write([]byte(s.String()))
	return u.picture()
}

func typed(t *testing.T, e *proto.Exec, keys string) {
	t.Helper()
	_, err := e.Write([]byte(keys))
	require.NoError(t, err)
}

// listed is the entry of a running command, nil if it does not run.
func (g *guest) listed(id string) *proto.ExecInfo {
	g.t.Helper()
	list, err := g.client().Execs(g.ctx(), &proto.ExecsRequest{})
	require.NoError(g.t, err)
	for _, x := range list.Execs {
		if x.Id == id {
			return x
		}
	}
	return nil
}

// counting prints a number at a time, each on a line of its own.
const counting = `stty -echo; echo ready; while read line; do echo "got $line"; done`

func TestKept_OutlivesItsConnection(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	e, out := keep(t, g, "k", counting)
	out.waitFor(t, "ready")
	typed(t, e, "one\n")
	out.waitFor(t, "got one")
	require.NoError(t, e.Close())
	_, err := e.Wait()
	require.ErrorIs(t, err, proto.ErrLost)
	require.Eventually(t, func() bool { return !g.listed("k").GetAttached() }, 5*time.Second, 5*time.Millisecond)

	e, out = reattach(t, g, "k")
	out.waitFor(t, "got one")
	require.Equal(t, "ready\ngot one", out.picture())
	require.True(t, g.listed("k").GetAttached())
	typed(t, e, "two\n")
	out.waitFor(t, "got two")
	require.Equal(t, "ready\ngot one\ngot two", out.picture(), "nothing is lost or doubled")

	require.NoError(t, e.Detach())
	_, err = e.Wait()
	require.ErrorIs(t, err, proto.ErrDetached)
	e, out = reattach(t, g, "k")
	require.NoError(t, e.CloseStdin()) // Ctrl-D: the loop ends
	exit, err := e.Wait()
	require.NoError(t, err)
	require.Zero(t, exit.Code)
	require.Equal(t, "ready\ngot one\ngot two", out.picture())
	g.requireNoProcesses()
	require.Nil(t, g.listed("k"))
}

// What a command shows while nobody is there is drained and drawn; the picture
// that a caller then gets, and what follows, is as if it had been there.
func TestKept_ScreenIsExact(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	e, out := keep(t, g, "k", `stty -echo; echo ready; read x
		i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo "line $i of a lot of output that nobody reads"; done
		printf '\033[31mred\033[0m \033[?1h\033[?2004h\303\251'; read x; printf '\n%s\n' "$x"; read x`)
	out.waitFor(t, "ready")
	typed(t, e, "\n")
	require.NoError(t, e.Detach())
	_, err := e.Wait()
	require.ErrorIs(t, err, proto.ErrDetached)
	require.Eventually(t, func() bool {
		e, out = reattach(t, g, "k")
		defer func() { require.NoError(t, e.Detach()); _, _ = e.Wait() }()
		out.waitFor(t, "\x1b[?7h")
		return strings.Contains(out.String(), "red")
	}, 20*time.Second, 20*time.Millisecond)
	var want []string
	for i := 20000 - 22; i <= 20000; i++ {
		want = append(want, fmt.Sprintf("line %d of a lot of output that nobody reads", i))
	}
	want = append(want, "red é")
	e, out = reattach(t, g, "k")
	out.waitFor(t, "red")
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "\x1b[?2004h") }, 5*time.Second, time.Millisecond)
	require.Equal(t, strings.Join(want, "\n"), out.picture())
	require.Contains(t, out.String(), "\x1b[?1h")
	require.Less(t, len(out.String()), 4096)
	typed(t, e, "live\n")
	out.waitFor(t, "live")
	require.Equal(t, strings.Join(append(want[1:], "live", "")[1:], "\n"), out.picture()+"\n")
	require.NoError(t, e.Detach())
	_, err = e.Wait()
	require.ErrorIs(t, err, proto.ErrDetached)
	require.Contains(t, out.String(), "\x1b[?2004l", "the terminal is left as it was")
	require.Contains(t, out.String(), "\x1b[?1l")
}

func TestKept_Taken(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	first, out := keep(t, g, "k", counting)
	out.waitFor(t, "ready")
	second, out2 := reattach(t, g, "k")
	_, err := first.Wait()
	require.ErrorIs(t, err, proto.ErrTaken)
	out2.waitFor(t, "ready")
	typed(t, second, "x\n")
	out2.waitFor(t, "got x")
	require.NotContains(t, out.String(), "got x")
	third, out3 := reattach(t, g, "k")
	_, err = second.Wait()
	require.ErrorIs(t, err, proto.ErrTaken)
	require.NoError(t, third.CloseStdin())
	exit, err := third.Wait()
	require.NoError(t, err)
	require.Zero(t, exit.Code)
	require.Equal(t, "ready\ngot x", out3.picture())
}

// A caller that does not read holds the command up, as a terminal does, until
// it goes or another takes over; the other misses nothing.
func TestKept_SlowCaller(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	before := g.rss()
	gate := make(chan struct{})
	slow := writerFunc(func(p []byte) (int, error) {
		<-gate
		return len(p), nil
	})
	first, err := proto.StartExec(g.ctx(), g.dial(), &proto.ExecStart{Id: "k", Keep: true, Tty: true, Stdin: true,
		Args: []string{"sh", "-c", "stty -onlcr; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); echo $i; done; read x; exit 4"}}, slow, nil)
	require.NoError(t, err)
	time.Sleep(time.Second)
	require.NotNil(t, g.listed("k"))
	require.Less(t, g.rss()-before, int64(16<<20))
	second, out := reattach(t, g, "k")
	select {
	case <-first.Done():
	case <-time.After(time.Minute):
		t.Fatal("the former caller was not told")
	}
	close(gate)
	_, err = first.Wait()
	require.ErrorIs(t, err, proto.ErrTaken)
	out.waitFor(t, "\n100000\n")
	// From the picture on, every number once.
	fields := strings.Fields(out.String()[strings.LastIndex(out.String(), "\x1b"):])
	last := 0
	for _, f := range fields {
		n := 0
		if _, err := fmt.Sscan(f, &n); err == nil {
			if last != 0 {
				require.Equal(t, last+1, n)
			}
			last = n
		}
	}
	require.Equal(t, 100000, last)
	typed(t, second, "\n")
	exit, err := second.Wait()
	require.NoError(t, err)
	require.EqualValues(t, 4, exit.Code)
}

// A caller whose process is stopped does not take anything, not even what it
// is told; neither the command nor its next caller waits for it.
func TestKept_StoppedCaller(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	conn := g.dial()
	stalled := &stalledConn{Conn: conn, stall: make(chan struct{}), gone: make(chan struct{})}
	defer close(stalled.gone)
	_, err := proto.StartExec(g.ctx(), stalled, &proto.ExecStart{Id: "k", Keep: true, Tty: true, Stdin: true,
		Args: []string{"sh", "-c", "echo begin; yes | head -c 4M; echo; echo end; read x; exit 5"}}, nil, nil)
	require.NoError(t, err)
	close(stalled.stall)
	time.Sleep(300 * time.Millisecond)
	e, out := reattach(t, g, "k")
	out.waitFor(t, "end")
	typed(t, e, "\n")
	exit, err := e.Wait()
	require.NoError(t, err)
	require.EqualValues(t, 5, exit.Code)
	require.NoError(t, conn.Close())
}

// Nor does what types for such a caller wait until it takes its credit.
func TestKept_StoppedCallerHasTyped(t *testing.T) {
	stuck := &stuckStream{never: make(chan struct{})}
	defer close(stuck.never)
	k := newKept(&execution{start: &proto.ExecStart{}, agent: &Agent{}})
	s := newSession(stuck)
	for range proto.Window {
		s.input <- []byte("x")
	}
	go k.typeInput(s)
	require.Eventually(t, func() bool { return len(s.input) == 0 }, 5*time.Second, time.Millisecond)
	close(s.gone)
	select {
	case <-s.typed:
	case <-time.After(5 * time.Second):
		t.Fatal("the terminal cannot pass on")
	}
	require.EqualValues(t, proto.Window, s.owed.Load())
}

// stuckStream is that of a caller that takes nothing.
type stuckStream struct {
	proto.Agent_ExecServer
	never chan struct{}
}

func (s *stuckStream) Send(*proto.ExecOutput) error {
	<-s.never
	return nil
}

// A caller that had the terminal when the command ended gets its exit, even if
// another one comes before it was told.
func TestKept_EndedBeforeItWasTaken(t *testing.T) {
	k := newKept(&execution{start: &proto.ExecStart{}})
	s := newSession(nil)
	k.session = s
	close(s.typed)
	k.exit, k.endedAt = &proto.ExecExit{Code: 7}, time.Now()
	k.attach(newSession(nil), 24, 80)
	require.True(t, s.over)
	require.True(t, s.taken)

	k = newKept(&execution{start: &proto.ExecStart{}})
	s = newSession(nil)
	k.session = s
	close(s.typed)
	k.attach(newSession(nil), 24, 80)
	require.False(t, s.over)
	require.True(t, s.taken)
}

// stalledConn does not read any more once stall is closed.
type stalledConn struct {
	net.Conn
	stall chan struct{}
	gone  chan struct{}
}

func (c *stalledConn) Read(p []byte) (int, error) {
	select {
	case <-c.stall:
		<-c.gone
	default:
	}
	return c.Conn.Read(p)
}

func TestKept_ExitIsRemembered(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	for i := range maxEnded + 3 {
		e, _ := keep(t, g, fmt.Sprintf("k%d", i), fmt.Sprintf("printf '\\033[?1049h\\033[?25llast \\033[1mwords\\033[0m %d'; exit %d", i, i))
		if i%2 == 0 {
			require.NoError(t, e.Close())
			_, _ = e.Wait()
			continue
		}
		exit, err := e.Wait()
		require.NoError(t, err)
		require.EqualValues(t, i, exit.Code)
	}
	require.Eventually(t, func() bool {
		list, err := g.client().Execs(g.ctx(), &proto.ExecsRequest{})
		return err == nil && len(list.Execs) == 0
	}, 10*time.Second, 10*time.Millisecond)
	for _, i := range []int{maxEnded + 2, maxEnded + 1, 20} {
		for range 2 {
			e, out := reattach(t, g, fmt.Sprintf("k%d", i))
			exit, err := e.Wait()
			require.NoError(t, err)
			require.EqualValues(t, i, exit.Code)
			require.Equal(t, fmt.Sprintf("last words %d", i), out.picture())
			require.NotContains(t, out.String(), "\x1b[?1049h")
		}
	}
	for _, id := range []string{"k0", "never", "../x"} {
		_, err := proto.AttachExec(g.ctx(), g.dial(), &proto.AttachStart{Id: id}, nil)
		var failed *proto.StartError
		require.ErrorAs(t, err, &failed)
		require.Equal(t, proto.StartFailure_NO_EXEC, failed.Failure.GetKind())
	}
	// The ID may be used again; then it is the new one's.
	e, _ := keep(t, g, "k20", "exit 9")
	_, err := e.Wait()
	require.NoError(t, err)
	e, _ = reattach(t, g, "k20")
	exit, err := e.Wait()
	require.NoError(t, err)
	require.EqualValues(t, 9, exit.Code)
}

func TestKept_NotEveryCommandIs(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	e, err := g.start(&proto.ExecStart{Id: "own", Args: []string{"sleep", "1000"}}, nil, nil)
	require.NoError(t, err)
	_, err = proto.AttachExec(g.ctx(), g.dial(), &proto.AttachStart{Id: "own"}, nil)
	require.ErrorContains(t, err, "belongs to its caller")
	require.False(t, g.listed("own").GetKeep())
	require.True(t, g.listed("own").GetAttached())
	require.NoError(t, e.Close())
	_, err = g.start(&proto.ExecStart{Keep: true, Stdin: true, Args: []string{"cat"}}, nil, nil)
	require.ErrorContains(t, err, "no stdin")
	var failed *proto.StartError
	_, err = g.start(&proto.ExecStart{Keep: true, Tty: true, Args: []string{"no-such-command"}}, nil, nil)
	require.ErrorAs(t, err, &failed)
	require.Equal(t, proto.StartFailure_NOT_FOUND, failed.Failure.GetKind())
	g.requireNoProcesses()
}

// Without a terminal a kept command writes as much as it likes; its callers get
// its exit.
func TestKept_WithoutTerminal(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	e, err := g.start(&proto.ExecStart{Id: "k", Keep: true, Args: []string{"sh", "-c", "yes | head -c 8M; yes | head -c 8M >&2; exec sleep 1000"}}, nil, nil)
	require.NoError(t, err)
	require.NoError(t, e.Close())
	require.Eventually(t, func() bool {
		return len(g.processes()) == 1 && strings.Contains(g.processes()[0], "sleep")
	}, 10*time.Second, 10*time.Millisecond)
	e, out := reattach(t, g, "k")
	_, err = g.client().Signal(g.ctx(), &proto.SignalRequest{Id: "k", Signal: int32(syscall.SIGKILL)})
	require.NoError(t, err)
	exit, err := e.Wait()
	require.NoError(t, err)
	require.EqualValues(t, 137, exit.Code)
	require.Empty(t, out.String())
}

func TestKept_Resize(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	e, out := keep(t, g, "k", `trap 'echo winch; stty size' WINCH; printf '\033[?1049h'; echo ready; while :; do sleep 0.05; done`)
	out.waitFor(t, "ready")
	resized, err := proto.AttachExec(g.ctx(), g.dial(), &proto.AttachStart{Id: "k", Rows: 30, Cols: 100}, out)
	require.NoError(t, err)
	out.waitFor(t, "winch\r\n30 100")
	_, err = e.Wait()
	require.ErrorIs(t, err, proto.ErrTaken)
	// The same size: a program that fills the screen is asked to draw it.
	out2 := new(shown)
	again, err := proto.AttachExec(g.ctx(), g.dial(), &proto.AttachStart{Id: "k", Rows: 30, Cols: 100}, out2)
	require.NoError(t, err)
	out2.waitFor(t, "30 100")
	require.Eventually(t, func() bool { return strings.Count(out2.String(), "winch") == 2 }, 10*time.Second, 10*time.Millisecond)
	_, err = g.client().Resize(g.ctx(), &proto.ResizeRequest{Id: "k", Rows: 40, Cols: 50})
	require.NoError(t, err)
	out2.waitFor(t, "40 50")
	_, err = resized.Wait()
	require.ErrorIs(t, err, proto.ErrTaken)
	_, err = g.client().Signal(g.ctx(), &proto.SignalRequest{Id: "k", Signal: int32(syscall.SIGKILL)})
	require.NoError(t, err)
	_, err = again.Wait()
	require.NoError(t, err)
	require.Contains(t, out2.String(), "\x1b[?1049l", "also when the command could not do it itself")
}

// What was typed before leaving reaches the command.
func TestKept_TypedBeforeLeaving(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	e, out := keep(t, g, "k", counting)
	out.waitFor(t, "ready")
	for i := range 30 {
		typed(t, e, fmt.Sprintf("w%d\n", i))
		require.NoError(t, e.Detach())
		_, err := e.Wait()
		require.ErrorIs(t, err, proto.ErrDetached)
		e, out = reattach(t, g, "k")
		out.waitFor(t, fmt.Sprintf("got w%d", i))
	}
	// Nor does a command that does not read keep its caller from leaving.
	typed(t, e, "\x03")
	stuck, out := keep(t, g, "stuck", "stty raw -echo; echo ready; exec sleep 1000")
	out.waitFor(t, "ready")
	go func() { _, _ = io.CopyN(stuck, zeros{'x'}, 10<<20) }()
	time.Sleep(300 * time.Millisecond)
	require.NoError(t, stuck.Detach())
	_, err := stuck.Wait()
	require.ErrorIs(t, err, proto.ErrDetached)
	stuck, _ = reattach(t, g, "stuck")
	_, err = g.client().Signal(g.ctx(), &proto.SignalRequest{Id: "stuck", Signal: int32(syscall.SIGKILL)})
	require.NoError(t, err)
	_, err = stuck.Wait()
	require.NoError(t, err)
}

// Coming and going leaves nothing behind in the agent.
func TestKept_ManyAttachments(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	e, out := keep(t, g, "k", counting)
	out.waitFor(t, "ready")
	require.NoError(t, e.Close())
	files := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.cmd.Process.Pid))
		require.NoError(t, err)
		return len(entries)
	}
	cycle := func(i int) {
		e, out := reattach(t, g, "k")
		out.waitFor(t, "ready")
		if i%3 == 0 {
			require.NoError(t, e.Close())
			_, err := e.Wait()
			require.ErrorIs(t, err, proto.ErrLost)
			return
		}
		require.NoError(t, e.Detach())
		_, err := e.Wait()
		require.ErrorIs(t, err, proto.ErrDetached)
	}
	for i := range 5 {
		cycle(i)
	}
	before, goroutines := files(), g.goroutines()
	for i := range 100 {
		cycle(i)
	}
	require.Eventually(t, func() bool { return files() <= before+1 }, 5*time.Second, 10*time.Millisecond, "%d descriptors, were %d", files(), before)
	require.Eventually(t, func() bool { return g.goroutines() <= goroutines+3 }, 5*time.Second, 50*time.Millisecond, "%d goroutines, were %d", g.goroutines(), goroutines)
}

// A shutdown ends kept commands, whether somebody is attached or not, and does
// not wait for callers that are not there.
func TestKept_Shutdown(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	e, out := keep(t, g, "alone", counting)
	out.waitFor(t, "ready")
	require.NoError(t, e.Close())
	e, out = keep(t, g, "k", counting)
	out.waitFor(t, "ready")
	begin := time.Now()
	_, _ = g.client().Shutdown(g.ctx(), &proto.ShutdownRequest{GraceNs: int64(5 * time.Second)})
	exit, err := e.Wait()
	require.NoError(t, err)
	require.NotZero(t, exit.Code)
	select {
	case <-g.done:
	case <-time.After(time.Minute):
		t.Fatal("the guest does not end")
	}
	require.Less(t, time.Since(begin), 4*time.Second)
}

func TestKept_DrainWaitsForThem(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	e, out := keep(t, g, "k", counting)
	out.waitFor(t, "ready")
	require.NoError(t, e.Close())
	drained := make(chan error, 1)
	client := g.client()
	go func() {
		_, err := client.Drain(g.ctx(), &proto.DrainRequest{Wait: true})
		drained <- err
	}()
	require.Eventually(t, func() bool {
		_, err := g.start(&proto.ExecStart{Keep: true, Tty: true, Args: []string{"true"}}, nil, nil)
		var failed *proto.StartError
		return errors.As(err, &failed) && failed.Failure.GetKind() == proto.StartFailure_DRAINING
	}, 5*time.Second, 10*time.Millisecond)
	e, out = reattach(t, g, "k")
	out.waitFor(t, "ready")
	select {
	case err := <-drained:
		t.Fatal("drained while a kept command runs", err)
	default:
	}
	require.NoError(t, e.CloseStdin())
	_, err := e.Wait()
	require.NoError(t, err)
	require.NoError(t, <-drained)
}

// The end of the main command is the guest's, with its status.
func TestKept_Main(t *testing.T) {
	for _, tty := range []bool{true, false} {
		g := newGuest(t, "cgroup", &proto.SetupRequest{})
		other, err := g.start(&proto.ExecStart{Id: "other", Args: []string{"sleep", "1000"}}, nil, nil)
		require.NoError(t, err)
		e, err := g.start(&proto.ExecStart{Id: "m", Keep: true, Main: true, Tty: tty, Args: []string{"sh", "-c", "sleep 0.3; exit 42"}}, nil, nil)
		require.NoError(t, err)
		require.NoError(t, e.Close())
		exit, err := other.Wait()
		require.NoError(t, err)
		require.EqualValues(t, syscall.SIGTERM, exit.Signal)
		select {
		case <-g.done:
		case <-time.After(time.Minute):
			t.Fatal("the guest does not end")
		}
		require.Equal(t, 42, g.cmd.ProcessState.ExitCode())
	}
}

func TestExecs_Pages(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	long := strings.Repeat("long ", 1000)
	for i := range 60 {
		_, err := g.start(&proto.ExecStart{Id: fmt.Sprintf("p%02d", i), Args: []string{"sh", "-c", "sleep 1000 # é" + long}}, nil, nil)
		require.NoError(t, err)
	}
	var ids []string
	after, pages := "", 0
	for {
		list, err := g.client().Execs(g.ctx(), &proto.ExecsRequest{After: after})
		require.NoError(t, err)
		pages++
		for _, x := range list.Execs {
			require.Equal(t, "sh", x.Args[0])
			require.Less(t, len(strings.Join(x.Args, "")), maxListedArgs)
			require.NotZero(t, x.Pid)
			ids = append(ids, x.Id)
		}
		if !list.More {
			break
		}
		after = ids[len(ids)-1]
	}
	require.Len(t, ids, 60)
	require.Greater(t, pages, 1)
}
