package sandbox_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

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

func TestConfigGuest(t *testing.T) {
	for name, test := range map[string]struct {
		cfg  sandbox.Config
		want string // "" is accepted, as far as this goes
	}{
		"script name":      {sandbox.Config{Scripts: map[string]string{"a/b": ""}}, "Scripts"},
		"hidden script":    {sandbox.Config{Scripts: map[string]string{".": ""}}, "Scripts"},
		"scripts too long": {sandbox.Config{Scripts: map[string]string{"a": strings.Repeat("x", 1<<20)}}, "at most 1048576"},
		"rlimit name":      {sandbox.Config{Rlimits: []sandbox.Rlimit{{Name: "RLIMIT_NOFILE"}}}, "want one of as, core"},
		"rlimit order":     {sandbox.Config{Rlimits: []sandbox.Rlimit{{Name: "nofile", Soft: 2, Hard: 1}}}, "above the hard limit"},
		"idle":             {sandbox.Config{IdleTimeout: -1}, "IdleTimeout"},
		"duration":         {sandbox.Config{MaxDuration: -time.Second}, "MaxDuration"},
		"mount":            {sandbox.Config{Mounts: []sandbox.Mount{{Kind: sandbox.MountTmpfs, Target: "/x"}}}, "Mounts: not yet available"},
		"bad mount":        {sandbox.Config{Mounts: []sandbox.Mount{{Kind: sandbox.MountBind, Target: "x"}}}, "want an absolute path below /"},
		"mount kind":       {sandbox.Config{Mounts: []sandbox.Mount{{Kind: "nfs", Target: "/x"}}}, `kind "nfs"`},
		"port":             {sandbox.Config{Ports: []sandbox.PortMapping{{Host: 80, Guest: 80}}}, "Ports: not yet available"},
		"bad port":         {sandbox.Config{Ports: []sandbox.PortMapping{{Host: 80}}}, "no guest port"},
		"port protocol":    {sandbox.Config{Ports: []sandbox.PortMapping{{Guest: 80, Proto: "sctp"}}}, "want tcp or udp"},
		"network":          {sandbox.Config{Network: sandbox.NetworkConfig{Policy: sandbox.NetworkPublic}}, "Network: not yet available"},
		"bad network":      {sandbox.Config{Network: sandbox.NetworkConfig{Policy: "some"}}, `policy "some"`},
		"secret":           {sandbox.Config{Secrets: []sandbox.Secret{sandbox.SecretEnv("K", "v", "api.example.com")}}, "Secrets: not yet available"},
		"secret for all":   {sandbox.Config{Secrets: []sandbox.Secret{{Env: "K", Value: "v", Hosts: []string{"*"}}}}, `host "*"`},
		"no secret":        {sandbox.Config{Secrets: []sandbox.Secret{{Env: "K", Hosts: []string{"h"}}}}, "its value is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			newHome(t)
			_, err := sandbox.Create(t.Context(), "s", test.cfg)
			var bad *sandbox.ConfigError
			require.ErrorAs(t, err, &bad)
			require.ErrorContains(t, err, test.want)
			require.NotContains(t, err.Error(), "\n\n")
		})
	}
}
