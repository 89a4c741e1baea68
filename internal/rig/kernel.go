package rig

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/sandpit-vm/sandpit/internal/state"
	"github.com/sandpit-vm/sandpit/kernel"
)

// KernelEnv names the environment variable that overrides the bundled kernel.
const KernelEnv = "KVMRIG_KERNEL"

// openKernel opens L1's kernel, an uncompressed ELF file: the given one, or the
// bundled one, which is in the same cache as the sandboxes'.
func openKernel(path string) (*os.File, error) {
	if path == "" {
		path = os.Getenv(KernelEnv)
	}
	if path == "" {
		home, err := state.DefaultHome()
		if err != nil {
			return nil, &Error{Op: "open the kernel", Err: fmt.Errorf("%w: %w", ErrNoKernel, err)}
		}
		f, err := kernel.Image().Open(home.Cache)
		if err != nil {
			return nil, &Error{Op: "open the kernel", Err: fmt.Errorf("%w: %w", ErrNoKernel, err)}
		}
		return f, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, &Error{Op: "open the kernel", Err: fmt.Errorf("%w: %w", ErrNoKernel, err)}
	}
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err != nil || !bytes.Equal(magic, []byte("\x7fELF")) {
		f.Close()
		return nil, &Error{Op: "open the kernel", Err: fmt.Errorf("%w: %s is not an ELF file (an uncompressed vmlinux is needed)", ErrNoKernel, path)}
	}
	return f, nil
}
