package sandbox

import (
	"fmt"
	"path"
	"strings"
)

// Mount puts a directory of the host, or a file system of its own, in the
// guest's tree. Not yet available: a Config that has one is refused.
type Mount struct {
	Kind MountKind `json:"kind"`
	// Target is where it appears in the guest, absolute.
	Target string `json:"target"`
	// Source is the host's path of a MountBind or MountDisk, or the name of a
	// MountVolume.
	Source string `json:"source,omitempty"`
	// Size of a MountTmpfs in MiB. Default half of the memory.
	Size int `json:"size_mib,omitempty"`

	ReadOnly bool `json:"read_only,omitempty"`
	NoExec   bool `json:"noexec,omitempty"`
	NoSUID   bool `json:"nosuid,omitempty"`
	NoDev    bool `json:"nodev,omitempty"`
}

// MountKind is what is mounted.
type MountKind string

// The kinds of a Mount.
const (
	MountBind   MountKind = "bind"   // a directory or file of the host
	MountVolume MountKind = "volume" // a named volume
	MountTmpfs  MountKind = "tmpfs"  // the guest's memory
	MountDisk   MountKind = "disk"   // a disk image of the host
)

func (m Mount) check() error {
	if !path.IsAbs(m.Target) || path.Clean(m.Target) == "/" || strings.ContainsRune(m.Target, 0) {
		return fmt.Errorf("target %q: want an absolute path below /", m.Target)
	}
	switch m.Kind {
	case MountBind, MountVolume, MountDisk:
		if m.Source == "" {
			return fmt.Errorf("%s: a %s mount has a source", m.Target, m.Kind)
		}
	case MountTmpfs:
		if m.Source != "" {
			return fmt.Errorf("%s: a tmpfs mount has no source", m.Target)
		}
	default:
		return fmt.Errorf("%s: kind %q: want %s, %s, %s or %s", m.Target, m.Kind, MountBind, MountVolume, MountTmpfs, MountDisk)
	}
	if m.Size < 0 || m.Size > 0 && m.Kind != MountTmpfs {
		return fmt.Errorf("%s: size %d MiB: want a positive one, of a tmpfs", m.Target, m.Size)
	}
	return nil
}
