package userland

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
)

// terminal is an interactive shell and what it has shown so far.
type terminal struct {
	t   *testing.T
	f   *os.File
	cmd *exec.Cmd

	mu  sync.Mutex
	out bytes.Buffer
}

func startTerminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	cmd := program(t, args...)
	cmd.Env = append(cmd.Env, "PS1=PS> ", "TERM=xterm")
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 99})
	require.NoError(t, err)
	tm := &terminal{t: t, f: f, cmd: cmd}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := f.Read(buf)
			tm.mu.Lock()
			tm.out.Write(buf[:n])
			tm.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		f.Close()
		<-done
	})
	tm.wait("PS> ")
	return tm
}

// wait waits until text is shown and drops everything up to its end.
func (tm *terminal) wait(text string) string {
	tm.t.Helper()
	var seen string
	ok := assertEventually(func() bool {
		tm.mu.Lock()
		defer tm.mu.Unlock()
		seen = tm.out.String()
		i := strings.Index(seen, text)
		if i < 0 {
			return false
		}
		seen = seen[:i]
		tm.out.Next(i + len(text))
		return true
	})
	require.True(tm.t, ok, "waiting for %q, have %q", text, seen)
	return seen
}

func assertEventually(fn func() bool) bool {
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if fn() {
			return true
		}
	}
	return false
}

func (tm *terminal) send(keys string) {
	tm.t.Helper()
	_, err := tm.f.WriteString(keys)
	require.NoError(tm.t, err)
}

// run types a command and returns what it printed before the next prompt.
func (tm *terminal) run(line string) string {
	tm.t.Helper()
	tm.send(line + "\r")
	tm.wait("\r\n")
	return tm.wait("PS> ")
}

func TestInteractive(t *testing.T) {
	tm := startTerminal(t, "sh")
	require.Equal(t, "hi\r\n", tm.run("echo hi"))
	require.Equal(t, "33 99\r\n", tm.run("stty size"))
	require.NoError(t, pty.Setsize(tm.f, &pty.Winsize{Rows: 40, Cols: 120}))
	require.Equal(t, "40 120\r\n", tm.run("stty size"))

	tm.send("sleep 30\r")
	tm.wait("sleep 30\r\n")
	time.Sleep(200 * time.Millisecond)
	tm.send("\x03") // Ctrl-C ends the command, not the shell
	tm.wait("PS> ")
	require.Equal(t, "130\r\n", tm.run("echo $?"))

	tm.send("half a line\x03")
	tm.wait("^C\r\n")
	tm.wait("PS> ")

	tm.send("for i in 1 2\r")
	tm.wait("> ")
	tm.send("do echo x$i; done\r")
	tm.wait("done\r\n")
	require.Equal(t, "x1\r\nx2\r\n", tm.wait("PS> "))

	require.Equal(t, "once\r\n", tm.run("echo once"))
	tm.send("\x1b[A\r") // the line before, from the history
	tm.wait("\r\n")
	require.Equal(t, "once\r\n", tm.wait("PS> "))

	tm.send("cat\r")
	tm.wait("cat\r\n")
	tm.send("typed\r\x04")
	require.Contains(t, tm.wait("PS> "), "typed\r\ntyped\r\n")

	require.Contains(t, tm.run("ls --color -d /"), "\x1b[1;34m/\x1b[0m")
	tm.send("exit 3\r")
	tm.cmd.Wait()
	require.Equal(t, 3, tm.cmd.ProcessState.ExitCode())
}

func TestInteractive_Jobs(t *testing.T) {
	tm := startTerminal(t, "sh", "-i")
	require.Regexp(t, `^\[1\] \d+\r\n$`, tm.run("sleep 30 &"))
	tm.send("sleep 40\r")
	tm.wait("sleep 40\r\n")
	time.Sleep(300 * time.Millisecond)
	tm.send("\x1a") // Ctrl-Z
	tm.wait("Stopped  sleep 40")
	tm.wait("PS> ")
	out := tm.run("jobs")
	require.Contains(t, out, "Running  sleep 30")
	require.Contains(t, out, "Stopped  sleep 40")
	tm.send("fg\r")
	tm.wait("sleep 40\r\n")
	time.Sleep(100 * time.Millisecond)
	tm.send("\x03")
	tm.wait("PS> ")
	tm.run("kill %1; wait %1")
	require.NotContains(t, tm.run("jobs"), "Running")
	tm.send("\x04") // end of input
	tm.cmd.Wait()
	require.True(t, tm.cmd.ProcessState.Exited())
}
