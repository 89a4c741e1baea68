package sandbox

import (
	"runtime"
	"runtime/debug"

	"github.com/sandpit-vm/sandpit/kernel"
)

// modulePath is this module's, to be found among a program's dependencies.
const modulePath = "github.com/sandpit-vm/sandpit"

// VersionInfo says what this program is made of.
type VersionInfo struct {
	Sandpit string // the module's version, "(devel)" for a build from a checkout
	Kernel  string // of the bundled guest kernel
	Go      string
}

// Version returns the versions of this module, its kernel and its Go.
func Version() VersionInfo {
	v := VersionInfo{Sandpit: "(unknown)", Kernel: kernel.Version, Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == modulePath {
			v.Sandpit = m.Version
		}
	}
	return v
}
