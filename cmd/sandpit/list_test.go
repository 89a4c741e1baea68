package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func TestHostListTable(t *testing.T) {
	h := zoo(t)
	r := h.run(t, "ls")
	require.Equal(t, strings.TrimLeft(`
NAME     STATUS       IMAGE                         CPUS   MEMORY     CREATED
alpha    running      debian:12                     2      2 GiB      3 hours ago
beta     stopped      (default)                     1      512 MiB    2 days ago
broken   unreadable   -                             -      -          -
crash    crashed      /srv/a\x1b[31mroot            1      1536 MiB   1 minute ago
drain    draining     localhost:5000/team/app:1.2   1      512 MiB    just now
`, "\n"), r.stdout)
	// One that is broken hides nothing, and is not hidden.
	require.Equal(t, exitFailure, r.status)
	require.Contains(t, r.stderr, "sandbox broken: ")
	require.Contains(t, r.stderr, filepath.Join(h.dir, "sandboxes", "broken", "state.json"))
	require.Contains(t, r.stderr, "'sandpit rm broken' deletes it")
	require.Equal(t, 2, strings.Count(r.stderr, "\n"), r.stderr)

	require.Equal(t, result{"NAME   STATUS   IMAGE   CPUS   MEMORY   CREATED\n", "", 0}, imageHome{t.TempDir()}.run(t, "ls"))
}

func TestHostListChooses(t *testing.T) {
	h := zoo(t)
	require.NoError(t, os.RemoveAll(filepath.Join(h.dir, "sandboxes", "broken")))
	for _, tt := range []struct{ args, want string }{
		{"ls", "alpha beta crash drain"},
		{"list", "alpha beta crash drain"},
		{"ls --running", "alpha drain"},
		{"ls --stopped", "beta crash"},
		{"ps", "alpha drain"},
		{"ps -a", "alpha beta crash drain"},
		{"ls --label job", "alpha beta crash"},
		{"ls --label job=nightly", "alpha crash"},
		{"ls --label job=nightly --label team=ci", "alpha"},
		{"ls --filter label=job=nightly --running", "alpha"},
		{"ls --label job=", ""},
		{"ls -f name=b* -f name=c*", "beta crash"},
		{"ls -f name=et", ""},
		{"ls -f status=crashed -f status=draining", "crash drain"},
		{"ls --running -f status=crashed", ""},
		{"ls --running -f status=draining", "drain"},
		{"ls -f image=debian:*", "alpha"},
		{"ls -f image=localhost*1.2", "drain"},
		{"ls -f until=1h", "alpha beta"},
		{"ls -f until=86400", "beta"},
	} {
		got := h.output(t, append(strings.Fields(tt.args), "-q")...)
		require.Equal(t, tt.want, strings.Join(strings.Fields(got), " "), tt.args)
	}
	for args, says := range map[string]string{
		"ls --filter colour=red":     "status=STATUS",
		"ls --filter status=asleep":  "starting, running, draining, stopped, crashed",
		"ls --filter until=tomorrow": "15m",
		"ls --filter name=[":         "name=[",
		"ls --label =x":              "KEY=VALUE",
		"ls --running --stopped":     "one of the two",
		"ls --format yaml":           "table, json",
		"ls --format {{.Nam}}":       "there is no field .Nam; there are .Name, .Status",
		"ls --format {{nam}}":        "sandpit help format",
		"inspect --format table x":   "want json",
	} {
		r := h.run(t, strings.Fields(args)...)
		require.Equal(t, exitFailure, r.status, args)
		require.Contains(t, r.stderr, says, args)
		require.Empty(t, r.stdout, args)
	}
}

func TestHostListJSON(t *testing.T) {
	h := zoo(t)
	r := h.run(t, "ls", "--format", "json")
	require.Equal(t, exitFailure, r.status)
	require.NotContains(t, r.stdout, "\x1b")
	var list []map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &list))
	require.Len(t, list, 5)
	created, err := time.Parse(time.RFC3339Nano, list[0]["created_at"].(string))
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(-3*time.Hour), created, 10*time.Minute)
	for _, m := range list {
		delete(m, "created_at")
		delete(m, "updated_at")
	}
	require.Equal(t, map[string]any{
		"name": "alpha", "status": "running", "image": "debian:12", "cpus": 2.0, "memory_mib": 2048.0,
		"labels": map[string]any{"job": "nightly", "team": "ci"},
	}, list[0])
	require.Equal(t, map[string]any{
		"name": "beta", "status": "stopped", "image": "", "cpus": 1.0, "memory_mib": 512.0,
		"labels": map[string]any{"job": "weekly"},
		"exit":   map[string]any{"code": 0.0, "success": true, "reason": "stopped"},
	}, list[1])
	require.Equal(t, "unreadable", list[2]["status"])
	require.Contains(t, list[2]["error"], "state.json")
	require.Equal(t, map[string]any{"code": 0.0, "success": false, "reason": "crashed"}, list[3]["exit"])

	require.Equal(t, "[]\n", imageHome{t.TempDir()}.output(t, "ls", "--format", "json"))
	require.Equal(t, "alpha\tdebian:12\n", h.run(t, "ls", "-f", "name=alpha", "--format", `{{.Name}}\t{{.Image}}`).stdout)
}

