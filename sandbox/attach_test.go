package sandbox_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// attacherEnv makes this test binary attach to a terminal: "SANDBOX ID", or
// "SANDBOX new ID" for a new one. It goes on until it is killed.
const attacherEnv = "SANDPIT_TEST_ATTACHER"

func attacher(args string) {
	f := strings.Fields(args)
	ctx := context.Background()
	sb, err := sandbox.Connect(ctx, f[0])
	if err == nil {
		var term *sandbox.Terminal
		opts := sandbox.AttachOptions{Stdin: os.Stdin, Stdout: os.Stdout}
		if f[1] == "new" {
			opts.ID, opts.Args = f[2], []string{"sh", "-c", counting}
			term, err = sb.Attach(ctx, opts)
		} else {
			term, err = sb.Reattach(ctx, f[1], opts)
		}
		if err == nil {
			err = term.Wait()
		}
	}
	fmt.Println("ended:", err)
	os.Exit(1)
}

// counting answers every line until its input ends.
const counting = `stty -echo; echo ready; while read line; do echo "got $line"; done; exit 3`

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

func (s *shown) await(t *testing.T, want string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(s.String(), want) }, time.Minute, 5*time.Millisecond,
		"%q does not appear", want)
}

func TestAttachOptions(t *testing.T) {
	sb := new(sandbox.Sandbox)
	_, err := sb.Attach(t.Context(), sandbox.AttachOptions{ID: "a/b", Args: []string{""}, Timeout: -1, DetachKeys: "ctrl-1"})
	var bad *sandbox.ConfigError
	require.ErrorAs(t, err, &bad)
	require.Len(t, bad.Problems, 4)
	_, err = sb.Reattach(t.Context(), "x", sandbox.AttachOptions{ID: "y", Args: []string{"sh"}, Env: []string{"A=1"}, Dir: "/", User: "root",
		Rlimits: []sandbox.Rlimit{{}}, Timeout: 1, Main: true})
	require.ErrorAs(t, err, &bad)
	require.Len(t, bad.Problems, 8)
}

