package rig

import (
	"fmt"
	"os"
)

// bundledKernel opens the kernel of package kernel.
func bundledKernel() (*os.File, error) {
	return nil, &Error{Op: "open the kernel", Err: fmt.Errorf("%w: set --kernel or $%s", ErrNoKernel, KernelEnv)}
}
