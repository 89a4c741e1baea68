// Package qcow2 is QEMU's disk image format, versions 2 and 3, as the back end of
// a block device.
//
//	f, err := os.OpenFile("disk.qcow2", os.O_RDWR, 0)
//	im, err := qcow2.Open(f, false)
//	blk := virtio.NewBlk(virtio.BlkConfig{Backend: im, ID: "data"})
//	…
//	err = im.Close() // after the device's transport
//	err = f.Close()
package qcow2
