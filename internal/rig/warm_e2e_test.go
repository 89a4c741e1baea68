package rig_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestE2E_WarmRig(t *testing.T) {
	kvmrig(t)
	r := run(t, nil, "--warm", "status")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stderr, "no warm rig")
	r = run(t, nil, "--warm", "start", "--memory", "2048")
	require.Zero(t, r.code, r.stderr)
	require.Contains(t, r.stdout, "2048 MiB")
	stopped := false
	defer func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "kvmrig", "warm.log"))
			t.Logf("the warm rig's log: %s", log)
		}
		if !stopped {
			run(t, nil, "--warm", "stop")
		}
	}()

	t.Run("eight at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				in := strings.Repeat(strconv.Itoa(i), 300_000)
				r := run(t, strings.NewReader(in), "--", "sh", "-c", fmt.Sprintf("cat; echo err%d >&2; exit %d", i, i))
				if r.code != i || r.stdout != in || r.stderr != fmt.Sprintf("err%d\n", i) {
					t.Errorf("%d: code %d, %d bytes, %s", i, r.code, len(r.stdout), r.stderr)
				}
			})
		}
		wg.Wait()
	})
	t.Run("a client that does not read stalls nobody", func(t *testing.T) {
		cmd, _ := start(t, "--", "sh", "-c", "echo up; exec cat /dev/zero")
		r := run(t, nil, "--", "echo", "hello")
		require.Equal(t, "hello\n", r.stdout)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		// Its command dies with it.
		require.Eventually(t, func() bool {
			return strings.Contains(run(t, nil, "--warm", "status").stdout, "commands: 0 running")
		}, 10*time.Second, 50*time.Millisecond)
	})
	t.Run("the host's files are seen as they are", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		require.Equal(t, 1, run(t, nil, "--", "cat", file).code)
		for _, s := range []string{"first", "second", "third one"} {
			require.NoError(t, os.WriteFile(file+".new", []byte(s), 0o644))
			require.NoError(t, os.Rename(file+".new", file))
			require.Equal(t, s, run(t, nil, "--", "cat", file).stdout)
		}
		require.NoError(t, os.WriteFile(file, []byte("changed in place"), 0o644))
		require.Equal(t, "changed in place", run(t, nil, "--", "cat", file).stdout)
	})
	t.Run("nothing outlives its command", func(t *testing.T) {
		begun := time.Now()
		r := run(t, nil, "--", "sh", "-c", "setsid sleep 1234 & echo $!")
		require.Zero(t, r.code)
		require.Less(t, time.Since(begun), 30*time.Second)
		require.NotZero(t, run(t, nil, "--", "test", "-d", "/proc/"+strings.TrimSpace(r.stdout)).code)
	})
	t.Run("stop ends what runs", func(t *testing.T) {
		cmd, errs := start(t, "--", "sh", "-c", "echo up; exec sleep 1000")
		r := run(t, nil, "--warm", "stop")
		stopped = true
		require.Zero(t, r.code, r.stderr)
		_ = cmd.Wait()
		require.Equal(t, 125, cmd.ProcessState.ExitCode(), errs.String())
		require.Equal(t, 1, run(t, nil, "--warm", "status").code)
	})
}

func TestE2E_WarmRigEndsUnused(t *testing.T) {
	kvmrig(t)
	r := run(t, nil, "--warm", "start", "--memory", "512", "--idle", "1s")
	require.Zero(t, r.code, r.stderr)
	require.Eventually(t, func() bool { return run(t, nil, "--warm", "status").code == 1 }, 30*time.Second, 200*time.Millisecond)
}
