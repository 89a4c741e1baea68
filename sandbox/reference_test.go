package sandbox_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// reference is every entry of the reference that this API implements, by its
// sections.
var reference = map[string]string{
	"Static methods": "Sandbox::builder() Sandbox::get() Sandbox::list() Sandbox::remove() Sandbox::start() Sandbox::start_detached()",
	"Instance methods": "config() detach() drain() fs() kill() metrics() metrics_stream() name() owns_lifecycle() remove_persisted() " +
		"stop() stop_and_wait() wait() exec() exec_with() shell() attach()",
	"SandboxBuilder": "cpus() create() create_detached() disable_network() entrypoint() env() hostname() idle_timeout() image() image_with() " +
		"log_level() max_duration() memory() network() patch() port() port_udp() pull_policy() registry_auth() replace() script() " +
		"secret() secret_env() shell() user() volume() workdir()",
	"LogLevel":     "Error Warn Info Debug Trace",
	"PullPolicy":   "Always IfMissing Never",
	"RegistryAuth": "Basic",
	"SandboxConfig": "cpus env idle_timeout_secs image max_duration_secs memory_mib name patches scripts shell " +
		"volumes workdir",
	"SandboxHandle": "config() config_json() connect() created_at() kill() metrics() name() remove() start() start_detached() " +
		"status() stop() updated_at()",
	"SandboxMetrics": "cpu_percent disk_read_bytes disk_write_bytes memory_bytes memory_limit_bytes net_rx_bytes net_tx_bytes " +
		"timestamp uptime",
	"SandboxStatus": "Crashed Draining Running Stopped",
	"ExitStatus":    "code success",
}

// TestReference: every entry of the reference has a row in docs/reference.md,
// and what the row names exists: the Go counterpart, its example, its test.
func TestReference(t *testing.T) {
	symbols, examples, tests := symbols(t), functions(t, "Example"), functions(t, "Test")
	rows := referenceRows(t)
	for section, entries := range reference {
		want := strings.Fields(entries)
		require.Len(t, rows[section], len(want), "rows of %s", section)
		for _, entry := range want {
			row, ok := rows[section][entry]
			require.True(t, ok, "%s: %s has no counterpart", section, entry)
			require.True(t, symbols[row.symbol], "%s: %s: package sandbox exports no %s", section, entry, row.symbol)
			require.True(t, examples[row.example], "%s: %s: there is no %s", section, entry, row.example)
			require.True(t, tests[row.test], "%s: %s: there is no %s", section, entry, row.test)
		}
	}
	require.Len(t, rows, len(reference))
}

// TestEveryTypeHasAnExample: what is exported is shown in use.
func TestEveryTypeHasAnExample(t *testing.T) {
	examples := functions(t, "Example")
	for symbol := range symbols(t) {
		if name, isType := strings.CutPrefix(symbol, "type "); isType {
			require.True(t, examples["Example"+name], "type %s has no example", name)
		}
	}
}

type referenceRow struct{ symbol, example, test string }

// referenceRows reads the tables of docs/reference.md.
func referenceRows(t *testing.T) map[string]map[string]referenceRow {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "docs", "reference.md"))
	require.NoError(t, err)
	rows := map[string]map[string]referenceRow{}
	cells := regexp.MustCompile("^\\| `([^`]+)` \\| `([^`]+)` \\| `([^`]+)` \\| `([^`]+)` \\|")
	section := ""
	for line := range strings.Lines(string(data)) {
		if title, ok := strings.CutPrefix(line, "## "); ok {
			section = strings.TrimSpace(title)
		}
		if m := cells.FindStringSubmatch(line); m != nil {
			if rows[section] == nil {
				rows[section] = map[string]referenceRow{}
			}
			require.NotContains(t, rows[section], m[1])
			rows[section][m[1]] = referenceRow{m[2], m[3], m[4]}
		}
	}
	return rows
}

// symbols are the package's exported names: "Func", "Type.Method", "Type.Field",
// "Const", and "type Name" besides.
func symbols(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	method := regexp.MustCompile(`^func \(\w+ \*?(\w+)\) (\w+)\(`)
	function := regexp.MustCompile(`^func (\w+)\(`)
	for line := range strings.Lines(exported(t)) {
		f := strings.Fields(line)
		switch {
		case f[0] == "type" && len(f) > 3:
			out[f[1]+"."+f[3]] = true
		case f[0] == "type":
			out[f[1]], out["type "+f[1]] = true, true
		case f[0] == "const" || f[0] == "var":
			out[f[1]] = true
		}
		if m := method.FindStringSubmatch(line); m != nil {
			out[m[1]+"."+m[2]] = true
		}
		if m := function.FindStringSubmatch(line); m != nil {
			out[m[1]] = true
		}
	}
	return out
}

// functions are the test files' functions with a prefix.
func functions(t *testing.T, prefix string) map[string]bool {
	t.Helper()
	paths, err := filepath.Glob("*_test.go")
	require.NoError(t, err)
	name := regexp.MustCompile(`(?m)^func (` + prefix + `\w*)\(`)
	out := map[string]bool{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, m := range name.FindAllStringSubmatch(string(data), -1) {
			out[m[1]] = true
		}
	}
	return out
}
