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
}
