// Package ociroot turns references to OCI images into read-only root file
// systems: it resolves them, pulls what is missing, verifies all of it, and
// flattens the layers into one EROFS image per manifest digest. It knows no VM.
//
//	store, err := ociroot.OpenStore(dir, ociroot.Options{})
//	if err != nil {
//		return err
//	}
//	im, err := store.Pull(ctx, "debian:12", ociroot.PullOptions{})
//	if err != nil {
//		return err
//	}
//	root, err := store.OpenRoot(ctx, im) // an *os.File with an EROFS image
//
// Specifications: OCI image-spec 1.1, OCI distribution-spec 1.1, and the Docker
// media types that preceded them (manifest version 2, schema 2).
//
// # On disk
//
//	DIR/
//	  oci/             an OCI image layout, which other tools can read
//	  roots/HEX.erofs  the root file system of the manifest HEX; its descriptor
//	  roots/HEX.json   what it was made from, and the image's configuration
//	  partial/HEX      a blob being downloaded, or the start of one to resume
//	  tmp/             files being written
//	  leases/          what running operations need, so that nobody collects it
//	  locks/           one file per operation that happens once at a time
//	  lock             held while index.json changes and while garbage goes
//
// A name in blobs/ or roots/ leads to a whole, synced file or does not exist:
// files come there by rename. index.json is replaced, never changed. All locks
// are flock(2) on files below DIR, which the kernel drops with their holder, so
// nothing has to be repaired after a crash: what a dead process left is not
// locked, and [Store.Prune] removes it.
//
// # What is collected
//
// index.json is the root of everything. A manifest that it names, a manifest of
// [PruneOptions.Keep], what an operation of a living process needs and a root
// that some process has open stay; all else goes with the next [Store.Prune] or
// [Store.Remove].
//
// # What is trusted
//
// Nothing that a registry, an archive or an image says. Sizes are bounds and
// not allocations, every blob is hashed as it arrives and every layer once more
// as it is decompressed, manifests and configurations are bounded in size and
// shape, a redirect never carries credentials elsewhere, and plain HTTP is
// spoken to this machine only unless [PullOptions.Insecure] asks for more.
// Errors tell whose fault it is: see [ErrContent].
//
// # Goroutines
//
// [Store.Pull] starts a goroutine per download at a time and one that
// decompresses; it joins them before it returns. A Store has none of its own,
// holds no descriptor, and may be used by many goroutines at once.
package ociroot
