// Command mkroot builds the default image: it compiles cmd/userland and lays
// it out in an EROFS file system, always to the same bytes. It is run from
// anywhere in the module.
//
//	mkroot [-check] [-o FILE]
package main

import "github.com/sandpit-vm/sandpit/internal/assets/mkasset"

func main() {
	mkasset.Main(mkasset.Spec{
		Program: "cmd/userland",
		Maker:   "guest/defaultroot/mkroot",
		Dir:     "guest/defaultroot",
		File:    "root.erofs.zst",
		Pack:    buildImage,
	})
}
