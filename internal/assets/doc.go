// Package assets turns the compressed files that are embedded in the binary
// (kernel, initramfs, default root, ext4 template) into open read-only files.
//
// An asset is decompressed once into a cache directory, under a name that
// carries its digest, and mapped or read from there by every later sandbox:
// all virtual machines share one copy in the page cache.
//
//	f, err := kernel.Image().Open(cacheDir)
//	if err != nil {
//		return err
//	}
//	defer f.Close()
//
// What makes a cached file trustworthy: it appears under its final name only
// by a rename, after its bytes were hashed, written and synced; it is
// read-only, and its modification time is a number derived from the digest, so
// that any later write shows. Reuse costs a handful of system calls and no
// reading. [Asset.Verify] reads everything, for a caller that wants certainty.
//
// Writers exclude each other through flock on one file of the directory, so
// what a crash left behind is recognised (nobody holds the lock) and removed.
//
// The package does not evict: a file of an older release stays until its owner
// removes the cache directory, which is safe at any moment.
package assets
