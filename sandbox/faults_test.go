package sandbox_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// Faults inside one sandbox, from the harmless to the last.
func TestFaultsInTheGuest(t *testing.T) {
	home := needVM(t)
	ctx := deadline(t)
	sb, err := sandbox.Create(ctx, "faulty", sandbox.Config{Memory: 256})
	require.NoError(t, err)
	lives := func(t *testing.T) {
		t.Helper()
		h, err := sandbox.Get(ctx, "faulty")
		require.NoError(t, err)
		require.Equal(t, sandbox.Running, h.Status())
		require.NoError(t, sb.Command(ctx, "true").Run())
	}
	t.Run("out of memory", func(t *testing.T) {
		bystander := sb.Command(ctx, "cat")
		in, err := bystander.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, bystander.Start())
		err = sb.Shell(ctx, `awk 'BEGIN { for (;;) a[n++] = sprintf("%01000d", n) }'`).Run()
		require.ErrorIs(t, err, sandbox.ErrOutOfMemory)
		var exit *sandbox.ExitError
		require.ErrorAs(t, err, &exit)
		require.Equal(t, syscall.SIGKILL, exit.Signal)
		require.NoError(t, in.Close())
		require.NoError(t, bystander.Wait(), "a command that eats nothing is left alone")
		lives(t)
	})
	t.Run("signals to the agent", func(t *testing.T) {
		// Signals that it does not want reach PID 1 of no system.
		for _, sig := range []string{"KILL", "STOP"} {
			require.NoError(t, sb.Shell(ctx, "kill -"+sig+" 1").Run())
			lives(t)
		}
		user := sb.Shell(ctx, "kill -SEGV 1")
		user.User = "user"
		require.Error(t, user.Run())
		lives(t)
	})
	t.Run("the agent dies", func(t *testing.T) {
		// Root in the guest may take its own machine down.
		_ = sb.Shell(ctx, "kill -SEGV 1; sleep 1000").Run() // it cannot answer
		status, err := sb.Wait(ctx)
		require.NoError(t, err)
		require.False(t, status.Success)
		require.Equal(t, "crashed", status.Reason, "%+v", status)
		require.Contains(t, status.Console, "Kernel panic - not syncing: Attempted to kill init!")
		h, err := sandbox.Get(ctx, "faulty")
		require.NoError(t, err)
		require.Equal(t, sandbox.Crashed, h.Status())
		again, ended := h.ExitStatus()
		require.True(t, ended)
		require.Equal(t, status, again)
		err = sb.Command(ctx, "true").Run()
		require.ErrorIs(t, err, sandbox.ErrNotRunning)
	})
	require.Eventually(t, func() bool { return len(monitors(t)) == 0 }, 10*time.Second, 20*time.Millisecond)
	t.Run("its state is unreadable", func(t *testing.T) { testUnreadableState(t, home, "faulty") })
	requireEmptyDir(t, home)
}

// A sandbox whose state cannot be read says so, hides no other, and can be
// removed.
func testUnreadableState(t *testing.T, home, name string) {
	ctx := deadline(t)
	file := filepath.Join(home, name, "state.json")
	for what, spoil := range map[string]func() error{
		"empty":       func() error { return os.WriteFile(file, nil, 0o600) },
		"garbage":     func() error { return os.WriteFile(file, []byte("\x00\xff{"), 0o600) },
		"a directory": func() error { return os.Mkdir(file, 0o700) },
		"a FIFO":      func() error { return unix.Mkfifo(file, 0o600) },
		"a symlink":   func() error { return os.Symlink("/dev/zero", file) },
	} {
		require.NoError(t, os.RemoveAll(file))
		require.NoError(t, spoil(), what)
		_, err := sandbox.Get(ctx, name)
		var bad *sandbox.Error
		require.ErrorAs(t, err, &bad, what)
		require.Equal(t, name, bad.Sandbox)
		require.ErrorContains(t, err, file, what)
		require.NotErrorIs(t, err, sandbox.ErrNotFound)
		handles, err := sandbox.List(ctx)
		require.ErrorContains(t, err, file, what)
		require.Empty(t, handles)
		_, err = sandbox.Create(ctx, name, sandbox.Config{})
		require.ErrorIs(t, err, sandbox.ErrExists, what)
	}
	require.NoError(t, sandbox.Remove(ctx, name))
}

