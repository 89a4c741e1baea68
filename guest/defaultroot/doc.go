// Package defaultroot holds the image that a sandbox without an image boots:
// the userland of guest/userland in a small Linux tree, as one EROFS file
// system, embedded. The first run thus needs no network.
//
// The file is built by mkroot, bit for bit the same wherever it is built, and
// committed compressed:
//
//	go run ./guest/defaultroot/mkroot          # build
//	go run ./guest/defaultroot/mkroot -check   # build, and compare with what is committed
//
// The file system is not compressed itself: the guest maps programs straight
// from the page cache, and the cache file on the host is shared by all
// sandboxes. It needs CONFIG_EROFS_FS.
//
//	root, err := defaultroot.Image().Open(cacheDir)
//	if err != nil {
//		return err
//	}
//	cfg := defaultroot.DefaultConfig()
package defaultroot

import (
	_ "embed"

	"github.com/sandpit-vm/sandpit/internal/assets"
)

//go:embed root.erofs.zst
var compressed []byte

// Image is the file system: an EROFS image once it is open.
func Image() assets.Asset {
	return assets.Asset{
		Name:       "root.erofs",
		SHA256:     imageSHA256(),
		Size:       imageSize,
		Compressed: compressed,
	}
}

// Config is what an OCI image would say about how to run it.
type Config struct {
	Env        []string // "K=V"
	Cmd        []string
	WorkingDir string
	User       string
}

// DefaultConfig returns the image's configuration, a fresh copy.
func DefaultConfig() Config {
	return Config{
		Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Cmd:        []string{"/bin/sh"},
		WorkingDir: "/",
		User:       "root",
	}
}
