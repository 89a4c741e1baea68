package main

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
	"github.com/sandpit-vm/sandpit/vmm"
)

func TestHello(t *testing.T) {
	kvmtest.NeedKVM(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var serial bytes.Buffer
	reason, err := run(ctx, &serial)
	require.NoError(t, err)
	require.Equal(t, vmm.Shutdown{Code: 7}, reason)
	require.Equal(t, text, serial.String())
}