// tinyHome is a home on a file system of its own, too small for much.
func tinyHome(t *testing.T, size string) string {
	t.Helper()
	small := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size="+size), "this test mounts, as root")
	t.Cleanup(func() {
		// A monitor has it until it is gone.
		require.Eventually(t, func() bool { return unix.Unmount(small, 0) == nil }, 10*time.Second, 20*time.Millisecond)
	})
	t.Setenv("XDG_STATE_HOME", small)
	return small
}

// The host's disk may be full from the beginning, or fill as the guest writes:
// that is the guest's trouble, and nobody else's.
func TestHostDiskFull(t *testing.T) {
	home := needVM(t)
	ctx := deadline(t)
	small := tinyHome(t, "24m")
	ballast := filepath.Join(small, "ballast")
	require.ErrorIs(t, os.WriteFile(ballast, make([]byte, 32<<20), 0o600), syscall.ENOSPC)
	_, err := sandbox.Create(ctx, "none", sandbox.Config{Memory: 256})
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorContains(t, err, small, "it says where")
	requireEmptyDir(t, filepath.Join(small, "sandpit", "sandboxes"))
	require.NoError(t, os.Remove(ballast))

	sb := create(t, "grows", sandbox.Config{Memory: 256})
	out, err := sb.Shell(ctx, "for i in $(seq 64); do dd if=/dev/urandom of=/f$i bs=1M count=1 2>&1 || exit 1; sync; done").CombinedOutput()
	require.Error(t, err, "%s", out)
	// A disk that takes no more is read-only to its file system.
	require.Regexp(t, `(?i)no space left|input/output error|read-only file system`, string(out))
	require.NoError(t, sb.Command(ctx, "true").Run(), "the sandbox goes on")
	h, err := sandbox.Get(ctx, "grows")
	require.NoError(t, err)
	require.Equal(t, sandbox.Running, h.Status())
	status, err := sb.StopAndWait(ctx)
	require.NoError(t, err)
	require.Contains(t, []string{"stopped", "crashed"}, status.Reason, "%+v", status)
	require.NoError(t, sandbox.Remove(ctx, "grows"))
	requireEmptyDir(t, filepath.Join(small, "sandpit", "sandboxes"))
	requireEmptyOrMissing(t, home)
}

func requireEmptyOrMissing(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Stat(dir); os.IsNotExist(err) {
		return
	}
	requireEmptyDir(t, dir)
}

// detachedEnv makes this test binary a creator whose sandbox outlives it.
const detachedEnv = "SANDPIT_TEST_DETACHED"

