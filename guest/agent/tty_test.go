package agent

import (
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// shown collects what a terminal shows.
type shown struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *shown) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *shown) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *shown) waitFor(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(s.String(), text) }, time.Minute, 20*time.Millisecond,
		"no %q on the screen", text)
}

func startTTY(t *testing.T, g *guest, start *proto.ExecStart) (*proto.Exec, *shown) {
	t.Helper()
	s := new(shown)
	start.Tty, start.Stdin = true, true
	e, err := proto.StartExec(g.ctx(), g.dial(), start, s, nil)
	require.NoError(t, err)
	return e, s
}

func TestTTY_SizeAndResize(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	e, s := startTTY(t, g, &proto.ExecStart{Id: "t", User: "daemon", Rows: 30, Cols: 100, Args: []string{"sh", "-c",
		`trap 'stty size; exit 5' WINCH; tty; stty size; echo "$TERM"; test -t 0 && test -t 1 && test -t 2 && echo all; echo x > /dev/tty; while :; do sleep 0.05; done`}})
	s.waitFor(t, "all\r\nx\r\n")
	require.True(t, strings.HasPrefix(s.String(), "/dev/pts/"), s.String())
	require.Contains(t, s.String(), "30 100\r\nxterm-256color\r\n")
	c := g.client()
	_, err := c.Resize(g.ctx(), &proto.ResizeRequest{Id: "t", Rows: 50, Cols: 132})
	require.NoError(t, err)
	exit, err := e.Wait()
	require.NoError(t, err)
	require.EqualValues(t, 5, exit.Code)
	require.Contains(t, s.String(), "50 132\r\n")
	_, err = c.Resize(g.ctx(), &proto.ResizeRequest{Id: "t", Rows: 70000, Cols: 1})
	require.ErrorContains(t, err, "large")
	g.requireNoProcesses()
}

func TestTTY_ControlKeys(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	e, s := startTTY(t, g, &proto.ExecStart{Id: "c", Args: []string{"sh", "-c", "echo go; cat; sleep 1000"}})
	s.waitFor(t, "go")
	_, err := e.Write([]byte("hello\r\x04"))
	require.NoError(t, err)
	s.waitFor(t, "hello\r\nhello")
	time.Sleep(100 * time.Millisecond)
	_, err = e.Write([]byte{3})
	require.NoError(t, err)
	exit, err := e.Wait()
	require.NoError(t, err)
	require.EqualValues(t, syscall.SIGINT, exit.Signal)
	g.requireNoProcesses()
}

func TestTTY_EndOfInput(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	e, s := startTTY(t, g, &proto.ExecStart{Id: "d", Args: []string{"cat"}})
	_, err := e.Write([]byte("abc\n"))
	require.NoError(t, err)
	s.waitFor(t, "abc\r\nabc\r\n")
	require.NoError(t, e.CloseStdin())
	exit, err := e.Wait()
	require.NoError(t, err)
	require.Zero(t, exit.Code)
}

// The last output before the end of a terminal's session is not lost.
func TestTTY_Output(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	for range 20 {
		e, s := startTTY(t, g, &proto.ExecStart{Id: "o", Args: []string{"sh", "-c", "seq 20000"}})
		exit, err := e.Wait()
		require.NoError(t, err)
		require.Zero(t, exit.Code)
		require.Equal(t, 20000, strings.Count(s.String(), "\r\n"))
		require.True(t, strings.HasSuffix(s.String(), "\r\n20000\r\n"))
	}
}

func TestTTY_InteractiveShell(t *testing.T) {
	g := newGuest(t, "cgroup", &proto.SetupRequest{})
	e, s := startTTY(t, g, &proto.ExecStart{Id: "i", Args: []string{"bash", "--norc", "-i"}, Env: []string{"PS1=> "},
		Rlimits: []*proto.Rlimit{{Name: "core"}}}) // through the stage
	s.waitFor(t, "> ")
	require.NotContains(t, s.String(), "job control")
	_, err := e.Write([]byte("sleep 1000 &\rjobs\r"))
	require.NoError(t, err)
	s.waitFor(t, "Running")
	_, err = e.Write([]byte("exit 6\r"))
	require.NoError(t, err)
	exit, err := e.Wait()
	require.NoError(t, err)
	require.EqualValues(t, 6, exit.Code)
}
