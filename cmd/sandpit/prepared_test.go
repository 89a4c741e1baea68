package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// prepared is a sandbox that a test writes down without a machine, as package
// internal/state lays it out.
type prepared struct {
	name   string
	status sandbox.Status
	age    time.Duration
	cfg    sandbox.Config
	// digest is the image's; reason, code and console are of its end.
	digest, reason, console string
	code                    int
}

// put writes a sandbox down. One that runs, starts or drains has its lock
// held by the test, as its monitor would hold it.
func (h imageHome) put(t testing.TB, p prepared) {
	t.Helper()
	dir := filepath.Join(h.dir, "sandboxes", p.name)
	require.NoError(t, os.MkdirAll(dir, 0o700))
	if p.cfg.CPUs == 0 {
		p.cfg.CPUs, p.cfg.Memory = sandbox.DefaultCPUs, sandbox.DefaultMemory
	}
	created := time.Now().Add(-p.age)
	writeJSON(t, filepath.Join(dir, "config.json"), map[string]any{"config": p.cfg, "image_digest": p.digest})
	writeJSON(t, filepath.Join(dir, "state.json"), map[string]any{
		"status": p.status, "created": created, "updated": created.Add(time.Second),
		"reason": p.reason, "code": p.code, "console": p.console,
	})
	lock, err := os.Create(filepath.Join(dir, "lock"))
	require.NoError(t, err)
	if p.status == sandbox.Stopped || p.status == sandbox.Crashed {
		require.NoError(t, lock.Close())
		return
	}
	t.Cleanup(func() { lock.Close() })
	require.NoError(t, unix.FcntlFlock(lock.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
}

func writeJSON(t testing.TB, file string, v any) {
	t.Helper()
	data, err := json.Marshal(v)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, data, 0o600))
}

// breakState makes a sandbox's state unreadable.
func (h imageHome) breakState(t testing.TB, name string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(h.dir, "sandboxes", name, "state.json"), []byte("{"), 0o600))
}

// zoo is a home with sandboxes of every kind.
func zoo(t testing.TB) imageHome {
	h := imageHome{t.TempDir()}
	h.put(t, prepared{name: "alpha", status: sandbox.Running, age: 3*time.Hour + time.Minute,
		cfg: sandbox.Config{CPUs: 2, Memory: 2048, Image: "debian:12", Root: sandbox.OCI{Ref: "index.docker.io/library/debian:12"},
			Labels: map[string]string{"job": "nightly", "team": "ci"}},
		digest: "sha256:" + sixtyFour})
	h.put(t, prepared{name: "beta", status: sandbox.Stopped, age: 50 * time.Hour, reason: "stopped",
		cfg: sandbox.Config{CPUs: 1, Memory: 512, Labels: map[string]string{"job": "weekly"}}})
	h.put(t, prepared{name: "broken", status: sandbox.Stopped})
	h.breakState(t, "broken")
	h.put(t, prepared{name: "crash", status: sandbox.Crashed, age: 61 * time.Second, reason: "crashed", console: "panic: \x1b[2J",
		cfg: sandbox.Config{CPUs: 1, Memory: 1536, Root: sandbox.Dir{Path: "/srv/a\x1b[31mroot"}, Labels: map[string]string{"job": "nightly"}}})
	h.put(t, prepared{name: "drain", status: "draining", cfg: sandbox.Config{CPUs: 1, Memory: 512, Image: "localhost:5000/team/app:1.2"}})
	return h
}

const sixtyFour = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
