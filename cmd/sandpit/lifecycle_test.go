package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
)

// A sandbox's life by way of the command line: it outlives the commands that
// made and used it, and its files outlive it.
func TestCreateExecStopStart(t *testing.T) {
	kvmtest.NeedKVM(t)
	h := imageHome{t.TempDir()}
	require.Equal(t, "box\n", h.output(t, "create", "--memory", "256", "-e", "A=1", "box"))
	require.Regexp(t, `box\s+running`, h.output(t, "ls"))

	cmd := h.sandpit("exec", "-e", "B=2", "-w", "/tmp", "-u", "user", "box", "--", "sh", "-c", "cat; echo $A $B; pwd; id -un; exit 3")
	cmd.Stdin = strings.NewReader("in\n")
	require.Equal(t, result{"in\n1 2\n/tmp\nuser\n", "", 3}, finish(t, cmd))
	h.output(t, "exec", "box", "sh", "-c", "echo kept >/root/file")

	require.Equal(t, "box\n", h.output(t, "stop", "box"))
	require.Regexp(t, `box\s+stopped`, h.output(t, "ls"))
	r := h.run(t, "exec", "box", "true")
	require.Equal(t, exitFailure, r.status)
	require.Contains(t, r.stderr, "not running")

	require.Equal(t, "box\n", h.output(t, "start", "box"))
	require.Equal(t, "kept\n1\n", h.output(t, "exec", "box", "sh", "-c", "cat /root/file; echo $A"))
	r = h.run(t, "rm", "box")
	require.Equal(t, exitFailure, r.status)
	require.Contains(t, r.stderr, "running")
	h.output(t, "stop", "box")
	h.output(t, "rm", "box")
	requireNothingLeft(t, filepath.Join(h.dir, "sandboxes"))
}
