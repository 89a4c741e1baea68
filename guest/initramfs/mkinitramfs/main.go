// Command mkinitramfs builds the guest's initramfs: it compiles cmd/agent and
// packs it, always to the same bytes. It is run from anywhere in the module.
//
//	mkinitramfs [-check] [-o FILE]
package main

import (
	"bytes"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/sandpit-vm/sandpit/internal/assets/mkasset"
)

func main() {
	mkasset.Main(mkasset.Spec{
		Program: "cmd/agent",
		Maker:   "guest/initramfs/mkinitramfs",
		Dir:     "guest/initramfs",
		File:    "initramfs.cpio.zst",
		Pack:    pack,
	})
}

// pack makes the archive: the same inode numbers, times and owners always.
func pack(agent []byte) ([]byte, error) {
	records := []cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.Directory("proc", 0o755),
		cpio.Directory("sys", 0o755),
		cpio.StaticFile("init", string(agent), 0o755),
	}
	var buf bytes.Buffer
	w := cpio.Newc.Writer(&buf)
	for i, r := range records {
		r.Ino = uint64(i + 1)
		r.NLink = 1
		if r.Mode&cpio.S_IFMT == cpio.S_IFDIR {
			r.NLink = 2
		}
		if err := w.WriteRecord(cpio.MakeReproducible(r)); err != nil {
			return nil, err
		}
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
