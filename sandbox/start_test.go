package sandbox_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// A sandbox that is started again has its files, its configuration and its
// image, whatever became of what it was made of.
func TestStart(t *testing.T) {
	needVM(t)
	ctx := deadline(t)
	dir := rootTree(t)
	cfg := sandbox.Config{Memory: 256, Image: dir, Env: []string{"A=b"}, Hostname: "again",
		Patches: []sandbox.Patch{{Kind: sandbox.PatchAppend, Path: "/hello", Content: "patched\n"}}}
	sb, err := sandbox.Create(ctx, "again", cfg)
	require.NoError(t, err)
	require.NoError(t, sb.Shell(ctx, "echo kept >/kept").Run())
	_, err = sandbox.Start(ctx, "again")
	require.ErrorIs(t, err, sandbox.ErrRunning)
	_, err = sb.StopAndWait(ctx)
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "hello")))

	for round := range 2 {
		sb, err = sandbox.Start(ctx, "again")
		require.NoError(t, err, "round %d", round)
		require.True(t, sb.OwnsLifecycle())
		out, err := sb.Shell(ctx, `cat /hello /kept; echo $A; cat /proc/sys/kernel/hostname`).Output()
		require.NoError(t, err)
		require.Equal(t, "from the host\npatched\nkept\nb\nagain\n", string(out))
		if round == 0 {
			// A crash keeps what was written back.
			require.NoError(t, sb.Shell(ctx, "sync").Run())
			require.NoError(t, sb.Kill(ctx))
		}
	}
	require.NoError(t, sb.RemovePersisted(ctx))
	_, err = sandbox.Start(ctx, "again")
	require.ErrorIs(t, err, sandbox.ErrNotFound)
}

// A monitor that was killed, and a start whose caller went away, are in no
// start's way, and the second leaves the state that there was.
func TestStartAfterKills(t *testing.T) {
	needVM(t)
	ctx := deadline(t)
	_, err := sandbox.Create(ctx, "again", sandbox.Config{Memory: 256})
	require.NoError(t, err)
	for _, pid := range monitors(t) {
		n, err := strconv.Atoi(pid)
		require.NoError(t, err)
		require.NoError(t, syscall.Kill(n, syscall.SIGKILL))
	}
	require.Eventually(t, func() bool {
		h, err := sandbox.Get(ctx, "again")
		return err == nil && h.Status() == sandbox.Crashed
	}, 10*time.Second, 10*time.Millisecond)

	sb, err := sandbox.Start(ctx, "again")
	require.NoError(t, err)
	_, err = sb.StopAndWait(ctx)
	require.NoError(t, err)

	short, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		for len(monitors(t)) == 0 {
			time.Sleep(time.Millisecond)
		}
		h, err := sandbox.Get(ctx, "again")
		if assert.NoError(t, err) {
			assert.Equal(t, sandbox.Starting, h.Status())
		}
	}()
	_, err = sandbox.Start(short, "again")
	require.ErrorIs(t, err, context.Canceled)
	h, err := sandbox.Get(ctx, "again")
	require.NoError(t, err)
	require.Equal(t, sandbox.Stopped, h.Status())

	sb, err = sandbox.Start(ctx, "again")
	require.NoError(t, err)
	require.NoError(t, sb.RemovePersisted(ctx))
}

func TestReplace(t *testing.T) {
	home := needVM(t)
	ctx := deadline(t)
	first := create(t, "name", sandbox.Config{Memory: 256})
	_, err := sandbox.Create(ctx, "name", sandbox.Config{Memory: 256})
	require.ErrorIs(t, err, sandbox.ErrExists)

	// What cannot be made does not cost what there is.
	_, err = sandbox.Create(ctx, "name", sandbox.Config{Memory: 256, Replace: true, Image: "localhost:1/none", PullPolicy: sandbox.PullNever})
	require.ErrorIs(t, err, sandbox.ErrNotCached)
	require.NoError(t, first.Command(ctx, "true").Run())

	second, err := sandbox.Create(ctx, "name", sandbox.Config{Memory: 256, Replace: true})
	require.NoError(t, err)
	status, err := first.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, "stopped", status.Reason)
	require.NoError(t, second.Command(ctx, "true").Run())
	require.NoError(t, second.RemovePersisted(context.Background()))
	requireEmptyDir(t, home)
}
