package main

import (
	"bytes"
	"errors"
	"fmt"
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

	"github.com/sandpit-vm/sandpit/kernel"
	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
)

// mainEnv makes this test binary sandpit itself.
const mainEnv = "SANDPIT_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		os.Exit(run())
	}
	os.Exit(m.Run())
}

// sandpit prepares a run of sandpit with a home of its own.
func sandpit(t *testing.T, args ...string) (cmd *exec.Cmd, home string) {
	t.Helper()
	home = t.TempDir()
	cmd = exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(),
		mainEnv+"=1",
		"SANDPIT_HOME=",
		"XDG_STATE_HOME="+home,
		"XDG_CACHE_HOME="+testCache(),
	)
	return cmd, filepath.Join(home, "sandpit", "sandboxes")
}

// testCache holds the decompressed kernel and images for all tests.
func testCache() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("sandpit-test-cache-%d", os.Getuid()))
}

// result is the end of a command.
type result struct {
	stdout, stderr string
	status         int
}

func finish(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil {
		require.True(t, errors.As(err, &exit), "%v", err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func requireNothingLeft(t *testing.T, sandboxes string) {
	t.Helper()
	// Monitors first: the one of a detached ephemeral sandbox empties its
	// directory after the name is free, and ends when that is done.
	require.Eventually(t, func() bool {
		out, _ := exec.Command("pgrep", "-x", "-f", "sandpit-monitor.*").Output()
		return len(out) == 0
	}, 10*time.Second, 50*time.Millisecond, "a monitor is left")
	entries, err := os.ReadDir(sandboxes)
	if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		require.NoError(t, err)
	}
	require.Empty(t, entries)
}

func TestRunStreamsAndStatus(t *testing.T) {
	kvmtest.NeedKVM(t)
	cmd, home := sandpit(t, "run", "--", "sh", "-c", "cat; echo err >&2; exit 7")
	cmd.Stdin = strings.NewReader("in\n")
	require.Equal(t, result{"in\n", "err\n", 7}, finish(t, cmd))
	requireNothingLeft(t, home)
}

func TestRunFlags(t *testing.T) {
	kvmtest.NeedKVM(t)
	cmd, home := sandpit(t, "run", "--cpus", "2", "--memory", "256", "--name", "flags", "--rm",
		"-e", "A=1", "-e", "FROM_HOST", "-w", "/tmp", "-u", "1234:5678", "--hostname", "other",
		"--", "sh", "-c", "nproc; echo $A $FROM_HOST; pwd; id -u; hostname")
	cmd.Env = append(cmd.Env, "FROM_HOST=host")
	require.Equal(t, result{"2\n1 host\n/tmp\n1234\nother\n", "", 0}, finish(t, cmd))
	requireNothingLeft(t, home)
}

func TestNamedSandboxLeavesItsRecord(t *testing.T) {
	kvmtest.NeedKVM(t)
	cmd, home := sandpit(t, "run", "--name", "named", "--", "true")
	require.Equal(t, result{}, finish(t, cmd))

	again := func(args ...string) result {
		c, _ := sandpit(t, args...)
		c.Env = cmd.Env
		return finish(t, c)
	}
	r := again("run", "--name", "named", "--", "true")
	require.Equal(t, 125, r.status)
	require.Contains(t, r.stderr, "a sandbox of this name exists")
	r = again("ls")
	require.Regexp(t, `named\s+stopped`, r.stdout)
	require.Equal(t, result{"named\n", "", 0}, again("rm", "named"))
	r = again("rm", "named")
	require.Equal(t, 125, r.status)
	require.Contains(t, r.stderr, "no sandbox of this name")
	requireNothingLeft(t, home)
}

func TestTimeoutStatus(t *testing.T) {
	kvmtest.NeedKVM(t)
	cmd, home := sandpit(t, "run", "--timeout", "3s", "--", "sh", "-c", "echo kept; sleep 1000")
	r := finish(t, cmd)
	require.Equal(t, 124, r.status)
	require.Equal(t, "kept\n", r.stdout)
	requireNothingLeft(t, home)
}

func TestInterruptedRunLeavesNothing(t *testing.T) {
	kvmtest.NeedKVM(t)
	for _, delay := range []time.Duration{50 * time.Millisecond, 400 * time.Millisecond, 4 * time.Second} {
		cmd, home := sandpit(t, "run", "--", "sleep", "1000")
		require.NoError(t, cmd.Start())
		time.Sleep(delay)
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		require.Error(t, cmd.Wait())
		// -1: the signal came before sandpit was ready to catch it.
		require.Contains(t, []int{125, 130, -1}, cmd.ProcessState.ExitCode())
		requireNothingLeft(t, home)
	}
}

func TestBadInput(t *testing.T) {
	kvmtest.NeedKVM(t)
	whole, err := kernel.Image().Open(testCache())
	require.NoError(t, err)
	defer whole.Close()
	part := make([]byte, 1<<20)
	_, err = io.ReadFull(whole, part)
	require.NoError(t, err)
	truncated := filepath.Join(t.TempDir(), "vmlinux")
	require.NoError(t, os.WriteFile(truncated, part, 0o600))
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		says   []string
	}{
		{"unknown flag", []string{"run", "--bogus"}, 125, []string{"unknown flag: --bogus", "--help"}},
		{"unknown command", []string{"rnu"}, 125, []string{`unknown command "rnu"`}},
		{"no such image here", []string{"run", "--pull", "never", "true"}, 125, []string{"true:latest", "cache"}},
		{"flags after the image", []string{"run", "./rootfs", "--cpus", "2", "--", "true"}, 125, []string{"--cpus", "flags go before the image"}},
		{"no directory", []string{"run", "./no/such/rootfs", "--", "true"}, 125, []string{"Image", "no/such/rootfs"}},
		{"zero CPUs", []string{"run", "--cpus", "0", "--", "true"}, 125, []string{"CPUs", "want 1 to 32"}},
		{"300 CPUs", []string{"run", "--cpus", "300", "--", "true"}, 125, []string{"CPUs: 300", "want 1 to 32"}},
		{"1 MiB", []string{"run", "--memory", "1", "--", "true"}, 125, []string{"Memory: 1 MiB", "at least"}},
		{"10 TiB", []string{"run", "--memory", "10485760", "--", "true"}, 125, []string{"Memory: 10485760 MiB", "this host has"}},
		{"everything at once", []string{"run", "--cpus", "99", "--memory", "2", "-w", "rel", "-e", "=x", "--name", "../x", "--", "true"}, 125,
			[]string{"CPUs: 99", "Memory: 2", `Workdir: "rel"`, `Env: "=x"`, `name: "../x"`}},
		{"missing kernel", []string{"run", "--kernel", "/no/such/kernel", "--", "true"}, 125, []string{"/no/such/kernel", "no such file"}},
		{"truncated kernel", []string{"run", "--kernel", truncated, "--", "true"}, 125, []string{"kernel", "truncated"}},
		{"kernel is a directory", []string{"run", "--kernel", "/tmp", "--", "true"}, 125, []string{"Kernel", "not a regular file"}},
		{"no such command", []string{"run", "--", "no-such-command"}, 127, []string{"no-such-command", "not found"}},
		{"not executable", []string{"run", "--", "/etc/passwd"}, 126, []string{"/etc/passwd", "permission denied"}},
		{"bad directory", []string{"run", "-w", "/no/such", "--", "true"}, 125, []string{"bad working directory"}},
		{"unknown user", []string{"run", "-u", "mallory", "--", "true"}, 125, []string{"unknown user", "mallory"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd, home := sandpit(t, tt.args...)
			r := finish(t, cmd)
			require.Equal(t, tt.status, r.status, "%+v", r)
			require.Empty(t, r.stdout)
			for _, want := range tt.says {
				require.Contains(t, r.stderr, want)
			}
			requireNothingLeft(t, home)
		})
	}
}

func TestUnwritableHome(t *testing.T) {
	kvmtest.NeedKVM(t)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	cmd, _ := sandpit(t, "run", "--", "true")
	cmd.Env = append(cmd.Env, "XDG_STATE_HOME="+file)
	r := finish(t, cmd)
	require.Equal(t, 125, r.status)
	require.Contains(t, r.stderr, file)
	require.Contains(t, r.stderr, "not a directory")
	requireNothingLeft(t, filepath.Join(file, "sandpit", "sandboxes"))
}

func TestFullDisk(t *testing.T) {
	kvmtest.NeedKVM(t)
	// A file system of one MiB holds a sandbox's files but not the kernel.
	small := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size=1m"), "this test mounts, as root")
	t.Cleanup(func() { require.NoError(t, unix.Unmount(small, 0)) })
	cmd, home := sandpit(t, "run", "--", "true")
	cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+small)
	r := finish(t, cmd)
	require.Equal(t, 125, r.status)
	require.Contains(t, r.stderr, "no space left on device")
	require.Contains(t, r.stderr, small)
	requireNothingLeft(t, home)
	left, err := filepath.Glob(filepath.Join(small, "*", "*", "*vmlinux*"))
	require.NoError(t, err)
	require.Empty(t, left, "no half-written kernel")

	// And one that is full when the state is written.
	require.ErrorIs(t, os.WriteFile(filepath.Join(small, "ballast"), make([]byte, 2<<20), 0o600), syscall.ENOSPC)
	cmd, _ = sandpit(t, "run", "--", "true")
	cmd.Env = append(cmd.Env, "XDG_STATE_HOME="+small)
	r = finish(t, cmd)
	require.Equal(t, 125, r.status)
	require.Contains(t, r.stderr, "no space left on device")
	requireNothingLeft(t, filepath.Join(small, "sandpit", "sandboxes"))
}