// A terminal's life: left by its keys and by its caller's death, returned to
// from the same and from other processes, taken, ended.
func TestAttach(t *testing.T) {
	needVM(t)
	ctx := deadline(t)
	sb := create(t, "attach", sandbox.Config{Memory: 256})

	// A new terminal, which has what it was asked to have; the keys leave it.
	keys, typing := io.Pipe()
	out := new(shown)
	sizes := make(chan sandbox.TTYSize, 1)
	term, err := sb.Attach(ctx, sandbox.AttachOptions{
		ID: "one", Env: []string{"A=b"}, Dir: "/tmp", User: "1234", Size: sandbox.TTYSize{Rows: 30, Cols: 100},
		Resize: sizes, Stdin: keys, Stdout: out, Args: []string{"sh", "-c", `id -u; pwd; echo $A; stty size; trap "stty size" WINCH; ` + counting},
	})
	require.NoError(t, err)
	require.Equal(t, "one", term.ID())
	require.NotZero(t, term.PID())
	out.await(t, "1234\r\n/tmp\r\nb\r\n30 100\r\nready")
	_, err = io.WriteString(typing, "x\x10y\n") // half of the keys is typing
	require.NoError(t, err)
	out.await(t, "got x\x10y")
	_, err = io.WriteString(typing, "last\n\x10\x11nobody's\n")
	require.NoError(t, err)
	require.ErrorIs(t, term.Wait(), sandbox.ErrDetached)
	require.ErrorContains(t, term.Wait(), "already")
	require.NoError(t, term.Detach())
	list, err := sb.Execs(ctx)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, "one", list[0].ID)
	require.Equal(t, []bool{true, true, false}, []bool{list[0].TTY, list[0].Kept, list[0].Attached})
	require.Equal(t, "sh", list[0].Args[0])

	// Back, from another process, which dies.
	other := exec.Command("/proc/self/exe")
	other.Env = append(os.Environ(), attacherEnv+"=attach one")
	otherIn, err := other.StdinPipe()
	require.NoError(t, err)
	otherOut := new(shown)
	other.Stdout = otherOut
	require.NoError(t, other.Start())
	otherOut.await(t, "got last")
	_, err = io.WriteString(otherIn, "there\n")
	require.NoError(t, err)
	otherOut.await(t, "got there")
	require.NoError(t, other.Process.Kill())
	require.Error(t, other.Wait())

	// Nothing is lost; nothing nobody's is there.
	out = new(shown)
	term, err = sb.Reattach(ctx, "one", sandbox.AttachOptions{Stdout: out})
	require.NoError(t, err)
	out.await(t, "got there")
	require.NotContains(t, out.String(), "nobody's")

	// Another takes it; the size is its own.
	out2 := new(shown)
	keys2, typing2 := io.Pipe()
	second, err := sb.Reattach(ctx, "one", sandbox.AttachOptions{Stdin: keys2, Stdout: out2, Size: sandbox.TTYSize{Rows: 20, Cols: 50}, DetachKeys: "none"})
	require.NoError(t, err)
	require.ErrorIs(t, term.Wait(), sandbox.ErrTaken)
	_, err = io.WriteString(typing2, "\x10\x11mine\n")
	require.NoError(t, err)
	out2.await(t, "20 50")
	out2.await(t, "mine")
	require.NoError(t, typing2.Close()) // Ctrl-D
	var exit *sandbox.ExitError
	require.ErrorAs(t, second.Wait(), &exit)
	require.Equal(t, 3, exit.Code)

	// The last screen and the status are still to be had.
	out = new(shown)
	term, err = sb.Reattach(ctx, "one", sandbox.AttachOptions{Stdout: out})
	require.NoError(t, err)
	require.ErrorAs(t, term.Wait(), &exit)
	require.Equal(t, 3, exit.Code)
	require.Contains(t, out.String(), "mine")
	_, err = sb.Reattach(ctx, "two", sandbox.AttachOptions{})
	require.ErrorIs(t, err, sandbox.ErrNoTerminal)
	require.ErrorContains(t, err, "Execs")

	// Failures of a start, and of the caller's streams.
	_, err = sb.Attach(ctx, sandbox.AttachOptions{Args: []string{"no-such-command"}})
	var start *sandbox.StartError
	require.ErrorAs(t, err, &start)
	require.Equal(t, sandbox.StartNotFound, start.Reason)
	full := fmt.Errorf("full")
	term, err = sb.Attach(ctx, sandbox.AttachOptions{ID: "three", Args: []string{"sh", "-c", counting}, Stdout: failing{full}})
	require.NoError(t, err)
	err = term.Wait()
	require.ErrorIs(t, err, sandbox.ErrDetached)
	require.ErrorIs(t, err, full)
	term, err = sb.Reattach(ctx, "three", sandbox.AttachOptions{Stdin: failing{full}})
	require.NoError(t, err)
	err = term.Wait()
	require.ErrorIs(t, err, sandbox.ErrDetached)
	require.ErrorIs(t, err, full)

	// The end of the context leaves it, too.
	shorter, cancel := context.WithCancel(ctx)
	term, err = sb.Reattach(shorter, "three", sandbox.AttachOptions{})
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, term.Wait(), context.Canceled)
	term, err = sb.Reattach(ctx, "three", sandbox.AttachOptions{})
	require.NoError(t, err)
	require.NoError(t, term.Kill())
	require.ErrorAs(t, term.Wait(), &exit)
	require.Equal(t, syscall.SIGKILL, exit.Signal)

	// A detached command without a terminal.
	id, err := sb.Shell(ctx, "sleep 0.2; exit 6").StartDetached()
	require.NoError(t, err)
	term, err = sb.Reattach(ctx, id, sandbox.AttachOptions{})
	require.NoError(t, err)
	require.ErrorAs(t, term.Wait(), &exit)
	require.Equal(t, 6, exit.Code)
	cmd := sb.Shell(ctx, "true")
	cmd.Stdout = out
	_, err = cmd.StartDetached()
	var bad *sandbox.ConfigError
	require.ErrorAs(t, err, &bad)

	// A draining sandbox takes no new ones, and its terminals can be returned
	// to. A stop ends them.
	term, err = sb.Attach(ctx, sandbox.AttachOptions{ID: "four", Args: []string{"sh", "-c", counting}})
	require.NoError(t, err)
	require.NoError(t, term.Detach())
	require.ErrorIs(t, term.Wait(), sandbox.ErrDetached)
	require.NoError(t, sb.Drain(ctx))
	_, err = sb.Attach(ctx, sandbox.AttachOptions{})
	require.ErrorIs(t, err, sandbox.ErrDraining)
	out = new(shown)
	term, err = sb.Reattach(ctx, "four", sandbox.AttachOptions{Stdout: out})
	require.NoError(t, err)
	out.await(t, "ready")
	status, err := sb.StopAndWait(ctx)
	require.NoError(t, err)
	require.Equal(t, sandbox.Stopped, handle(t, "attach").Status(), "%+v", status)
	require.ErrorAs(t, term.Wait(), &exit)
	require.NotZero(t, exit.Code)
}

// failing is a stream that fails.
type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func handle(t *testing.T, name string) *sandbox.Handle {
	t.Helper()
	h, err := sandbox.Get(t.Context(), name)
	require.NoError(t, err)
	return h
}

// The end of the main command is the sandbox's, although its caller is gone.
func TestMainCommandEndsTheSandbox(t *testing.T) {
	needVM(t)
	ctx := deadline(t)
	sb := create(t, "main", sandbox.Config{Memory: 256})
	cmd := sb.Shell(ctx, "sleep 0.5; exit 42")
	cmd.Main = true
	_, err := cmd.StartDetached()
	require.NoError(t, err)
	status, err := sb.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, 42, status.Code)
	require.Equal(t, "stopped", status.Reason)
	require.False(t, status.Success)
}