// createDetached makes a detached sandbox, says so, and waits for its end.
func createDetached(name string) {
	if _, err := sandbox.CreateDetached(context.Background(), name, sandbox.Config{Memory: 128}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	select {}
}

// A detached sandbox survives its creator and the terminal that was its
// creator's; another home neither sees it nor is in its way.
func TestDetachedSurvivesItsTerminal(t *testing.T) {
	home := needVM(t)
	ctx := deadline(t)
	master, slave := pty(t)
	creator := exec.Command("/proc/self/exe")
	creator.Env = append(os.Environ(), detachedEnv+"=alone")
	creator.Stdin, creator.Stdout, creator.Stderr = slave, slave, slave
	creator.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, creator.Start())
	require.NoError(t, slave.Close())
	line, err := bufio.NewReader(master).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\r\n", line)
	// The terminal is closed: its foreground gets SIGHUP.
	require.NoError(t, master.Close())
	err = creator.Wait()
	require.ErrorContains(t, err, "hangup")

	sb, err := sandbox.Connect(ctx, "alone")
	require.NoError(t, err)
	require.False(t, sb.OwnsLifecycle())
	require.NoError(t, sb.Command(ctx, "true").Run())

	other := t.TempDir()
	t.Setenv("XDG_STATE_HOME", other)
	handles, err := sandbox.List(ctx)
	require.NoError(t, err)
	require.Empty(t, handles)
	_, err = sandbox.Get(ctx, "alone")
	require.ErrorIs(t, err, sandbox.ErrNotFound)
	require.ErrorIs(t, sandbox.Remove(ctx, "alone"), sandbox.ErrNotFound)
	twin := create(t, "alone", sandbox.Config{Memory: 128, Hostname: "twin"})
	for box, want := range map[*sandbox.Sandbox]string{twin: "twin\n", sb: "alone\n"} {
		out, err := box.Command(ctx, "hostname").Output()
		require.NoError(t, err)
		require.Equal(t, want, string(out))
	}
	require.NoError(t, twin.RemovePersisted(ctx))

	t.Setenv("XDG_STATE_HOME", strings.TrimSuffix(home, "/sandpit/sandboxes"))
	handles, err = sandbox.List(ctx)
	require.NoError(t, err)
	require.Len(t, handles, 1)
	require.Equal(t, sandbox.Running, handles[0].Status())
	require.NoError(t, sb.RemovePersisted(ctx))
	requireEmptyDir(t, home)
}

// pty opens a terminal (pty(7)).
func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	return master, slave
}

// Ten commands are in flight when a sandbox begins to drain: all finish with
// their own status and output, an eleventh is refused, then it stops.
func TestDrain(t *testing.T) {
	needVM(t)
	ctx := deadline(t)
	sb := create(t, "drains", sandbox.Config{Memory: 256})
	type flight struct {
		cmd *sandbox.Cmd
		in  io.Closer
		out bytes.Buffer
	}
	flights := make([]*flight, 10)
	for i := range flights {
		f := &flight{cmd: sb.Shell(ctx, fmt.Sprintf("read line; echo end of %d; exit %d", i, i))}
		in, err := f.cmd.StdinPipe()
		require.NoError(t, err)
		f.in, f.cmd.Stdout = in, &f.out
		require.NoError(t, f.cmd.Start())
		flights[i] = f
	}
	require.NoError(t, sb.Drain(ctx))
	require.NoError(t, sb.Drain(ctx), "again is no error")
	status := func() sandbox.Status {
		h, err := sandbox.Get(ctx, "drains")
		require.NoError(t, err)
		return h.Status()
	}
	require.Equal(t, sandbox.Draining, status())
	require.ErrorIs(t, sb.Command(ctx, "true").Run(), sandbox.ErrDraining)
	other, err := sandbox.Connect(ctx, "drains")
	require.NoError(t, err)
	require.ErrorIs(t, other.Shell(ctx, "true").Run(), sandbox.ErrDraining)
	require.NoError(t, other.Close())
	for i, f := range flights {
		require.Equal(t, sandbox.Draining, status(), "before the end of %d", i)
		require.NoError(t, f.in.Close())
		err := f.cmd.Wait()
		var exit *sandbox.ExitError
		if i == 0 {
			assert.NoError(t, err)
		} else if assert.ErrorAs(t, err, &exit) {
			assert.Equal(t, i, exit.Code)
		}
		assert.Equal(t, fmt.Sprintf("end of %d\n", i), f.out.String())
	}
	ended, err := sb.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, "drained", ended.Reason, "%+v", ended)
	require.True(t, ended.Success)
	require.Equal(t, sandbox.Stopped, status())
	require.ErrorIs(t, sb.Command(ctx, "true").Run(), sandbox.ErrNotRunning)
	require.NoError(t, sb.Drain(ctx), "what has ended has drained")
	require.NoError(t, sandbox.Remove(ctx, "drains"))
}
