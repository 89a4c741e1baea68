package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
	"github.com/sandpit-vm/sandpit/sandbox"
)

// putLog writes a file of a sandbox's log, in the format that is documented.
func (h imageHome) putLog(t testing.TB, name, file string, lines ...string) {
	t.Helper()
	path := filepath.Join(h.dir, "sandboxes", name, file)
	require.NoError(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
}

func TestHostLogs(t *testing.T) {
	h := imageHome{t.TempDir()}
	h.put(t, prepared{name: "box", status: sandbox.Stopped})
	require.Equal(t, result{}, h.run(t, "logs", "box"), "it has written nothing")
	h.putLog(t, "box", "console.000001.log", `{"t":"2026-05-04T10:00:00.5Z","s":"console","d":"boot\n"}`)
	h.putLog(t, "box", "output.000007.log",
		`{"t":"2026-05-04T10:00:01Z","s":"stdout","id":"A","d":"one "}`,
		`{"t":"2026-05-04T10:00:02Z","s":"stderr","id":"B","d":"err\n"}`,
		`{"t":"2026-05-04T10:00:03Z","s":"stdout","id":"A","d":"two\n"}`)
	h.putLog(t, "box", "output.000008.log",
		`{"t":"2026-05-04T10:00:04Z","s":"stdout","id":"C","d":"three\u001b[31m\n"}`,
		`{"t":"2026-05-04T10:00:05Z","s":"stdout","id":"C","e":"base64","d":"/wo="}`,
		`{"t":"2026-05-04T10:00:06Z","s":"notice","d":"something is missing\n"}`)
	const note = "sandpit: log: something is missing\n"
	for args, want := range map[string]result{
		"":                                     {"boot\none two\nthree\x1b[31m\n\xff\n", "err\n" + note, 0},
		"--source console":                     {"boot\n", "", 0},
		"--source stderr":                      {"", "err\n" + note, 0},
		"--source stdout,stderr --tail 3":      {"three\x1b[31m\n\xff\n", note, 0},
		"--tail 0":                             {"", "", 0},
		"-n 1 --source console":                {"boot\n", "", 0},
		"--until 2026-05-04T10:00:00.999Z":     {"boot\n", "", 0},
		"--since 2026-05-04T10:00:05Z":         {"\xff\n", note, 0},
		"--since 2026-05-04T12:00:06.5+02:00":  {"", "", 0},
		"--until 87600h":                       {"", "", 0},
		"-f --tail 2 --source console,stdout ": {"\xff\n", note, 0},
	} {
		require.Equal(t, want, h.run(t, append([]string{"logs", "box"}, strings.Fields(args)...)...), args)
	}
	r := h.run(t, "logs", "-t", "box")
	stamp := regexp.MustCompile(`(?m)^2026-05-04T\S+ `)
	require.Equal(t, "boot\none two\nthree\x1b[31m\n\xff\n", stamp.ReplaceAllString(r.stdout, ""))
	require.Len(t, stamp.FindAllString(r.stdout, -1), 4, "one for each line")
	require.Regexp(t, `^2026-05-04T\S+ err\n2026-05-04T\S+ sandpit: log: `, r.stderr)

	r = h.run(t, "logs", "--format", "json", "box")
	require.Zero(t, r.status)
	require.Empty(t, r.stderr)
	require.NotContains(t, r.stdout, "\x1b")
	var all []map[string]any
	for line := range strings.Lines(r.stdout) {
		var v map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &v))
		all = append(all, v)
	}
	require.Len(t, all, 7)
	require.Equal(t, map[string]any{"time": "2026-05-04T10:00:01Z", "source": "stdout", "exec": "A", "data": "one "}, all[1])
	require.Equal(t, "three\x1b[31m\n", all[4]["data"])
	require.Equal(t, true, all[5]["base64"])

	// On a terminal it is harmless.
	cmd := exec.Command("/proc/self/exe", "logs", "box")
	cmd.Env = append(os.Environ(), mainEnv+"=1", "SANDPIT_HOME="+h.dir)
	tty, err := pty.Start(cmd)
	require.NoError(t, err)
	defer tty.Close()
	shown, _ := io.ReadAll(tty) // EIO is the end
	require.NoError(t, cmd.Wait())
	require.Contains(t, string(shown), `three\x1b[31m`)
	require.NotContains(t, string(shown), "\x1b")

	for args, want := range map[string]string{
		"nobody":                       "no sandbox of this name",
		"":                             "wants the name of one sandbox",
		"a b":                          "wants the name of one sandbox",
		"--tail -1 box":                "want a number of lines, or all",
		"--tail x box":                 "want a number of lines, or all",
		"--since yesterday box":        "want a time such as",
		"--until 2026 --since 1s box ": "before Since",
		"--source stdin box":           `"stdin": want console`,
		"--format xml box":             "want text or json",
	} {
		r := h.run(t, append([]string{"logs"}, strings.Fields(args)...)...)
		require.Equal(t, exitFailure, r.status, args)
		require.Contains(t, r.stderr, want, args)
	}
}

