package sandbox_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func TestLifecycle(t *testing.T) {
	home := needVM(t)
	ctx := deadline(t)
	sb, err := sandbox.Create(ctx, "life", sandbox.Config{Memory: 256})
	require.NoError(t, err)
	require.Equal(t, "life", sb.Name())
	require.True(t, sb.OwnsLifecycle())

	_, err = sandbox.Create(ctx, "life", sandbox.Config{})
	require.ErrorIs(t, err, sandbox.ErrExists)
	require.ErrorIs(t, sandbox.Remove(ctx, "life"), sandbox.ErrRunning)
	h, err := sandbox.Get(ctx, "life")
	require.NoError(t, err)
	require.Equal(t, sandbox.Running, h.Status())

	boot := sb.Boot()
	require.NotEmpty(t, boot.Phases)
	require.NotZero(t, boot.Exits["MMIO"]+boot.Exits["IO"])

	out, err := sb.Command(ctx, "hostname").Output()
	require.NoError(t, err)
	require.Equal(t, "life\n", string(out))

	status, err := sb.StopAndWait(ctx)
	require.NoError(t, err)
	require.True(t, status.Success, "%+v", status)
	require.Equal(t, "stopped", status.Reason)
	again, err := sb.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, status, again)
	require.NoError(t, sb.Stop(ctx), "stopping what has stopped is no error")
	require.NoError(t, sb.Kill(ctx))
	require.Error(t, sb.Command(ctx, "true").Run())

	h, err = sandbox.Get(ctx, "life")
	require.NoError(t, err)
	require.Equal(t, sandbox.Stopped, h.Status())
	require.NoError(t, sandbox.Remove(ctx, "life"))
	_, err = sandbox.Get(ctx, "life")
	require.ErrorIs(t, err, sandbox.ErrNotFound)
	requireEmptyDir(t, home)
}

func requireEmptyDir(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

// The guest may end itself: through PID 1, or past it with reboot(2).
func TestGuestEndsItself(t *testing.T) {
	needVM(t)
	for _, command := range []string{"poweroff", "poweroff -f", "reboot -f"} {
		t.Run(command, func(t *testing.T) {
			ctx := deadline(t)
			sb := create(t, "ends", sandbox.Config{Memory: 256})
			require.Error(t, sb.Shell(ctx, command).Run(), "the command does not outlive its machine")
			status, err := sb.Wait(ctx)
			require.NoError(t, err)
			require.Equal(t, "stopped", status.Reason, "%+v", status)
			require.True(t, status.Success)
			require.NoError(t, sandbox.Remove(ctx, "ends"))
		})
	}
}

func TestStopIsGraceful(t *testing.T) {
	t.Run("SIGTERM", func(t *testing.T) { stopGracefully(t, sandbox.Config{Memory: 256}, "TERM") })
	t.Run("the image's signal", func(t *testing.T) {
		stopGracefully(t, sandbox.Config{Memory: 256, StopSignal: "SIGUSR2"}, "USR2")
	})
}

func stopGracefully(t *testing.T, cfg sandbox.Config, signal string) {
	needVM(t)
	ctx := deadline(t)
	sb := create(t, "graceful", cfg)
	cmd := sb.Shell(ctx, `trap 'echo terminated; exit 3' `+signal+`; echo up; while :; do sleep 0.1; done`)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan())
	require.Equal(t, "up", lines.Text())
	require.NoError(t, sb.Stop(ctx))
	require.True(t, lines.Scan())
	require.Equal(t, "terminated", lines.Text())
	require.False(t, lines.Scan())
	var exit *sandbox.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	require.Equal(t, 3, exit.Code)
	status, err := sb.Wait(ctx)
	require.NoError(t, err)
	require.True(t, status.Success, "%+v", status)
}

func TestCreateCancelled(t *testing.T) {
	home := needVM(t)
	// Every phase of a boot gets its share of cancellations.
	for i := range 8 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i*60)*time.Millisecond)
		_, err := sandbox.Create(ctx, "cancelled", sandbox.Config{Memory: 256})
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		if i > 0 {
			requireEmptyDir(t, home)
		}
	}
}

