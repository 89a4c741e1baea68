package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kernel"
	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
	"github.com/sandpit-vm/sandpit/vmm"
)

// bootToInit boots a kernel and wants its init's greeting.
func bootToInit(t *testing.T, path string, cpus int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var console bytes.Buffer
	reason, err := boot(ctx, path, cpus, 512<<20, false, &console)
	require.NoError(t, err)
	require.Equal(t, vmm.Shutdown{}, reason, "%s", console.String())
	require.Contains(t, strings.ReplaceAll(console.String(), "\r\n", "\n"), "hello from init\n")
}

func TestBundledKernel(t *testing.T) {
	kvmtest.NeedKVM(t)
	f, err := kernel.Image().Open(filepath.Join(os.TempDir(), "sandpit-test-cache-boot"))
	require.NoError(t, err)
	defer f.Close()
	bootToInit(t, f.Name(), 1)
}

// The kernels of Debian 12 and 13, which scripts/test.sh downloads;
// SANDPIT_DEBIAN_KERNELS lists their bzImages as PATH does.
func TestDebianKernels(t *testing.T) {
	kvmtest.NeedKVM(t)
	paths := filepath.SplitList(os.Getenv("SANDPIT_DEBIAN_KERNELS"))
	require.NotEmpty(t, paths, "SANDPIT_DEBIAN_KERNELS lists no kernels; scripts/debian-kernel.sh fetches one")
	for _, path := range paths {
		for _, cpus := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s with %d CPUs", filepath.Base(path), cpus), func(t *testing.T) {
				bootToInit(t, path, cpus)
			})
		}
	}
}
