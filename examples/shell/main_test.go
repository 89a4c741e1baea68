package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
	"github.com/sandpit-vm/sandpit/vmm"
)

// screen is what the shell wrote so far.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// From nothing to a prompt, a command, and its answer. Then the shell, which is
// process 1, ends, and so does the machine.
func TestShell(t *testing.T) {
	kvmtest.NeedKVM(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	keys, keyboard := io.Pipe()
	defer keyboard.Close()
	var out screen
	type end struct {
		reason vmm.Reason
		err    error
	}
	ended := make(chan end, 1)
	cache := t.TempDir()
	go func() {
		reason, err := run(ctx, cache, keys, &out)
		ended <- end{reason, err}
	}()
	see := func(text string) {
		require.Eventually(t, func() bool { return strings.Contains(out.String(), text) },
			40*time.Second, 10*time.Millisecond, "no %q on the console", text)
	}
	typed := func(line string) {
		_, err := io.WriteString(keyboard, line+"\r")
		require.NoError(t, err)
	}
	see("/ # ")
	typed("echo $((6 * 7)) is the answer")
	see("\n42 is the answer")
	typed("exit")
	e := <-ended
	require.NoError(t, e.err)
	require.IsType(t, vmm.Panic{}, e.reason, "%v", e.reason)
	require.Contains(t, e.reason.(vmm.Panic).Message, "Attempted to kill init")
}
