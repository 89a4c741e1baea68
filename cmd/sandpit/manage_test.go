package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
)

// One sandbox through every command that changes its life.
func TestManage(t *testing.T) {
	kvmtest.NeedKVM(t)
	h := imageHome{t.TempDir()}
	script := filepath.Join(t.TempDir(), "hello.sh")
	require.NoError(t, os.WriteFile(script, []byte("echo hello $1\n"), 0o600))
	h.output(t, "create", "-m", "256m", "--label", "job=test", "--script", "hello="+script,
		"--rlimit", "core=4096:8192", "--idle-timeout", "1h", "--max-duration", "7200", "box")
	require.Equal(t, "box running 256 test\n", h.output(t, "ps", "--format", "{{.Name}} {{.Status}} {{.MemoryMiB}} {{.Labels.job}}"))
	out := h.output(t, "exec", "box", "--", "sh", "-c", "hello you; grep -i core /proc/self/limits; echo kept >/root/file")
	require.Regexp(t, `(?m)^hello you$`, out)
	require.Regexp(t, `(?m)^Max core file size\s+4096\s+8192`, out)
	require.Equal(t, "box\n", h.output(t, "touch", "box"))

	// A restart keeps the files, and the sandbox goes on by itself.
	require.Equal(t, "box\n", h.output(t, "restart", "-t", "30", "--label", "job=test"))
	require.Equal(t, "kept\nhello again\n", h.output(t, "exec", "box", "--", "sh", "-c", "cat /root/file; hello again"))

	// wait knows the end, whether it comes before or after.
	waiting := func(want string, end func()) {
		wait := h.sandpit("wait", "box")
		var stdout, stderr strings.Builder
		wait.Stdout, wait.Stderr = &stdout, &stderr
		require.NoError(t, wait.Start())
		end()
		require.NoError(t, wait.Wait(), stderr.String())
		require.Equal(t, want, stdout.String())
	}
	waiting("0\n", func() {
		require.Equal(t, "box\n", h.output(t, "drain", "--wait", "--all"))
	})
	require.Equal(t, "stopped drained true\n", h.output(t, "inspect", "--format", "{{.Status}} {{.Exit.Reason}} {{.Exit.Success}}", "box"))

	require.Equal(t, "box\n", h.output(t, "start", "--label", "job"))
	r := h.run(t, "rm", "box")
	require.Equal(t, exitFailure, r.status)
	require.Contains(t, r.stderr, "'sandpit stop box' ends it")
	waiting("137\n", func() { require.Equal(t, "box\n", h.output(t, "kill", "box")) })
	require.Equal(t, "box\n1 sandbox deleted\n", h.output(t, "prune", "-f"))

	// What is deleted when it stops cannot be restarted, and rm -f needs nothing
	// to be stopped first.
	run := h.sandpit("run", "--name", "brief", "--rm", "--memory", "256", "--", "sleep", "1000")
	require.NoError(t, run.Start())
	waitRunning(t, h, "brief")
	r = h.run(t, "restart", "brief")
	require.Equal(t, exitFailure, r.status)
	require.Contains(t, r.stderr, "--rm")
	require.Equal(t, "brief\n", h.output(t, "rm", "-f", "brief"))
	require.Error(t, run.Wait())
	requireNothingLeft(t, filepath.Join(h.dir, "sandboxes"))
}

func waitRunning(t *testing.T, h imageHome, name string) {
	t.Helper()
	require.Eventually(t, func() bool {
		return h.output(t, "ps", "-q", "--filter", "status=running", "--filter", "name="+name) != ""
	}, 2*time.Minute, 100*time.Millisecond)
}
