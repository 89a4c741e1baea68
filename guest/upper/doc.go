// Package upper makes upper disks: the writable halves of sandboxes' root file
// systems, over which the guest's overlayfs puts the image.
//
// A new one is a pristine ext4 file system in a sparse file. It is written from
// an embedded template, so the host needs no mkfs; if the file is larger than
// the template's file system, the guest makes it as large when it mounts it.
// The host never reads what a guest wrote.
//
//	f, err := upper.Create("/path/root.upper", upper.DefaultSize)
//
// The templates are made by mkupper with Debian's e2fsprogs and are
// reproducible. Their embedded form is compressed with zstd; in it, all
// numbers little-endian, a 32-bit count of templates and, for each, its size in
// bytes (64 bits), a count of extents (32) and the extents: offset (64), length
// (32) and bytes. What no extent covers is zero.
package upper
