package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/sandbox"
)

func TestHostFlagValues(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "10": 10 * time.Second, "1.5": 1500 * time.Millisecond, "90s": 90 * time.Second, "8h": 8 * time.Hour,
	} {
		var s seconds
		require.NoError(t, s.Set(text), text)
		require.Equal(t, want, time.Duration(s), text)
	}
	for _, text := range []string{"", "-1", "-1s", "soon", "NaN", "Inf", "1e300", "10 s"} {
		require.Error(t, new(seconds).Set(text), text)
	}
	for text, want := range map[string]int{
		"512": 512, "512m": 512, "512MB": 512, "512MiB": 512, "2g": 2048, "2GiB": 2048, "1t": 1 << 20,
	} {
		var s sizeMiB
		require.NoError(t, s.Set(text), text)
		require.Equal(t, want, int(s), text)
	}
	for _, text := range []string{"", "0", "-1", "m", "b", "1k", "1.5g", "9999999999999999999", "4096t", "0x10"} {
		require.Error(t, new(sizeMiB).Set(text), text)
	}

	labels, err := parseLabels([]string{"a=1", "b", "c=x=y"})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "1", "b": "", "c": "x=y"}, labels)

	limits, err := parseRlimits([]string{"nofile=1024:4096", "RLIMIT_CORE=0", "nproc=unlimited", "stack=1:-1"})
	require.NoError(t, err)
	require.Equal(t, []sandbox.Rlimit{
		{Name: "nofile", Soft: 1024, Hard: 4096}, {Name: "core"},
		{Name: "nproc", Soft: sandbox.RlimInfinity, Hard: sandbox.RlimInfinity}, {Name: "stack", Soft: 1, Hard: sandbox.RlimInfinity},
	}, limits)
	for _, text := range []string{"nofile", "=1", "nofile=", "nofile=1:", "nofile=:1", "nofile=-2", "nofile=1:2:3"} {
		_, err := parseRlimits([]string{text})
		require.Error(t, err, text)
	}

	file := filepath.Join(t.TempDir(), "setup.sh")
	require.NoError(t, os.WriteFile(file, []byte("echo hi\n"), 0o600))
	scripts, err := parseScripts([]string{"go=" + file, file})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"go": "echo hi\n", "setup.sh": "echo hi\n"}, scripts)
	require.NoError(t, os.Truncate(file, maxScript+1))
	_, err = parseScripts([]string{file})
	require.ErrorContains(t, err, "too large")
}

// templated is what the tests' templates look at.
type templated struct {
	Name   string
	N      int
	List   []string
	Map    map[string]string
	Time   time.Time
	Child  *templated
	hidden int
}

func TestHostTemplates(t *testing.T) {
	v := templated{Name: "box", N: 3, List: []string{"a", "b"}, Map: map[string]string{"y": "2", "x.z": "1"},
		Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Child: &templated{Name: "child"}}
	run := func(line string, value any) (string, error) {
		tmpl, err := parseTemplate(line)
		if err != nil {
			return "", err
		}
		var b strings.Builder
		err = tmpl.execute(&b, value)
		return b.String(), err
	}
	for line, want := range map[string]string{
		"plain":                                           "plain",
		"{{.Name}} {{.N}}":                                "box 3",
		"{{.Child.Name}}":                                 "child",
		"{{.Child.Child.Name}}|":                          "|",
		"{{.Map.y}} {{index .Map \"x.z\"}}":               "2 1",
		"{{.Map.none}}{{index .Map \"no\"}}|":             "|",
		"{{index .List 1}} {{len .List}}":                 "b 2",
		"{{.Time}} {{.Child.Time}}|":                      "2026-01-02T03:04:05.000000006Z |",
		"{{json .List}} {{json .Name}}":                   `["a","b"] "box"`,
		"{{json .Child.Child}}":                           "null",
		"{{join .List \", \"}}":                           "a, b",
		"{{.Name | upper | printf \"%4s|\"}}":             " BOX|",
		"{{if .List}}some{{else}}none{{end}}":             "some",
		"{{if .Child.List}}some{{else}}none{{end}}":       "none",
		"{{if not .Child}}a{{else if eq .N 1 3}}b{{end}}": "b",
		"{{if ne .Name \"box\"}}a{{end}}":                 "",
		"{{range .List}}<{{.}}{{$.N}}>{{end}}":            "<a3><b3>",
		"{{range $i, $e := .List}}{{$i}}{{$e}}{{end}}":    "0a1b",
		"{{range $k, $v := .Map}}{{$k}}={{$v}} {{end}}":   "x.z=1 y=2 ",
		"{{range .Child.List}}x{{else}}empty{{end}}":      "empty",
		"{{with .Child}}{{.Name}}{{end}}":                 "child",
		"{{with $x := .Child}}{{$x.Name}}{{end}}":         "child",
		"{{$x := .N}}{{$x}}{{/* nothing */}}":             "3",
		"{{(index .List 0) | lower}} {{1.5}} {{true}}":    "a 1.5 true",
	} {
		got, err := run(line, v)
		require.NoError(t, err, line)
		require.Equal(t, want, got, line)
		pointed, err := run(line, &v)
		require.NoError(t, err, line)
		require.Equal(t, want, pointed, line)
	}
	for _, line := range []string{
		"{{", "{{.Name", "{{nothing}}", "{{.Nothing}}", "{{.hidden}}", "{{.Name.More}}", "{{.Name 1}}", "{{index .List 2}}",
		"{{index .List -1}}", "{{index .N 1}}", "{{index .Map 1}}", "{{join .N 1}}", "{{len 3}}", "{{range .N}}{{end}}",
		"{{define \"a\"}}{{end}}{{template \"a\"}}", "{{json}}", "{{eq 1}}", "{{printf 1}}", "{{break}}", "{{$x := 1}}{{$x = 2}}",
	} {
		_, err := run(line, v)
		require.Error(t, err, line)
	}
	_ = v.hidden
}

func FuzzTemplate(f *testing.F) {
	for _, line := range []string{"{{.Name}}", "{{range $k, $v := .Map}}{{$k}}{{end}}", "{{with .Child}}{{json .}}{{end}}",
		"{{index .List 0 | printf \"%d\"}}", "{{if eq .N 3}}{{else}}{{len .Map}}{{end}}"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		tmpl, err := parseTemplate(line)
		if err != nil {
			return
		}
		var b strings.Builder
		v := templated{Name: "box", List: []string{"a"}, Map: map[string]string{"k": "v"}, Child: &templated{}}
		if err := tmpl.execute(&b, v); err == nil {
			require.NoError(t, tmpl.execute(&b, &v))
		}
	})
}
