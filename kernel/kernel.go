package kernel

import (
	"bytes"
	_ "embed"

	"github.com/sandpit-vm/sandpit/internal/assets"
)

//go:embed vmlinux.zst
var vmlinux []byte

//go:embed config
var config []byte

// Image is the kernel: a 64-bit ELF file once it is open.
func Image() assets.Asset {
	return assets.Asset{
		Name:       "vmlinux-" + Version,
		SHA256:     vmlinuxSHA256(),
		Size:       vmlinuxSize,
		Compressed: vmlinux,
	}
}

// Config returns a copy of the kernel's complete configuration, in the form of
// a .config file.
func Config() []byte { return bytes.Clone(config) }

// HasConfig reports whether the option is built in. The name is given with or
// without its CONFIG_ prefix. An option with a string or a number for a value
// is not "built in" in this sense.
func HasConfig(name string) bool {
	if !bytes.HasPrefix([]byte(name), []byte("CONFIG_")) {
		name = "CONFIG_" + name
	}
	line := []byte("\n" + name + "=y\n")
	// The file begins with a comment, so an option's line always has a line
	// before it.
	return bytes.Contains(config, line)
}
