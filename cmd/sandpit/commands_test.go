package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/creack/pty"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"mvdan.cc/sh/v3/syntax"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// everyCommand calls do for each command that users see.
func everyCommand(do func(c *cobra.Command)) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" {
			return
		}
		do(c)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
}

func TestHostHelp(t *testing.T) {
	everyCommand(func(c *cobra.Command) {
		path := c.CommandPath()
		require.NotEmpty(t, c.Short, path)
		require.NotRegexp(t, `\.$`, c.Short, path)
		if c.IsAdditionalHelpTopicCommand() {
			require.NotEmpty(t, c.Long, path)
			return
		}
		require.NotEmpty(t, c.Example, "%s has no Example", path)
		require.Contains(t, c.Example, path, "%s is not in its own example", path)
		if c.HasParent() && !c.Parent().HasParent() {
			require.NotEmpty(t, c.GroupID, path)
		}
		for _, line := range strings.Split(c.Long+"\n"+c.Example, "\n") {
			require.LessOrEqual(t, len(line), 86, "%s: %q is too long for a terminal", path, line)
		}
		checkExamples(t, c)
	})
	r := imageHome{t.TempDir()}.run(t)
	require.Zero(t, r.status)
	for _, want := range []string{"Sandboxes:\n  create ", "In them:\n", "Images:\n", "Other:\n", "sandpit exit-status"} {
		require.Contains(t, r.stdout, want)
	}
	for _, args := range []string{"stop --help", "help stop", "help image rm", "help format", "--version"} {
		r := imageHome{t.TempDir()}.run(t, strings.Fields(args)...)
		require.Zero(t, r.status, args)
		require.Empty(t, r.stderr, args)
		require.NotEmpty(t, r.stdout, args)
	}
}

// checkExamples finds every command line of sandpit in the examples of c, and
// holds it against what sandpit understands.
func checkExamples(t *testing.T, c *cobra.Command) {
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(c.Example), c.CommandPath())
	require.NoError(t, err, c.CommandPath())
	printer := syntax.NewPrinter()
	syntax.Walk(file, func(node syntax.Node) bool {
		call, ok := node.(*syntax.CallExpr)
		if !ok || len(call.Args) == 0 || call.Args[0].Lit() != "sandpit" {
			return true
		}
		var words []string
		for _, w := range call.Args[1:] {
			var b strings.Builder
			require.NoError(t, printer.Print(&b, w))
			words = append(words, strings.Trim(b.String(), `'"`))
		}
		found, rest, err := newRoot().Find(words)
		require.NoError(t, err, "example %q", words)
		found.InitDefaultVersionFlag()
		require.NoError(t, found.ParseFlags(rest), "example %q", words)
		require.NoError(t, found.ValidateArgs(found.Flags().Args()), "example %q", words)
		return true
	})
}

func TestHostTypos(t *testing.T) {
	h := imageHome{t.TempDir()}
	for args, says := range map[string][]string{
		"rnu":                         {`unknown command "rnu"`, "run", "see 'sandpit --help'"},
		"image lst":                   {`unknown command "lst" for "sandpit image"`, "did you mean ls"},
		"stop":                        {"'sandpit stop' wants the name of a sandbox", "see 'sandpit stop --help'"},
		"stop --tmeout 3 x":           {"unknown flag: --tmeout", "see 'sandpit stop --help'"},
		"stop -t soon x":              {"soon", "number of seconds"},
		"stop x --all":                {"not both"},
		"stop a/b":                    {"name", `"a/b"`},
		"ps x":                        {`unknown command "x"`},
		"completion tcsh":             {"bash, fish or zsh"},
		"create --memory lots x":      {"lots", "512m or 2g"},
		"create --memory 0 x":         {`"0"`},
		"create --label =1 x":         {"--label", "KEY=VALUE"},
		"create --rlimit nofile x":    {"nofile=1024:4096"},
		"create --script a=/no x":     {"--script a", "/no"},
		"create --script a=/ x":       {"not a regular file"},
		"create --idle-timeout -1s x": {"-1s", "15m"},
		"create --log-level loud x":   {"loud", "debug or trace"},
		"create --rlimit files=1 x":   {"Rlimits", "files", "nofile"},
	} {
		r := h.run(t, strings.Fields(args)...)
		require.Equal(t, exitFailure, r.status, args)
		require.Empty(t, r.stdout, args)
		for _, want := range says {
			require.Contains(t, r.stderr, want, args)
		}
	}
}

