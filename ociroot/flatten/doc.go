// Package flatten makes one file system of an OCI image's layers, or of a
// directory of the host: an EROFS image. Nothing of a layer is ever unpacked on
// the host; archive entries become entries of a tree in memory, and their data
// goes straight to its place in the image.
//
//	b := flatten.New(file, flatten.Options{})
//	for _, layer := range layers { // uncompressed tar archives, the lowest first
//		if err := b.Layer(ctx, layer); err != nil {
//			return err
//		}
//	}
//	stats, err := b.Close()
//
// It knows no registry, no digests and no compression: package ociroot does.
//
// # What a layer's entry does
//
// Everything an archive says is hostile. The rules are those of the OCI image
// specification 1.1 (layer.md); where it is silent, those of the programs that
// unpack layers as root:
//
//   - Names are cleaned, and a leading slash is ignored. A name that leads out of
//     the root by ".." is refused with [ErrEscape].
//   - Symbolic links in a name's directories are followed inside the tree, as in
//     a chroot: neither ".." nor an absolute target leads out. The last component
//     is never followed.
//   - Missing directories are made: 0755, owned by root, as old as the entry that
//     needs them. A file in the place of a needed directory gives way if a lower
//     layer brought it, and is an error if this one did.
//   - A directory on a directory replaces its attributes and keeps its entries.
//     Everything else replaces what is there, a whole directory included.
//   - ".wh.NAME" removes NAME, and ".wh..wh..opq" all entries of its directory:
//     what lower layers brought, wherever in the layer the whiteout comes. Other
//     names that begin with ".wh..wh." are AUFS' own and are ignored.
//   - A hard link gives its target's inode, of this or a lower layer, one more
//     name; the attributes of its own header do not count. Its target must exist
//     and be no directory.
//   - Entries for the root may be directories only.
//
// What overlayfs in the guest would take for its own is defused. A character
// device 0:0, overlayfs' whiteout, removes what is there, as it would have in a
// container, and makes no device. Attributes trusted.overlay.* are stored as
// trusted.overlay.overlay.*, which overlayfs of Linux 6.7 and later shows as what
// they were. Attributes user.overlay.* mean nothing to a mount without the option
// userxattr, and stay.
//
// Attributes that EROFS cannot express, such as system.nfs4_acl, are dropped and
// counted, like sockets in a host's directory; layers cannot contain sockets.
//
// # Formats
//
// V7, USTAR, PAX and GNU tar: long names, sparse files in all forms, nanoseconds,
// large ids, names that are not UTF-8, attributes as SCHILY.xattr records (with
// GNU tar's %3D and %25 in their names). PAX global headers are ignored.
//
// # Errors
//
// [ErrMalformed] is the archive's fault, [ErrLimit] a bound of [Limits]; errors of
// the reader and of the output come as they are, inside *[Error] and
// *[erofs.Error]. After any error the builder is of no use.
//
// # Memory
//
// About 100 bytes per entry of the tree, and buffers of 1.5 MiB; nothing per byte
// of data. A [Builder] belongs to one goroutine and starts none.
package flatten
