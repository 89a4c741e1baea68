// Package qcow2 is QEMU's disk image format, versions 2 and 3, as the back end of
// a block device. The specification is docs/interop/qcow2 in QEMU's source.
//
//	f, err := os.OpenFile("disk.qcow2", os.O_RDWR, 0)
//	im, err := qcow2.Open(f, false) // the image never opens a file itself
//	blk := virtio.NewBlk(virtio.BlkConfig{Backend: im, ID: "data"})
//	…
//	err = im.Close() // after the device's transport
//	err = f.Close()
//
// An *Image has the methods of a virtio.BlockBackend. That a file is a qcow2 image
// is for the caller to say: the package has nothing that guesses a format.
//
// # What is here
//
// Clusters of 512 bytes to 2 MiB, reference counts of 1 to 64 bits, zero
// clusters, compressed clusters (deflate and zstd, for reading), images with
// internal snapshots, which stay as they are, and images that grow: clusters, L2
// tables, refcount blocks and the refcount table.
//
// # What is not
//
// Backing files, external data files, encryption and extended L2 entries are
// refused with ErrUnsupported; the message names the command that makes a plain
// copy. The package makes no images, no snapshots, no compressed clusters, and
// repairs nothing: an image marked as dirty or corrupt can be read, and gives
// ErrRepair if it is to be written. It does not lock the file. Header extensions
// are not looked at; dirty bitmaps become invalid with the first write, as their
// autoclear bit is for.
//
// # Durability
//
// Data goes to the file with the write; the tables that lead to it with the next
// Sync, or when the cache of tables is full of changes. The order of the writes
// and of the barriers (fdatasync) among them, which commit describes, is such
// that a crash of the process or of the host at any moment leaves an image whose
// sectors have what they had at the last Sync or what was written later, and in
// which at worst clusters are lost that `qemu-img check -r leaks` finds. After a
// failed barrier nothing is written any more.
//
// # What a hostile image gets
//
// Every offset, size and flag is checked before it is used, and each entry of a
// table when it is met. An image may be full of nonsense but cannot make us read
// outside the file, loop, or allocate more than its tables in memory: 32 MiB of
// L1 table, 8 MiB of refcount table, and as much again for the places of the
// tables, all only if the image has them; 2.3 MiB of caches; and a few clusters'
// worth of buffers, one zstd window of 8 MiB among them. Opening for writing
// checks that no two tables share a cluster, and data is never written to a
// table's, so that what a guest writes never becomes a table.
//
// # Errors
//
// ErrMalformed, ErrUnsupported, ErrRepair and ErrFull are the image's; ErrRange,
// ErrReadOnly, ErrFile and os.ErrClosed the caller's; everything else, with a
// syscall.Errno or io.ErrUnexpectedEOF within, is the host's.
package qcow2
