// Package upper makes upper disks: the writable halves of sandboxes' root file
// systems, over which the guest's overlayfs puts the image.
//
// A new one is a sparse copy of an embedded, pristine ext4 file system of one
// block group, in a file of the size asked for; the guest makes the file
// system as large as the disk when it mounts it. So the host needs no mkfs,
// and never reads what a guest wrote.
//
//	f, err := upper.Create(cacheDir, "/path/root.upper", 4<<30)
//
// The template is made by mkupper from Debian's e2fsprogs and is reproducible.
package upper
