// Package initramfs holds the first file system of a sandbox's guest: the
// agent as /init, the console's device node, and nothing else.
//
// The archive is built by mkinitramfs from cmd/agent, bit for bit the same
// wherever it is built, and committed compressed:
//
//	go run ./guest/initramfs/mkinitramfs          # build
//	go run ./guest/initramfs/mkinitramfs -check   # build, and compare with what is committed
package initramfs

import (
	_ "embed"

	"github.com/sandpit-vm/sandpit/internal/assets"
)

//go:embed initramfs.cpio.zst
var compressed []byte

// Image is the archive: an uncompressed newc cpio once it is open.
func Image() assets.Asset {
	return assets.Asset{
		Name:       "initramfs.cpio",
		SHA256:     imageSHA256(),
		Size:       imageSize,
		Compressed: compressed,
	}
}
