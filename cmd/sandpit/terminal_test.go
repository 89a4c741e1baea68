package main

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// The sizes of a terminal whose guest takes none of them do not keep sandpit
// from ending; the latest is what is set next.
func TestFollowSize_NobodyTakesThem(t *testing.T) {
	asked := make(chan struct{})
	rows := uint16(0)
	sizes, stop := followSize(func() (sandbox.TTYSize, bool) {
		rows++
		defer func() { asked <- struct{}{} }()
		return sandbox.TTYSize{Rows: rows, Cols: 80}, true
	})
	for range 3 {
		require.NoError(t, syscall.Kill(syscall.Getpid(), syscall.SIGWINCH))
		select {
		case <-asked:
		case <-time.After(10 * time.Second):
			t.Fatal("a size that nobody takes holds up the next")
		}
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	select {
	case <-stopped:
	case <-time.After(10 * time.Second):
		t.Fatal("stop waits for the guest")
	}
	require.Equal(t, sandbox.TTYSize{Rows: 3, Cols: 80}, <-sizes)
}
