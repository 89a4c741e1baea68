package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
)

// seat is a person at a terminal who runs one sandpit.
type seat struct {
	*screen
	t      *testing.T
	cmd    *exec.Cmd
	tty    *os.File
	before unix.Termios
	ended  chan struct{}
}

// sit runs sandpit on a terminal of 24 by 80.
func (h imageHome) sit(t *testing.T, args ...string) *seat {
	t.Helper()
	cmd := h.sandpit(args...)
	cmd.Env = append(cmd.Env, "TERM=xterm-256color")
	tty, slave, err := pty.Open()
	require.NoError(t, err)
	require.NoError(t, pty.Setsize(tty, &pty.Winsize{Rows: 24, Cols: 80}))
	s := &seat{t: t, cmd: cmd, tty: tty, ended: make(chan struct{})}
	s.before = s.termios()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, cmd.Start())
	// The slave stays open, so that the terminal's state can be looked at.
	s.screen = newScreen(tty)
	go func() {
		defer close(s.ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-s.ended
		slave.Close()
		tty.Close()
	})
	return s
}

func (s *seat) termios() unix.Termios {
	t, err := unix.IoctlGetTermios(int(s.tty.Fd()), unix.TCGETS)
	require.NoError(s.t, err)
	return *t
}

func (s *seat) types(keys string) {
	s.t.Helper()
	_, err := io.WriteString(s.tty, keys)
	require.NoError(s.t, err)
}

// leaves waits for sandpit's end: the terminal is as it was.
func (s *seat) leaves(status int) {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(time.Minute):
		s.t.Fatalf("sandpit does not end; the screen: %q", s.text())
	}
	require.Equal(s.t, status, s.cmd.ProcessState.ExitCode(), "%q", s.text())
	require.Equal(s.t, s.before, s.termios(), "the terminal's state")
}

func TestShellAndAttach(t *testing.T) {
	kvmtest.NeedKVM(t)
	h := imageHome{t.TempDir()}
	h.output(t, "create", "--memory", "256", "box")
	t.Cleanup(func() { h.run(t, "kill", "box") })
	r := h.run(t, "attach", "box")
	require.Equal(t, exitFailure, r.status)
	require.Contains(t, r.stderr, "sandpit shell box")

	// Left by its keys, and returned to.
	s := h.sit(t, "shell", "-e", "A=here", "box")
	s.types("stty size; echo $A $TERM; printf '\\033[?2004h'\r")
	s.await(t, "24 80")
	s.await(t, "xterm-256color\r\n")
	s.await(t, "\x1b[?2004h")
	require.NotEqual(t, s.before, s.termios(), "raw")
	s.types("\x10\x11")
	s.leaves(0)
	s.await(t, "detached; sandpit attach box ")
	s.await(t, "\x1b[?2004l")
	_, id, _ := strings.Cut(s.text(), "sandpit attach box ")
	id, _, _ = strings.Cut(id, " ")
	require.Regexp(t, `(?m)^`+id+`\s+yes\s+no\s+`, h.output(t, "attach", "--list", "box"))
	require.Equal(t, id+"\n", h.output(t, "attach", "--list", "--format", "{{.ID}}", "box"))

	s = h.sit(t, "attach", "--detach-keys", "ctrl-]", "box")
	s.await(t, "here xterm-256color")
	s.types("\x10\x11\x03") // not its keys: the last command, and away with it
	s.types("echo ali''ve\r")
	s.await(t, "alive\r\n")

	// Another takes the terminal.
	other := h.sit(t, "attach", "box", id)
	other.await(t, "alive")
	s.await(t, "another caller has attached")
	s.leaves(exitFailure)

	// Asked to end, sandpit leaves it in order; killed, the terminal goes on, too.
	require.NoError(t, other.cmd.Process.Signal(syscall.SIGTERM))
	other.leaves(exitInterrupted)
	other.await(t, "detached; sandpit attach box "+id)
	s = h.sit(t, "attach", "box")
	s.await(t, "alive")
	require.NoError(t, s.cmd.Process.Kill())
	<-s.ended

	// A second one needs an ID.
	two := h.sit(t, "exec", "-it", "--detach-keys", "a,b", "box", "--", "sh", "-c", "echo rea''dy; read x; exit 8")
	two.await(t, "ready")
	two.types("ab")
	two.leaves(0)
	r = h.run(t, "attach", "box")
	require.Equal(t, exitFailure, r.status)
	require.Contains(t, r.stderr, "2 terminals")
	require.Contains(t, r.stderr, id)

	// The command's status is attach's, at its end and afterwards.
	s = h.sit(t, "attach", "box", id)
	s.await(t, "alive")
	s.types("exit 9\r")
	s.leaves(9)
	s = h.sit(t, "attach", "box", id)
	s.leaves(9)
	s.await(t, "alive")
	r = h.run(t, "attach", "box", "nothing")
	require.Equal(t, exitFailure, r.status)
	require.Contains(t, r.stderr, "attach --list box")

	// Without a terminal the shell reads its commands.
	cmd := h.sandpit("shell", "box")
	cmd.Stdin = strings.NewReader("echo from stdin; exit 4\n")
	require.Equal(t, result{"from stdin\n", "", 4}, finish(t, cmd))
	require.Equal(t, result{"argument\n", "", 0}, h.run(t, "shell", "box", "--", "echo", "argument"))

	// The end of the sandbox under an attached terminal: it is restored.
	s = h.sit(t, "attach", "box")
	s.await(t, "ready")
	h.output(t, "kill", "box")
	s.leaves(exitFailure)
	s.await(t, "the sandbox ended first")
	h.output(t, "rm", "box")
	requireNothingLeft(t, filepath.Join(h.dir, "sandboxes"))
}

