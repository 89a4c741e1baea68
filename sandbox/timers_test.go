package sandbox_test

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// A command that runs is not idle however long, nor is a sandbox that is
// touched; after that it stops by itself, in order.
func TestIdleTimeout(t *testing.T) {
	needVM(t)
	ctx := deadline(t)
	const limit = 3 * time.Second
	sb, err := sandbox.Create(ctx, "idle", sandbox.Config{Memory: 128, IdleTimeout: limit})
	require.NoError(t, err)
	require.NoError(t, sb.Command(ctx, "sleep", "5").Run())
	other, err := sandbox.Connect(ctx, "idle")
	require.NoError(t, err)
	for begin := time.Now(); time.Since(begin) < limit+time.Second; time.Sleep(limit / 6) {
		require.NoError(t, other.Touch(ctx))
	}
	last := time.Now()
	status, err := other.Wait(ctx)
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(last), limit/2)
	require.Equal(t, "idle-timeout", status.Reason, "%+v", status)
	require.True(t, status.Success)
	require.Contains(t, status.Detail, "3s")
	require.NoError(t, other.Close())
	h, err := sandbox.Get(ctx, "idle")
	require.NoError(t, err)
	require.Equal(t, sandbox.Stopped, h.Status())
	require.ErrorIs(t, h.Touch(ctx), sandbox.ErrNotRunning)
	again, ended := h.ExitStatus()
	require.True(t, ended)
	require.Equal(t, status, again)
	waited, err := h.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, status, waited)
	names, err := sandbox.Prune(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"idle"}, names)
}

// What runs when the time is up is asked to end: it gets SIGTERM.
func TestMaxDuration(t *testing.T) {
	needVM(t)
	ctx := deadline(t)
	sb, err := sandbox.Create(ctx, "short", sandbox.Config{Memory: 128, MaxDuration: 2 * time.Second, IdleTimeout: time.Hour})
	require.NoError(t, err)
	err = sb.Command(ctx, "sleep", "1000").Run()
	var exit *sandbox.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, syscall.SIGTERM, exit.Signal)
	status, err := sb.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, "max-duration", status.Reason, "%+v", status)
	require.Contains(t, status.Detail, "2s")
}

func TestScriptsAndLimits(t *testing.T) {
	needVM(t)
	ctx := deadline(t)
	cfg := sandbox.Config{
		Memory: 128,
		Scripts: map[string]string{
			"greet": "echo hello \"$1\"\n",
			"own":   "#!/bin/sh\nexit 7\n",
			"true":  "echo mine\n",
		},
		Rlimits: []sandbox.Rlimit{{Name: "fsize", Soft: 1 << 20, Hard: 1 << 21}},
	}
	sb, err := sandbox.Create(ctx, "scripts", cfg)
	require.NoError(t, err)
	check := func(sb *sandbox.Sandbox) {
		out, err := sb.Command(ctx, "greet", "you").Output()
		require.NoError(t, err)
		require.Equal(t, "hello you\n", string(out))
	}
	check(sb)
	var exit *sandbox.ExitError
	require.ErrorAs(t, sb.Shell(ctx, "own").Run(), &exit)
	require.Equal(t, 7, exit.Code)

	cmd := sb.Command(ctx, "true")
	cmd.Env = []string{"PATH=/bin"}
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, "mine\n", string(out), "a script comes before the command of its name, whatever the PATH")

	out, err = sb.Command(ctx, "cat", "/proc/self/limits").Output()
	require.NoError(t, err)
	require.Regexp(t, `Max file size +1048576 +2097152 `, string(out))

	out, err = sb.Shell(ctx, "ls -l /.msb/scripts; touch /.msb/scripts/new").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "-rwxr-xr-x")
	require.Contains(t, strings.ToLower(string(out)), "read-only")

	_, err = sb.StopAndWait(ctx)
	require.NoError(t, err)
	sb, err = sandbox.Start(ctx, "scripts")
	require.NoError(t, err)
	require.Equal(t, cfg.Scripts, sb.Config().Scripts)
	check(sb)

	// Close: a connection lets go, an owner stops.
	other, err := sandbox.Connect(ctx, "scripts")
	require.NoError(t, err)
	require.NoError(t, other.Close())
	require.NoError(t, other.Close())
	require.ErrorIs(t, other.Command(ctx, "true").Run(), fs.ErrClosed)
	require.ErrorIs(t, other.Stop(ctx), os.ErrClosed)
	_, err = other.Wait(ctx)
	require.True(t, errors.Is(err, os.ErrClosed))
	check(sb)
	require.NoError(t, sb.Close())
	h, err := sandbox.Get(ctx, "scripts")
	require.NoError(t, err)
	require.Equal(t, sandbox.Stopped, h.Status())
	json, err := h.ConfigJSON()
	require.NoError(t, err)
	require.Contains(t, string(json), `"greet": "echo hello`)
}
