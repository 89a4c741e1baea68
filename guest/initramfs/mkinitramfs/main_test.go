package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPack_SameBytes(t *testing.T) {
	a, err := pack([]byte("agent"))
	require.NoError(t, err)
	b, err := pack([]byte("agent"))
	require.NoError(t, err)
	require.Equal(t, a, b)
	require.True(t, bytes.HasPrefix(a, []byte("070701")))
	require.Zero(t, len(a)%4)
	require.Equal(t, generate(a), generate(b))
}

func TestBuildEnv(t *testing.T) {
	env := buildEnv([]string{"HOME=/h", "GOFLAGS=-tags=x", "GOAMD64=v3", "GOFLAGSX=y"}, "go1.2.3")
	require.Contains(t, env, "HOME=/h")
	require.Contains(t, env, "GOFLAGSX=y")
	require.Contains(t, env, "GOTOOLCHAIN=go1.2.3")
	require.Contains(t, env, "GOAMD64=v1")
	require.NotContains(t, env, "GOFLAGS=-tags=x")
	require.NotContains(t, env, "GOAMD64=v3")
}