// A terminal as a person uses it: a pty on our side, its size, its changes of
// size, Ctrl-C, and escape sequences on their way through.
func TestTerminal(t *testing.T) {
	kvmtest.NeedKVM(t)
	cmd, home := sandpit(t, "run", "-it", "--", "sh")
	cmd.Env = append(cmd.Env, "TERM=xterm-256color")
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 101})
	require.NoError(t, err)
	defer tty.Close()
	screen := newScreen(tty)

	typed := func(keys string) { _, err := io.WriteString(tty, keys); require.NoError(t, err) }
	typed("stty size; echo TERM=$TERM\r")
	screen.await(t, "33 101")
	screen.await(t, "TERM=xterm-256color")

	require.NoError(t, pty.Setsize(tty, &pty.Winsize{Rows: 44, Cols: 122}))
	require.Eventually(t, func() bool {
		typed("stty size\r")
		time.Sleep(200 * time.Millisecond)
		return strings.Contains(screen.text(), "44 122")
	}, 20*time.Second, 100*time.Millisecond)

	// The command line is echoed as typed, so its output is told apart by what
	// the shell makes of it.
	typed("printf '\\033[31mre%s\\033[0m\\n' d\r")
	screen.await(t, "\x1b[31mred\x1b[0m")

	typed("sleep 1000; echo status=$?\r")
	time.Sleep(500 * time.Millisecond)
	typed("\x03")
	time.Sleep(300 * time.Millisecond)
	typed("echo ali''ve\r")
	screen.await(t, "alive")

	typed("exit 9\r")
	err = cmd.Wait()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "%s", screen.text())
	require.Equal(t, 9, exit.ExitCode())
	requireNothingLeft(t, home)
}