// A sandbox that runs by itself ends with its command, and has its status.
func TestRunDetached(t *testing.T) {
	kvmtest.NeedKVM(t)
	h := imageHome{t.TempDir()}
	r := h.run(t, "run", "-di", "--", "cat")
	require.Equal(t, exitFailure, r.status)
	require.Contains(t, r.stderr, "-dit")
	r = h.run(t, "run", "-d", "--memory", "256", "--", "no-such-command")
	require.Equal(t, exitNotFound, r.status, "%+v", r)
	require.Empty(t, r.stdout)
	requireNothingLeft(t, filepath.Join(h.dir, "sandboxes"))

	name := strings.TrimSpace(h.output(t, "run", "-d", "--memory", "256", "--", "sh", "-c", "echo out; sleep 1; exit 6"))
	require.Equal(t, "6\n", h.output(t, "wait", name))
	require.Contains(t, h.output(t, "logs", name), "out\n")
	h.output(t, "rm", name)

	require.Equal(t, "box\n", h.output(t, "run", "-dit", "--rm", "--name", "box", "--memory", "256", "--", "sh"))
	waiting := h.sandpit("wait", "box")
	var out strings.Builder
	waiting.Stdout = &out
	require.NoError(t, waiting.Start())
	s := h.sit(t, "attach", "box")
	s.types("echo ali''ve\r")
	s.await(t, "alive\r\n")
	s.types("exit 5\r")
	s.leaves(5)
	require.NoError(t, waiting.Wait())
	require.Equal(t, "5\n", out.String())
	requireNothingLeft(t, filepath.Join(h.dir, "sandboxes"))

	// Left, a sandbox of run -it is one of these.
	s = h.sit(t, "run", "-it", "--memory", "256", "--", "sh")
	s.types("echo ali''ve\r")
	s.await(t, "alive\r\n")
	s.types("\x10\x11")
	s.leaves(0)
	s.await(t, "detached; sandpit attach ")
	name = strings.TrimSpace(h.output(t, "ps", "-q"))
	s = h.sit(t, "attach", name)
	s.await(t, "alive")
	s.types("exit 3\r")
	s.leaves(3)
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(h.dir, "sandboxes", name))
		return errors.Is(err, os.ErrNotExist)
	}, time.Minute, 20*time.Millisecond)
	requireNothingLeft(t, filepath.Join(h.dir, "sandboxes"))
}
