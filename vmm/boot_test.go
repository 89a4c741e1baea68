package vmm_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kernel"
	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
	"github.com/sandpit-vm/sandpit/vmm"
)

// bundledKernel is the kernel that comes with this module.
func bundledKernel(t testing.TB) *os.File {
	t.Helper()
	f, err := kernel.Image().Open(filepath.Join(os.TempDir(), "sandpit-test-cache"))
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// syncBuffer is a console that a test may read while a vCPU writes it.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// Without an initramfs and a root device the kernel comes as far as its search
// for a root, panics, and resets.
func TestLinuxBootsToItsPanic(t *testing.T) {
	kvmtest.NeedKVM(t)
	for _, tt := range []struct {
		name   string
		cpus   int
		memory uint64
	}{
		{"64MiB", 1, 64 << 20},
		{"1cpu-128MiB", 1, 128 << 20},
		{"2cpus-512MiB", 2, 512 << 20},
		{"8cpus-512MiB", 8, 512 << 20},
		{"6GiB", 1, 6 << 30},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var console syncBuffer
			m, err := vmm.New(vmm.Config{
				CPUs:    tt.cpus,
				Memory:  tt.memory,
				Kernel:  bundledKernel(t),
				Cmdline: "earlyprintk=serial,ttyS0,115200,keep panic=-1 reboot=k tsc=reliable no_timer_check",
				Serial:  &console,
			})
			require.NoError(t, err)
			defer m.Close()
			ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
			defer cancel()
			reason, err := m.Run(ctx)
			require.NoError(t, err)
			t.Log(m.Stats())
			require.IsType(t, vmm.Panic{}, reason, "%s\nconsole:\n%s", reason, console.String())
			require.Contains(t, reason.(vmm.Panic).Message, "VFS: Unable to mount root fs")
			require.NoError(t, m.Close())
		})
	}
}
