package main

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
	"github.com/sandpit-vm/sandpit/vmm"
)

func TestScreen(t *testing.T) {
	kvmtest.NeedKVM(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var s screen
	reason, err := run(ctx, &s)
	require.NoError(t, err)
	require.Equal(t, text+"\n", s.String())
	require.Equal(t, vmm.Shutdown{Code: uint8(len(text))}, reason, "what it read back")
	require.EqualValues(t, 0x1f, s.cells[1], "white on blue")
}

// The guest's bytes never reach a terminal as they are.
func TestScreenShowsPrintableCharactersOnly(t *testing.T) {
	var s screen
	for i := range 256 {
		s.Write(uint64(2*i), []byte{byte(i)})
	}
	for _, c := range s.String() {
		require.True(t, c == '\n' || c >= ' ' && c < 0x7f, "%q", c)
	}
}

// The promise of the tour.
func TestShort(t *testing.T) {
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	require.Less(t, bytes.Count(source, []byte("\n")), 150)
}
