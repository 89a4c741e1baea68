package mkasset

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBuildEnv(t *testing.T) {
	env := buildEnv([]string{"HOME=/h", "GOFLAGS=-tags=x", "GOAMD64=v3", "GOFLAGSX=y"}, "go1.2.3")
	require.Contains(t, env, "HOME=/h")
	require.Contains(t, env, "GOFLAGSX=y")
	require.Contains(t, env, "GOTOOLCHAIN=go1.2.3")
	require.Contains(t, env, "GOAMD64=v1")
	require.NotContains(t, env, "GOFLAGS=-tags=x")
	require.NotContains(t, env, "GOAMD64=v3")
}

func TestInstallAndCompare(t *testing.T) {
	s := Spec{Maker: "x/mkthing", Dir: "thing", File: "thing.bin.zst"}
	root := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(root, "thing"), 0o755))
	image := make([]byte, 100_000)
	require.NoError(t, s.install(root, image))
	require.NoError(t, s.compare(root, image))
	require.ErrorContains(t, s.compare(root, append(image, 1)), "go run ./x/mkthing")
	require.NoError(t, os.WriteFile(s.constants(root), nil, 0o600))
	require.ErrorContains(t, s.compare(root, image), "does not match")
}
