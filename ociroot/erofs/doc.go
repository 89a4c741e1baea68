// Package erofs writes EROFS file systems, the kernel's read-only format: data
// first, while it streams by, at its final place; then all metadata at once.
// Hard links, sparse files, nanosecond times, 32-bit owners, extended
// attributes and names of any bytes are kept.
//
//	w := erofs.NewWriter(file, erofs.Options{})
//	data, err := w.WriteData(r, size)
//	if err != nil {
//		return err
//	}
//	root, _ := w.AddDir(erofs.Attr{Mode: 0o755})
//	hello, _ := w.AddFile(erofs.Attr{Mode: 0o644}, data)
//	err = w.Close(root, func(dir erofs.NodeID, yield func(name []byte, child erofs.NodeID) bool) {
//		yield([]byte("hello"), hello)
//	})
//
// It does not read images, compress, or split them over devices. It neither
// syncs nor closes its output: the caller does.
//
// # The image
//
//	block 0      superblock, written last: an unfinished image is not an image
//	data         the files, each from the start of a block
//	directories  blocks of entries that do not fit beside their inode; long links
//	attributes   those that more than one inode has
//	inodes       64 bytes each, directory by directory, the root first, so that
//	             reading a directory and its inodes touches few blocks
//
// Inodes are of the extended kind, as the compact one has no time of its own.
// What a directory's last block holds and where a symbolic link points lies
// beside the inode if it fits in the inode's block. The ends of regular files do
// not, unlike in mkfs.erofs' images. Measured with Python's library, /etc and
// zoneinfo (5520 files, 92 MiB) on Linux 6.18, both with cold caches: the image is
// 13 % larger; a walk with lstat makes 187 requests of the disk instead of 2475,
// reading every file 6418 instead of 5760. And whole blocks can be mapped by DAX.
//
// A file that has 64 KiB or more of zeros at a multiple of 64 KiB is stored in
// chunks, and such chunks of zeros are not stored. Space of files that were
// given up is punched out of the output if it is an [os.File] on a file system
// that can, and is zeros in any case. The same calls make the same bytes.
//
// Format: Linux Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h as of
// 6.12, blocks of 4096 bytes. Sparse files need Linux 5.15, the rest 5.4.
//
// # Memory
//
// A [Writer] holds 48 bytes per inode, link targets, distinct attributes, 4
// bytes for every 64 KiB of a sparse file, and a buffer of 1 MiB. It belongs to
// one goroutine.
package erofs
