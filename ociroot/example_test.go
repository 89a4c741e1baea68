package ociroot_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"

	"github.com/sandpit-vm/sandpit/ociroot"
)

// A root file system without a registry: from a tar archive into the store, and
// from there as an EROFS image. Pull is used in the same way.
func Example() {
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	store, err := ociroot.OpenStore(dir, ociroot.Options{})
	if err != nil {
		panic(err)
	}
	var rootfs bytes.Buffer
	w := tar.NewWriter(&rootfs)
	w.WriteHeader(&tar.Header{Name: "etc/motd", Mode: 0o644, Size: 6})
	w.Write([]byte("hello\n"))
	w.Close()

	ctx := context.Background()
	im, err := store.Import(ctx, &rootfs, "localhost/motd:v1", ociroot.ImportOptions{
		Config: ociroot.Config{Cmd: []string{"cat", "/etc/motd"}},
	})
	if err != nil {
		panic(err)
	}
	root, err := store.OpenRoot(ctx, im)
	if err != nil {
		panic(err)
	}
	defer root.Close()
	super := make([]byte, 4)
	root.ReadAt(super, 1024)
	fmt.Printf("%s %q %x\n", im.Ref, im.Config.Cmd, super)
	// Output: localhost/motd:v1 ["cat" "/etc/motd"] e2e1f5e0
}