func TestHundredInARow(t *testing.T) {
	home := needVM(t)
	for i := range scaled(100) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		sb, err := sandbox.Create(ctx, fmt.Sprintf("row-%d", i), sandbox.Config{Memory: 256, Ephemeral: true})
		require.NoError(t, err, "sandbox %d", i)
		out, err := sb.Command(ctx, "hostname").Output()
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("row-%d\n", i), string(out))
		if i%2 == 0 {
			require.NoError(t, sb.Kill(ctx))
		} else {
			_, err = sb.StopAndWait(ctx)
			require.NoError(t, err)
		}
		cancel()
	}
	requireEmptyDir(t, home)
}

func TestEightAtOnce(t *testing.T) {
	home := needVM(t)
	ctx := deadline(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := fmt.Sprintf("at-once-%d", i)
			sb, err := sandbox.Create(ctx, name, sandbox.Config{Memory: 256, Ephemeral: true})
			if err != nil {
				t.Error(err)
				return
			}
			out, err := sb.Command(ctx, "hostname").Output()
			if err != nil || string(out) != name+"\n" {
				t.Errorf("%s: %q, %v", name, out, err)
			}
			if _, err := sb.StopAndWait(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	requireEmptyDir(t, home)
}

// TestSIGKILL kills creators, monitors and the guests' PID 1 at random moments
// of a sandbox's life: whatever is killed, nothing is left running, and the
// state directory says what happened.
func TestSIGKILL(t *testing.T) {
	home := needVM(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range scaled(50) {
		name := fmt.Sprintf("victim-%d", i)
		kind := []string{"creator", "monitor", "guest init"}[i%3]
		delay := time.Duration(rng.IntN(2000)) * time.Millisecond
		t.Run(fmt.Sprintf("%02d-%s-after-%v", i, strings.ReplaceAll(kind, " ", "-"), delay), func(t *testing.T) {
			sigkill(t, name, kind, delay)
		})
	}
	// Whatever came of them, every name is free or removable.
	handles, err := sandbox.List(context.Background())
	require.NoError(t, err)
	for _, h := range handles {
		require.Contains(t, []sandbox.Status{sandbox.Stopped, sandbox.Crashed}, h.Status(), h.Name())
		require.NoError(t, h.Remove(context.Background()))
	}
	left, err := filepath.Glob(filepath.Join(home, "*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func sigkill(t *testing.T, name, kind string, delay time.Duration) {
	creator := exec.Command("/proc/self/exe")
	creator.Env = append(os.Environ(), creatorEnv+"="+name)
	out, err := creator.StdoutPipe()
	require.NoError(t, err)
	creator.Stderr = os.Stderr
	require.NoError(t, creator.Start())
	defer creator.Wait()
	defer creator.Process.Kill()
	ready := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		ready <- line
	}()

	switch kind {
	case "creator":
		time.Sleep(delay)
		require.NoError(t, creator.Process.Kill())
	case "monitor":
		time.Sleep(delay)
		for _, pid := range monitors(t) {
			_ = exec.Command("kill", "-9", pid).Run() // it may just have ended
		}
		// The creator is told, or fails to create.
		creator.Process.Signal(syscall.SIGTERM)
	case "guest init":
		require.Equal(t, "ready\n", <-ready)
		killGuestInit(t, name)
		creator.Process.Signal(syscall.SIGTERM)
	}
	require.Eventually(t, func() bool { return len(monitors(t)) == 0 }, 30*time.Second, 20*time.Millisecond)
	h, err := sandbox.Get(context.Background(), name)
	if err != nil {
		require.ErrorIs(t, err, sandbox.ErrNotFound)
		return
	}
	require.Contains(t, []sandbox.Status{sandbox.Stopped, sandbox.Crashed}, h.Status())
	if kind == "guest init" {
		require.Equal(t, sandbox.Crashed, h.Status())
	}
}

// killGuestInit makes the kernel of a guest lose its PID 1. The kernel protects
// it from SIGKILL, so the guest is made to panic instead, which is what its
// death amounts to.
func killGuestInit(t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	sb, err := sandbox.Connect(ctx, name)
	require.NoError(t, err)
	_ = sb.Shell(ctx, "echo c > /proc/sysrq-trigger").Run() // it cannot answer
	_, err = sb.Wait(ctx)
	require.NoError(t, err)
}
