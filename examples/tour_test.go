package examples

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each Go block of the tour names a program in its first line, and is a piece of
// it, line by line; each program named has a test.
func TestTourIsCutFromExamples(t *testing.T) {
	tour, err := os.ReadFile("../docs/tour.md")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(tour), -1)
	require.GreaterOrEqual(t, len(blocks), 10)
	for _, b := range blocks {
		first, code, _ := strings.Cut(b[1], "\n")
		name, ok := strings.CutPrefix(first, "// examples/")
		require.True(t, ok, "a block begins with %q: want // examples/PROGRAM/FILE", first)
		source, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Contains(t, string(source), code, "docs/tour.md and %s differ", name)
		tests, err := filepath.Glob(filepath.Join(filepath.Dir(name), "*_test.go"))
		require.NoError(t, err)
		require.NotEmpty(t, tests, name)
	}
	steps := regexp.MustCompile(`(?m)^## (\d+)\. `).FindAllStringSubmatch(string(tour), -1)
	require.Len(t, steps, 10)
}

// The programs that need a VM are in the list of the suite.
func TestExamplesAreRun(t *testing.T) {
	suite, err := os.ReadFile("../scripts/test.sh")
	require.NoError(t, err)
	tests, err := filepath.Glob("*/main_test.go")
	require.NoError(t, err)
	require.NotEmpty(t, tests)
	for _, file := range tests {
		require.Contains(t, strings.Fields(string(suite)), "./examples/"+filepath.Dir(file), "scripts/test.sh does not run it")
	}
}
