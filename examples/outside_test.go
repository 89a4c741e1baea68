// Package examples holds small programs that the tests build and run.
package examples

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A program outside this module, with a go.mod of its own, built without cgo
// and run from a directory that holds nothing else: it is the only file that a
// sandbox needs.
func TestOutsideTheModule(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program and starts a VM: not in short mode")
	}
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	rig := filepath.Join(root, "bin", "kvmrig")
	require.FileExists(t, rig, "make build makes it")

	source := t.TempDir()
	main, err := os.ReadFile("hello/main.go")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(source, "main.go"), main, 0o600))
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	require.NoError(t, err)
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(source, "go.mod"), mod, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(source, "go.sum"), sum, 0o600))
	goTool := func(args ...string) {
		cmd := exec.Command("go", args...)
		cmd.Dir = source
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "go %v: %s", args, out)
	}
	goTool("mod", "edit", "-module=example.org/hello",
		"-require=github.com/sandpit-vm/sandpit@v0.0.0", "-replace=github.com/sandpit-vm/sandpit="+root)
	empty := t.TempDir()
	program := filepath.Join(empty, "hello")
	goTool("build", "-o", program, ".")

	run := exec.Command(rig, "--timeout", "3m", "--", program)
	run.Dir = empty
	out, err := run.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "hello from a microVM\n<nil>\n", string(out))
	entries, err := os.ReadDir(empty)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}
