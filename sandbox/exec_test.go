package sandbox_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// One sandbox serves the subtests: what they check is the command, not the
// boot.
func TestCommand(t *testing.T) {
	needVM(t)
	sb := create(t, "exec", sandbox.Config{Env: []string{"FROM=sandbox", "BOTH=sandbox"}})
	ctx := deadline(t)

	t.Run("streams and status", func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		cmd := sb.Command(ctx, "sh", "-c", "echo out; echo err >&2; exit 7")
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		var exit *sandbox.ExitError
		require.ErrorAs(t, err, &exit)
		require.Equal(t, 7, exit.Code)
		require.Equal(t, "out\n", stdout.String())
		require.Equal(t, "err\n", stderr.String())
	})
	t.Run("output keeps the end of stderr", func(t *testing.T) {
		out, err := sb.Shell(ctx, "echo out; echo why >&2; exit 1").Output()
		var exit *sandbox.ExitError
		require.ErrorAs(t, err, &exit)
		require.Equal(t, "out\n", string(out))
		require.Equal(t, "why\n", string(exit.Stderr))
	})
	t.Run("combined output", func(t *testing.T) {
		out, err := sb.Shell(ctx, "echo a; echo b >&2").CombinedOutput()
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"a", "b"}, strings.Fields(string(out)))
	})
	t.Run("environment", func(t *testing.T) {
		cmd := sb.Command(ctx, "sh", "-c", "echo $FROM $BOTH $OWN")
		cmd.Env = []string{"BOTH=command", "OWN=1"}
		out, err := cmd.Output()
		require.NoError(t, err)
		require.Equal(t, "sandbox command 1\n", string(out))
	})
	t.Run("directory", func(t *testing.T) {
		cmd := sb.Command(ctx, "pwd")
		cmd.Dir = "/tmp"
		out, err := cmd.Output()
		require.NoError(t, err)
		require.Equal(t, "/tmp\n", string(out))
	})
	t.Run("user", func(t *testing.T) {
		cmd := sb.Command(ctx, "sh", "-c", "id -u; id -g")
		cmd.User = "1234:5678"
		out, err := cmd.Output()
		require.NoError(t, err)
		require.Equal(t, "1234\n5678\n", string(out))
	})
	t.Run("rlimit", func(t *testing.T) {
		cmd := sb.Command(ctx, "grep", "cpu time", "/proc/self/limits")
		cmd.Rlimits = []sandbox.Rlimit{{Name: "cpu", Soft: 77, Hard: 88}}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Regexp(t, `Max cpu time\s+77\s+88`, string(out))
	})
	t.Run("stdin is empty unless given", func(t *testing.T) {
		out, err := sb.Command(ctx, "cat").Output()
		require.NoError(t, err)
		require.Empty(t, out)
	})
	t.Run("a command that does not read its stdin", func(t *testing.T) {
		cmd := sb.Command(ctx, "true")
		cmd.Stdin = io.LimitReader(rand.Reader, 8<<20)
		require.NoError(t, cmd.Run())
	})
	t.Run("pipes", func(t *testing.T) {
		cmd := sb.Command(ctx, "tr", "a-z", "A-Z")
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		go func() {
			io.WriteString(in, "hello")
			in.Close()
		}()
		got, err := io.ReadAll(io.LimitReader(out, 5))
		require.NoError(t, err)
		require.Equal(t, "HELLO", string(got))
		rest := make(chan []byte)
		go func() {
			b, _ := io.ReadAll(out)
			rest <- b
		}()
		require.NoError(t, cmd.Wait())
		require.Empty(t, <-rest)
	})
	t.Run("start errors", func(t *testing.T) { testStartErrors(t, ctx, sb) })
	t.Run("timeout kills the whole tree and keeps the output", func(t *testing.T) {
		cmd := sb.Shell(ctx, `trap "" TERM; echo before; sh -c 'trap "" TERM; sleep 1000' & sleep 1000`)
		cmd.Timeout = 500 * time.Millisecond
		var out bytes.Buffer
		cmd.Stdout = &out
		err := cmd.Run()
		require.ErrorIs(t, err, sandbox.ErrTimeout)
		require.Equal(t, "before\n", out.String())
		left, err := sb.Shell(ctx, "ps | grep -c '[s]leep 1000' || true").Output()
		require.NoError(t, err)
		require.Equal(t, "0", strings.TrimSpace(string(left)))
	})
	t.Run("signal", func(t *testing.T) {
		cmd := sb.Command(ctx, "sleep", "1000")
		require.NoError(t, cmd.Start())
		require.Positive(t, cmd.PID())
		require.NoError(t, cmd.Signal(syscall.SIGTERM))
		var exit *sandbox.ExitError
		require.ErrorAs(t, cmd.Wait(), &exit)
		require.Equal(t, syscall.SIGTERM, exit.Signal)
		require.Equal(t, 128+15, exit.Code)
	})
	t.Run("kill while stdin is blocked", func(t *testing.T) {
		cmd := sb.Command(ctx, "sleep", "1000")
		cmd.Stdin = endless{}
		require.NoError(t, cmd.Start())
		time.Sleep(200 * time.Millisecond)
		require.NoError(t, cmd.Kill())
		var exit *sandbox.ExitError
		require.ErrorAs(t, cmd.Wait(), &exit)
		require.Equal(t, syscall.SIGKILL, exit.Signal)
	})
	t.Run("a context ends its command and no other", func(t *testing.T) {
		other := sb.Shell(ctx, "sleep 2; echo fine")
		var out bytes.Buffer
		other.Stdout = &out
		require.NoError(t, other.Start())
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		err := sb.Command(short, "sleep", "1001").Run()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, other.Wait())
		require.Equal(t, "fine\n", out.String())
		require.Eventually(t, func() bool {
			left, err := sb.Shell(ctx, "ps | grep -c '[s]leep 1001' || true").Output()
			return err == nil && strings.TrimSpace(string(left)) == "0"
		}, 10*time.Second, 100*time.Millisecond)
	})
	t.Run("a reader that stops stops only its own command", func(t *testing.T) {
		stuck := sb.Command(ctx, "yes")
		out, err := stuck.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, stuck.Start())
		_, err = out.Read(make([]byte, 1))
		require.NoError(t, err)
		require.NoError(t, sb.Command(ctx, "true").Run())
		require.NoError(t, stuck.Kill())
		go io.Copy(io.Discard, out)
		require.Error(t, stuck.Wait())
	})
	t.Run("thirty at once", func(t *testing.T) {
		var wg sync.WaitGroup
		errs := make(chan error, 30)
		for range 30 {
			wg.Go(func() {
				out, err := sb.Shell(ctx, "echo $((6*7))").Output()
				if err == nil && string(out) != "42\n" {
					err = errors.New("wrong output: " + string(out))
				}
				errs <- err
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
	})
	t.Run("no zombies", func(t *testing.T) {
		// Orphans whose parent ends first are PID 1's to reap.
		require.NoError(t, sb.Shell(ctx, "for i in 1 2 3 4 5; do (sleep 0.1 &) ; done").Run())
		require.Eventually(t, func() bool {
			out, err := sb.Shell(ctx, `grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l`).Output()
			return err == nil && strings.TrimSpace(string(out)) == "0"
		}, 10*time.Second, 200*time.Millisecond)
	})
}

// endless is an input that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func testStartErrors(t *testing.T, ctx context.Context, sb *sandbox.Sandbox) {
	for _, tt := range []struct {
		name   string
		change func(*sandbox.Cmd)
		reason sandbox.StartReason
		is     error
	}{
		{"not found", func(c *sandbox.Cmd) { c.Args = []string{"no-such-command"} }, sandbox.StartNotFound, fs.ErrNotExist},
		{"no such file", func(c *sandbox.Cmd) { c.Args = []string{"/no/such"} }, sandbox.StartNotFound, fs.ErrNotExist},
		{"not executable", func(c *sandbox.Cmd) { c.Args = []string{"/etc/passwd"} }, sandbox.StartPermission, fs.ErrPermission},
		{"directory", func(c *sandbox.Cmd) { c.Dir = "/no/such" }, sandbox.StartBadDir, fs.ErrNotExist},
		{"user", func(c *sandbox.Cmd) { c.User = "nobody-of-that-name" }, sandbox.StartUnknownUser, nil},
		{"rlimit", func(c *sandbox.Cmd) { c.Rlimits = []sandbox.Rlimit{{Name: "nonsense"}} }, sandbox.StartRlimit, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := sb.Command(ctx, "true")
			tt.change(cmd)
			err := cmd.Run()
			var start *sandbox.StartError
			require.ErrorAs(t, err, &start)
			require.Equal(t, tt.reason, start.Reason, "%v", err)
			if tt.is != nil {
				require.ErrorIs(t, err, tt.is)
			}
		})
	}
}

