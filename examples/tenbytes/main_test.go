package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
)

func TestTenBytes(t *testing.T) {
	require.Len(t, code, 10)
	kvmtest.NeedKVM(t)
	var out bytes.Buffer
	require.NoError(t, run(&out))
	require.Equal(t, "port 0x3f8: \"4\"\nhalted\n", out.String())
}