// What does not exist yet is known by name, and says so.
func TestHostNotYetAvailable(t *testing.T) {
	h := imageHome{t.TempDir()}
	for _, args := range []string{
		"-v /tmp:/data", "-v /tmp:/data:ro,noexec", "--mount type=tmpfs,target=/data,size=64m", "-p 8080:80", "-p 127.0.0.1:0:53/udp",
		"-p [::1]:80:80", "--network public", "--secret HOME@api.example.com",
	} {
		for _, command := range [][]string{{"create", "box"}, {"run", "--name", "box"}} {
			line := append([]string{command[0]}, strings.Fields(args)...)
			r := h.run(t, append(line, command[1:]...)...)
			require.Equal(t, exitFailure, r.status, line)
			require.Contains(t, r.stderr, "not yet available", line)
		}
	}
	for args, says := range map[string]string{
		"-v /data":            "SOURCE:TARGET",
		"-v /tmp:/data:fast":  "noexec",
		"-v /tmp:data":        "absolute",
		"--mount kind=bind":   "want type",
		"-p 80":               "HOST:GUEST",
		"-p x:80":             "HOST:GUEST",
		"-p 70000:80":         "HOST:GUEST",
		"-p here:80:80":       "HOST:GUEST",
		"-p 80:80/sctp":       "tcp or udp",
		"--network all-of-it": "want public, all or none",
		"--secret TOKEN":      "NAME@HOST",
	} {
		r := h.run(t, append(append([]string{"create"}, strings.Fields(args)...), "box")...)
		require.Equal(t, exitFailure, r.status, args)
		require.Contains(t, r.stderr, says, args)
	}
}

// Every command that takes names says which of them it does not know, and
// where to look; it does what it can for the others.
func TestHostUnknownNames(t *testing.T) {
	h := zoo(t)
	require.NoError(t, os.RemoveAll(filepath.Join(h.dir, "sandboxes", "broken")))
	for _, command := range []string{"start", "restart", "stop", "kill", "rm", "inspect", "wait", "drain", "touch"} {
		r := h.run(t, command, "nobody", "no.one")
		require.Equal(t, exitFailure, r.status, command)
		for _, want := range []string{"sandbox nobody: ", "sandbox no.one: ", "no sandbox of this name", "'sandpit ls'"} {
			require.Contains(t, r.stderr, want, command)
		}
	}
	r := h.run(t, "inspect", "nobody", "beta")
	require.Equal(t, exitFailure, r.status)
	require.Contains(t, r.stderr, "sandbox nobody: ")
	require.Contains(t, r.stdout, `"name": "beta"`)
	r = h.run(t, "rm", "nobody", "beta", "alpha")
	require.Equal(t, exitFailure, r.status)
	require.Equal(t, "beta\n", r.stdout)
	require.Contains(t, r.stderr, "sandbox nobody: ")
	require.Contains(t, r.stderr, "'sandpit stop alpha' ends it")
	r = h.run(t, "touch", "crash")
	require.Equal(t, exitFailure, r.status)
	require.Contains(t, r.stderr, "'sandpit start crash' boots it")
	// rm -f is for scripts that clean up.
	r = h.run(t, "rm", "-f", "nobody", "crash")
	require.Zero(t, r.status, r.stderr)
	require.Contains(t, r.stderr, "nobody")
}

func TestHostInspect(t *testing.T) {
	h := zoo(t)
	var list []struct {
		view
		Config sandbox.Config `json:"config"`
	}
	out := h.output(t, "inspect", "alpha", "crash")
	require.NotContains(t, out, "\x1b")
	require.NoError(t, json.Unmarshal([]byte(out), &list))
	require.Len(t, list, 2)
	require.Equal(t, "sha256:"+sixtyFour, list[0].ImageDigest)
	require.Equal(t, sandbox.OCI{Ref: "index.docker.io/library/debian:12"}, list[0].Config.Root)
	require.Nil(t, list[0].Exit)
	require.Equal(t, &exitView{Reason: "crashed", Console: "panic: \x1b[2J"}, list[1].Exit)
	require.Equal(t, "crashed \\x1b[2J 1\n", strings.Replace(
		h.output(t, "inspect", "--format", "{{.Exit.Reason}} {{.Exit.Console}} {{.CPUs}}", "crash"), "panic: ", "", 1))

	r := h.run(t, "inspect", "broken", "beta")
	require.Equal(t, exitFailure, r.status)
	require.Contains(t, r.stderr, "'sandpit rm broken' deletes it")
	require.Contains(t, r.stdout, `"name": "beta"`)
}

