package sandbox_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// Nothing of this needs a VM: a configuration is judged before anything is
// opened.
func TestConfigReportsEverything(t *testing.T) {
	home := newHome(t)
	_, err := sandbox.Create(context.Background(), "-bad", sandbox.Config{
		CPUs:     33,
		Memory:   1,
		Image:    "UPPER CASE",
		Kernel:   "/no/such/kernel",
		Env:      []string{"fine=1", "bad", "=x", "nul=\x00"},
		Workdir:  "relative",
		Hostname: strings.Repeat("h", 65),
		Shell:    "sh",
	})
	var bad *sandbox.ConfigError
	require.ErrorAs(t, err, &bad)
	var fields []string
	for _, p := range bad.Problems {
		fields = append(fields, p.Field)
	}
	require.Equal(t, []string{"name", "CPUs", "Memory", "Image", "Kernel", "Env", "Env", "Env", "Workdir", "Shell", "Hostname"}, fields)
	var one sandbox.FieldError
	require.True(t, errors.As(err, &one), "each problem is an error of its own")
	requireNoDir(t, home)
}

func requireNoDir(t *testing.T, dir string) {
	t.Helper()
	require.NoDirExists(t, dir)
}

func TestNames(t *testing.T) {
	newHome(t)
	for name, good := range map[string]bool{
		"a": true, "A-1_b.c": true, strings.Repeat("n", 128): true,
		"": false, ".hidden": false, "-flag": false, "a/b": false, "..": false,
		"a b": false, "ä": false, "nul\x00": false, strings.Repeat("n", 129): false,
	} {
		_, err := sandbox.Get(context.Background(), name)
		var bad *sandbox.ConfigError
		if good {
			require.ErrorIs(t, err, sandbox.ErrNotFound, name)
		} else {
			require.ErrorAs(t, err, &bad, "%q", name)
		}
	}
}

func TestListOfNothing(t *testing.T) {
	newHome(t)
	handles, err := sandbox.List(context.Background())
	require.NoError(t, err)
	require.Empty(t, handles)
	require.ErrorIs(t, sandbox.Remove(context.Background(), "nobody"), sandbox.ErrNotFound)
}