// 256 MiB in and 256 MiB out, each with its digest (in the emulated rig 16).
func TestBulk(t *testing.T) {
	needVM(t)
	sb := create(t, "bulk", sandbox.Config{})
	ctx := deadline(t)
	size := int64(scaled(scaled(256))) << 20

	t.Run("in", func(t *testing.T) {
		sum := sha256.New()
		cmd := sb.Command(ctx, "sha256sum")
		cmd.Stdin = io.TeeReader(io.LimitReader(rand.Reader, size), sum)
		out, err := cmd.Output()
		require.NoError(t, err)
		require.Equal(t, hex.EncodeToString(sum.Sum(nil)), strings.Fields(string(out))[0])
	})
	t.Run("out", func(t *testing.T) {
		// What is written to stdout is digested on its way, in the guest, and
		// here.
		sum := sha256.New()
		var stderr bytes.Buffer
		cmd := sb.Shell(ctx, fmt.Sprintf(`mkfifo /tmp/f; sha256sum </tmp/f >&2 & head -c %d /dev/urandom | tee /tmp/f; wait`, size))
		cmd.Stdout, cmd.Stderr = sum, &stderr
		require.NoError(t, cmd.Run())
		require.Equal(t, hex.EncodeToString(sum.Sum(nil)), strings.Fields(stderr.String())[0])
	})
}

// The least memory that is allowed is enough.
func TestMinMemory(t *testing.T) {
	needVM(t)
	sb := create(t, "small", sandbox.Config{Memory: sandbox.MinMemory})
	require.NoError(t, sb.Shell(deadline(t), "echo small | sha256sum").Run())
}

func TestCPUsAndMemory(t *testing.T) {
	needVM(t)
	sb := create(t, "sized", sandbox.Config{CPUs: 2, Memory: 1024})
	out, err := sb.Shell(deadline(t), "nproc; free -m").Output()
	require.NoError(t, err)
	lines := strings.Split(string(out), "\n")
	require.Equal(t, "2", lines[0])
	require.Regexp(t, `^Mem:\s+9\d\d\s`, lines[2], "of 1024 MiB the kernel keeps some")
}