// A configuration that cannot be read takes nothing else away.
func TestHostListBrokenConfig(t *testing.T) {
	h := zoo(t)
	h.put(t, prepared{name: "broken", status: sandbox.Stopped}) // whole again
	require.NoError(t, os.WriteFile(filepath.Join(h.dir, "sandboxes", "beta", "config.json"), nil, 0o600))
	r := h.run(t, "ls", "--stopped")
	require.Equal(t, exitFailure, r.status)
	require.Contains(t, r.stderr, "sandbox beta: config")
	require.Regexp(t, `(?m)^beta     stopped   -                    -      -          2 days ago$`, r.stdout)
	require.Regexp(t, `(?m)^broken   stopped   \(default\) `, r.stdout)
}

// Colours are for terminals that know them, and for those who want them.
func TestHostColours(t *testing.T) {
	h := zoo(t)
	show := func(width uint16, env ...string) string {
		cmd := h.sandpit("ls")
		cmd.Env = append(cmd.Env, env...)
		tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: width})
		require.NoError(t, err)
		defer tty.Close()
		screen := newScreen(tty)
		screen.await(t, "deletes it") // the last line, standard error's
		require.Error(t, cmd.Wait())
		return strings.ReplaceAll(screen.text(), "\r\n", "\n")
	}
	colours := show(200, "TERM=xterm", "NO_COLOR=")
	require.Contains(t, colours, "alpha    \x1b[32mrunning\x1b[0m      debian:12")
	require.Contains(t, colours, "broken   \x1b[31munreadable\x1b[0m   -  ")
	require.Contains(t, colours, "beta     stopped      (default)")
	for _, env := range [][]string{{"TERM=dumb", "NO_COLOR="}, {"TERM=", "NO_COLOR="}, {"TERM=xterm", "NO_COLOR=1"}} {
		require.NotContains(t, show(200, env...), "\x1b", env)
	}
	// A narrow one shortens images, and nothing else.
	narrow := show(66, "TERM=dumb")
	require.Contains(t, narrow, "drain    draining     localhost:5…   1      512 MiB    just now\n")
	require.Contains(t, show(40, "TERM=dumb"), "drain    draining     localhost:5…   1      512 MiB    just now\n")
}

func TestHostAgo(t *testing.T) {
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	day := 24 * time.Hour
	for d, want := range map[time.Duration]string{
		-time.Hour: "just now", 0: "just now", 999 * time.Millisecond: "just now",
		time.Second: "1 second ago", 59 * time.Second: "59 seconds ago", time.Minute: "1 minute ago",
		59 * time.Minute: "59 minutes ago", time.Hour: "1 hour ago", 47 * time.Hour: "47 hours ago",
		2 * day: "2 days ago", 13 * day: "13 days ago", 14 * day: "2 weeks ago", 60 * day: "2 months ago",
		729 * day: "24 months ago", 730 * day: "2 years ago", 4000 * day: "10 years ago",
	} {
		require.Equal(t, want, ago(now.Add(-d), now), d)
	}
	require.Equal(t, "-", ago(time.Time{}, now))
}

// BenchmarkList is sandpit ls, from its start to its end, in a home with 200
// sandboxes. CPU time is what counts: cpu-ms/op. It is to stay below 100.
func BenchmarkList(b *testing.B) {
	h := imageHome{b.TempDir()}
	for i := range 200 {
		h.put(b, prepared{name: fmt.Sprintf("box-%03d", i), status: sandbox.Stopped, age: time.Duration(i) * time.Hour, reason: "stopped",
			digest: "sha256:" + sixtyFour,
			cfg: sandbox.Config{CPUs: 1, Memory: 512, UpperSize: sandbox.DefaultUpperSize, Hostname: "box", Shell: "/bin/sh",
				Image: "debian:12", Root: sandbox.OCI{Ref: "index.docker.io/library/debian:12"},
				Env:    []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"},
				Labels: map[string]string{"org.opencontainers.image.title": "debian", "job": "nightly"}}})
	}
	for _, args := range [][]string{{"version"}, {"ls"}, {"ls", "--format", "json"}, {"__complete", "rm", ""}} {
		b.Run(strings.Join(args, " "), func(b *testing.B) {
			var cpu time.Duration
			for b.Loop() {
				cmd := h.sandpit(args...)
				out, err := cmd.Output()
				require.NoError(b, err)
				require.NotEmpty(b, out)
				cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			}
			b.ReportMetric(float64(cpu.Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}