// Lines of different commands do not run into each other where lines matter.
func TestLogPrinter(t *testing.T) {
	var out, errs bytes.Buffer
	p := &logPrinter{timestamps: true, stdout: logOutput{w: &out}, stderr: logOutput{w: &errs}}
	at := time.Date(2026, 5, 4, 10, 0, 0, 0, time.Local)
	stamp := at.Format("2006-01-02T15:04:05.000000Z07:00") + " "
	for _, e := range []sandbox.LogEntry{
		{Time: at, Source: sandbox.LogStdout, Exec: "A", Data: []byte("a1 ")},
		{Time: at, Source: sandbox.LogStderr, Exec: "A", Data: []byte("e1 ")},
		{Time: at, Source: sandbox.LogStdout, Exec: "A", Data: []byte("a2")},
		{Time: at, Source: sandbox.LogStdout, Exec: "B", Data: []byte("b1\n")},
		{Time: at, Source: sandbox.LogConsole, Data: []byte("c1\n")},
		{Time: at, Source: sandbox.LogNotice, Data: []byte("n1\n")},
	} {
		require.NoError(t, p.print(&e))
	}
	require.Equal(t, stamp+"a1 a2\n"+stamp+"b1\n"+stamp+"c1\n", out.String())
	require.Equal(t, stamp+"e1 \n"+stamp+"sandpit: log: n1\n", errs.String())
}

// One sandbox is created, logged, measured and stopped.
func TestLogsAndMetrics(t *testing.T) {
	kvmtest.NeedKVM(t)
	cmd, home := sandpit(t, "create", "--capture", "--memory", "256", "watched")
	again := func(args ...string) *exec.Cmd {
		c, _ := sandpit(t, args...)
		c.Env = cmd.Env
		return c
	}
	require.Equal(t, result{"watched\n", "", 0}, finish(t, cmd))
	follow := again("logs", "-f", "--source", "stdout,stderr", "watched")
	var out, errs bytes.Buffer
	follow.Stdout, follow.Stderr = &out, &errs
	require.NoError(t, follow.Start())
	require.Equal(t, result{"out\n", "err\n", 3}, finish(t, again("exec", "watched", "sh", "-c", "echo out; echo err >&2; exit 3")))

	serve := again("metrics", "--listen", "127.0.0.1:0")
	says, err := serve.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, serve.Start())
	var url string
	_, err = fmt.Fscanf(says, "serving %s\n", &url)
	require.NoError(t, err)
	r, err := http.Get(url)
	require.NoError(t, err)
	page, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	s, err := parseExposition(string(page))
	require.NoError(t, err, "%s", page)
	require.Equal(t, float64(256<<20), s[`sandpit_memory_limit_bytes{sandbox="watched"}`])
	require.Positive(t, s[`sandpit_cpu_seconds_total{sandbox="watched"}`])
	require.NoError(t, serve.Process.Signal(os.Interrupt))
	require.NoError(t, serve.Wait(), "asked to end, it ended")

	m := finish(t, again("metrics"))
	require.Zero(t, m.status, m.stderr)
	require.Regexp(t, `watched +\d+\.\d% +[\d.]+ MB +268\.4 MB `, m.stdout)
	m = finish(t, again("metrics", "--format", "json", "watched"))
	var v map[string]any
	require.NoError(t, json.Unmarshal([]byte(m.stdout), &v))
	require.Equal(t, "watched", v["name"])
	require.Positive(t, v["memory_bytes"])
	watch := again("metrics", "-w", "--interval", "200ms", "--format", "json", "watched")
	lines, err := watch.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, watch.Start())
	dec := json.NewDecoder(lines)
	for range 3 {
		require.NoError(t, dec.Decode(&v))
	}
	require.NoError(t, watch.Process.Signal(os.Interrupt))
	require.Error(t, watch.Wait())
	require.Equal(t, exitInterrupted, watch.ProcessState.ExitCode())

	require.Equal(t, result{"watched\n", "", 0}, finish(t, again("stop", "watched")))
	require.NoError(t, follow.Wait(), "the log ended with the sandbox")
	require.Equal(t, "out\n", out.String())
	require.Equal(t, "err\n", errs.String())
	require.Equal(t, result{"out\n", "", 0}, finish(t, again("logs", "--source", "stdout", "watched")))
	require.Equal(t, result{"watched\n", "", 0}, finish(t, again("rm", "watched")))
	requireNothingLeft(t, home)
}
