package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

// complete is what the shell's scripts ask sandpit for.
func (h imageHome) complete(t *testing.T, words ...string) string {
	t.Helper()
	r := h.run(t, append([]string{"__complete"}, words...)...)
	require.Zero(t, r.status, "%q: %s", words, r.stderr)
	// What cobra says to standard error the scripts throw away.
	require.Equal(t, 1, strings.Count(r.stderr, "\n"), "%q: %s", words, r.stderr)
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	require.Regexp(t, `^:\d+$`, lines[len(lines)-1])
	var found []string
	for _, l := range lines[:len(lines)-1] {
		word, _, _ := strings.Cut(l, "\t")
		found = append(found, word)
	}
	return strings.Join(found, " ")
}

func TestHostCompletion(t *testing.T) {
	h := zoo(t) // one that cannot be read is no reason to say anything
	for line, want := range map[string]string{
		"start ":                   "beta crash",
		"stop ":                    "alpha drain",
		"stop alpha ":              "drain",
		"kill a":                   "alpha",
		"drain ":                   "alpha drain",
		"touch ":                   "alpha drain",
		"restart ":                 "alpha beta crash drain",
		"wait x":                   "",
		"inspect b":                "beta",
		"rm ":                      "alpha beta crash drain",
		"exec ":                    "alpha drain",
		"exec alpha ":              "",
		"exec -e HOM":              "HOME",
		"sto":                      "stop",
		"image i":                  "import inspect",
		"run --pull ":              "if-missing always never",
		"run --cpus ":              "",
		"ls --format ":             "table json",
		"ls --filter ":             "name= status= image= label= until=",
		"ls --filter status=cr":    "status=crashed",
		"completion ":              "bash fish zsh",
		"run no-such-image":        "",
		"run image -- ":            "",
		"create box image another": "",
		"stop --timeout ":          "",
		"ls ":                      "",
	} {
		require.Equal(t, want, h.complete(t, strings.Split(line, " ")...), line)
	}
	// A directory is the shell's to complete.
	r := h.run(t, "__complete", "run", "./")
	require.Equal(t, ":0\n", r.stdout)

	// Nor is a home that cannot be read.
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.Empty(t, imageHome{file}.complete(t, "rm", ""))
	require.Empty(t, imageHome{file}.complete(t, "run", ""))
	require.Empty(t, imageHome{"not/absolute"}.complete(t, "exec", ""))
}

// Every command says how its arguments are completed: none leaves it to a
// shell that would offer files.
func TestHostCompletionIsWhole(t *testing.T) {
	everyCommand(func(c *cobra.Command) {
		if c.HasSubCommands() || c.IsAdditionalHelpTopicCommand() {
			return
		}
		require.True(t, c.ValidArgsFunction != nil || c.ValidArgs != nil, c.CommandPath())
		if strings.Contains(c.Use, "NAME") && !strings.Contains(c.Use, "NAME]") && c.Name() != "create" && c.Name() != "import" {
			var names []string
			for _, v := range completeNamesOf(t, c) {
				names = append(names, strings.TrimSuffix(v, ":"))
			}
			require.Contains(t, names, "alpha", "%s does not complete names", c.CommandPath())
		}
	})
}

func completeNamesOf(t *testing.T, c *cobra.Command) []string {
	h := zoo(t)
	if c.Name() == "start" {
		return []string{h.complete(t, "start", ""), "alpha"}
	}
	return strings.Fields(h.complete(t, append(strings.Fields(c.CommandPath())[1:], "")...))
}

// The scripts are what their shells understand.
func TestHostCompletionScripts(t *testing.T) {
	h := imageHome{t.TempDir()}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script := h.output(t, "completion", shell)
		require.Contains(t, script, "__complete", shell)
		if shell != "bash" {
			continue // the others are no part of every Debian
		}
		file := filepath.Join(t.TempDir(), "script")
		require.NoError(t, os.WriteFile(file, []byte(script), 0o600))
		out, err := exec.Command("bash", "-n", file).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}
