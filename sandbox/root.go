package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sandpit-vm/sandpit/ociroot"
)

// RootSource is where a sandbox's root file system comes from: [OCI], [Dir] or
// [Disk].
type RootSource interface {
	// kind is the source's name in a stored configuration.
	kind() string
}

// OCI is a container image: "debian:12", "registry.example/team/app@sha256:…".
// It is pulled into the image cache as Config.PullPolicy says. Writes go to the
// sandbox's upper.
type OCI struct {
	Ref string `json:"ref"`
}

// Dir is a directory of the host. The sandbox gets its content as it is when
// the sandbox is created; writes go to the upper and the directory never
// changes. What is neither a file, a directory nor a symbolic link is kept too,
// sockets excepted; links are not followed.
type Dir struct {
	Path string `json:"path"`
}

// Disk is a disk image that holds ext2, ext3, ext4 or EROFS, on the whole disk
// or in a partition (the largest one that does). Unless ReadOnly, the guest
// writes to the image itself, which only one sandbox at a time can have then;
// if ReadOnly, writes go to the upper.
type Disk struct {
	Path string `json:"path"`
	// Format is "raw" or "qcow2". Default what the name's end says: .raw and
	// .img, or .qcow2. It is never taken from the content, which a guest wrote.
	Format string `json:"format,omitempty"`
	// FSType is "ext4" (ext2 and ext3 too) or "erofs". Default: the guest looks.
	FSType   string `json:"fstype,omitempty"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

func (OCI) kind() string  { return "oci" }
func (Dir) kind() string  { return "dir" }
func (Disk) kind() string { return "disk" }

// Disk formats.
const (
	formatRaw   = "raw"
	formatQCOW2 = "qcow2"
)

// IsLocalImage tells how Config.Image is read: what begins with "/", "./" or
// "../" is a directory or a disk image of the host, everything else an OCI
// reference.
func IsLocalImage(image string) bool {
	return image == "." || image == ".." || strings.HasPrefix(image, "/") ||
		strings.HasPrefix(image, "./") || strings.HasPrefix(image, "../")
}

// parseImage turns Config.Image into a source.
func parseImage(bad *ConfigError, image string) RootSource {
	if !IsLocalImage(image) {
		return OCI{Ref: image}
	}
	info, err := os.Stat(image)
	if err != nil {
		bad.add("Image", "%v", err)
		return nil
	}
	if info.IsDir() {
		return Dir{Path: image}
	}
	return Disk{Path: image}
}

// checkRoot completes and checks a source.
func checkRoot(bad *ConfigError, root RootSource) RootSource {
	switch r := root.(type) {
	case nil:
		return nil
	case OCI:
		ref, err := ociroot.Canonical(r.Ref)
		if err != nil {
			bad.add("Image", "%v", err)
			return r
		}
		return OCI{ref}
	case Dir:
		r.Path = checkPath(bad, r.Path, os.FileMode.IsDir, "a directory")
		return r
	case Disk:
		r.Path = checkPath(bad, r.Path, os.FileMode.IsRegular, "a regular file")
		if r.Format == "" {
			switch strings.ToLower(filepath.Ext(r.Path)) {
			case ".raw", ".img":
				r.Format = formatRaw
			case ".qcow2":
				r.Format = formatQCOW2
			}
		}
		if r.Format != formatRaw && r.Format != formatQCOW2 {
			bad.add("Root", "%s: format %q: want raw or qcow2; a name that ends in .raw, .img or .qcow2 says it too", r.Path, r.Format)
		}
		if !slices.Contains([]string{"", "ext4", "erofs"}, r.FSType) {
			bad.add("Root", "file system %q: want ext4 (which is ext2 and ext3 too) or erofs, or none to look", r.FSType)
		}
		return r
	}
	bad.add("Root", "%T is not one of OCI, Dir and Disk", root)
	return root
}

func checkPath(bad *ConfigError, path string, is func(os.FileMode) bool, what string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		bad.add("Root", "%v", err)
		return path
	}
	switch info, err := os.Stat(abs); {
	case err != nil:
		bad.add("Root", "%v", err)
	case !is(info.Mode()):
		bad.add("Root", "%s: not %s", abs, what)
	}
	return abs
}

// storedRoot is a RootSource as JSON: {"oci": {"ref": "…"}}.
type storedRoot struct{ RootSource }

func (s storedRoot) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]RootSource{s.kind(): s.RootSource})
}

func (s *storedRoot) UnmarshalJSON(data []byte) error {
	var byKind map[string]json.RawMessage
	if err := json.Unmarshal(data, &byKind); err != nil {
		return err
	}
	if len(byKind) > 1 {
		return fmt.Errorf("%d kinds of root at once", len(byKind))
	}
	for kind, raw := range byKind {
		switch kind {
		case OCI{}.kind():
			return decodeRoot[OCI](raw, s)
		case Dir{}.kind():
			return decodeRoot[Dir](raw, s)
		case Disk{}.kind():
			return decodeRoot[Disk](raw, s)
		}
		return fmt.Errorf("unknown kind of root %q", kind)
	}
	return nil
}

func decodeRoot[T RootSource](raw json.RawMessage, into *storedRoot) error {
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	into.RootSource = v
	return nil
}