func TestHostWaitForWhatHasEnded(t *testing.T) {
	h := imageHome{t.TempDir()}
	h.put(t, prepared{name: "ok", status: sandbox.Stopped, reason: "idle-timeout"})
	h.put(t, prepared{name: "seven", status: sandbox.Stopped, reason: "stopped", code: 7})
	h.put(t, prepared{name: "killed", status: sandbox.Stopped, reason: "killed"})
	h.put(t, prepared{name: "crashed", status: sandbox.Crashed, reason: "crashed"})
	require.Equal(t, "7\n0\n137\n1\n7\n", h.output(t, "wait", "seven", "ok", "killed", "crashed", "seven"))
}

func TestHostRemoveAndPrune(t *testing.T) {
	h := zoo(t)
	sandboxes := func() string {
		entries, err := os.ReadDir(filepath.Join(h.dir, "sandboxes"))
		require.NoError(t, err)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return strings.Join(names, " ")
	}
	h.put(t, prepared{name: "old", status: sandbox.Stopped, age: 1000 * 60 * 60 * 1e9, reason: "stopped"})

	// Without a terminal nobody can be asked; on one, no is an answer.
	r := h.run(t, "prune")
	require.Equal(t, exitFailure, r.status)
	require.Contains(t, r.stderr, "-f deletes without asking")
	answer := func(keys string) string {
		cmd := h.sandpit("prune")
		tty, err := pty.Start(cmd)
		require.NoError(t, err)
		defer tty.Close()
		screen := newScreen(tty)
		screen.await(t, "[y/N] ")
		_, err = tty.WriteString(keys)
		require.NoError(t, err)
		_ = cmd.Wait()
		screen.await(t, "deleted")
		return screen.text()
	}
	shown := answer("n\n")
	require.Contains(t, shown, "Delete 3 sandboxes with all files in them?")
	require.Contains(t, shown, "nothing was deleted")
	require.Contains(t, answer("\x04"), "nothing was deleted")
	require.Equal(t, "alpha beta broken crash drain old", sandboxes())

	r = h.run(t, "prune", "-f", "--filter", "until=900h")
	require.Equal(t, "old\n1 sandbox deleted\n", r.stdout)
	require.Contains(t, r.stderr, "sandbox broken: ")
	require.Equal(t, exitFailure, r.status)
	require.Equal(t, "crash\n", h.run(t, "rm", "--label", "job=nightly").stdout)
	require.Equal(t, "alpha beta broken drain", sandboxes())
	require.Equal(t, "broken\n", h.output(t, "rm", "broken"))
	require.Contains(t, answer("y\n"), "1 sandbox deleted")
	require.Equal(t, "alpha drain", sandboxes())
	require.Equal(t, "0 sandboxes deleted\n", h.output(t, "prune"))
	require.Equal(t, "0 sandboxes deleted\n0 images deleted, 0 B reclaimed\n", h.output(t, "prune", "-f", "--images"))
}

// Whoever closes our output has seen enough, with SIGPIPE or without.
func TestHostClosedPipe(t *testing.T) {
	h := zoo(t)
	require.NoError(t, os.RemoveAll(filepath.Join(h.dir, "sandboxes", "broken")))
	for _, script := range []string{`exec "$0" "$@"`, `trap "" PIPE; exec "$0" "$@"`} {
		for _, args := range [][]string{{"ls"}, {"ls", "--format", "json"}, {"inspect", "alpha"}, {"image", "ls"}, {"ls", "-q"}} {
			r, w, err := os.Pipe()
			require.NoError(t, err)
			require.NoError(t, r.Close())
			self, err := os.Executable()
			require.NoError(t, err)
			cmd := exec.Command("sh", append([]string{"-c", script, self}, args...)...)
			cmd.Env = h.sandpit().Env
			cmd.Stdout = w
			var stderr strings.Builder
			cmd.Stderr = &stderr
			require.Error(t, cmd.Run(), args)
			require.NoError(t, w.Close())
			require.Empty(t, stderr.String(), "%q %q", script, args)
		}
	}
}