// screen collects what a terminal shows.
type screen struct {
	bytes chan []byte
	all   []byte
}

func newScreen(r io.Reader) *screen {
	s := &screen{bytes: make(chan []byte, 1024)}
	go func() {
		defer close(s.bytes)
		for {
			buf := make([]byte, 4096)
			n, err := r.Read(buf)
			if n > 0 {
				s.bytes <- buf[:n]
			}
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *screen) text() string {
	for {
		select {
		case b, ok := <-s.bytes:
			if !ok {
				return string(s.all)
			}
			s.all = append(s.all, b...)
		default:
			return string(s.all)
		}
	}
}

func (s *screen) await(t *testing.T, want string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(s.text(), want) }, 30*time.Second, 20*time.Millisecond,
		"%q does not appear; the screen: %q", want, s.all)
}

func TestDoctorAndVersion(t *testing.T) {
	kvmtest.NeedKVM(t)
	cmd, _ := sandpit(t, "doctor")
	r := finish(t, cmd)
	require.Equal(t, 0, r.status, "%+v", r)
	require.Contains(t, r.stdout, "sandboxes can run here")
	cmd, _ = sandpit(t, "version")
	r = finish(t, cmd)
	require.Equal(t, 0, r.status)
	require.Regexp(t, `(?m)^kernel\s+6\.12`, r.stdout)
}
