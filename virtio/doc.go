// Package virtio is the device side of VIRTIO 1.2: split virtqueues, the MMIO
// transport, and the devices, one file each.
//
// A device implements Device: its type, features, configuration space, and
// what to do with its queues. MMIO is the transport: the register window that
// the guest's driver talks to. It negotiates features, validates the queues,
// and hands the device an Activation when the driver is ready.
//
//	mem, _ := guestmem.NewAnonymous(guestmem.Range{Size: 128 << 20})
//	disk, _ := virtio.NewFileBackend(f, true)
//	blk := virtio.NewBlk(virtio.BlkConfig{Backend: disk, ReadOnly: true, ID: "root"})
//	t, _ := virtio.NewMMIO(blk, mem, irq, log)
//	bus.Map("virtio-blk", 0xd0000000, virtio.WindowSize, t)
//	for q := range blk.QueueSizes() {
//		// optional: let the kernel signal the queue instead of trapping
//		vm.IOEventFD(kvm.IOEvent{Addr: 0xd0000000 + virtio.NotifyOffset, FD: t.KickFD(q)})
//	}
//
// # What is not here
//
// The driver side (see virtiotest), KVM, the bus, the address map, packed
// rings, legacy (pre-1.0) devices, and the PCI transport. The package never
// opens a file and never dials: backends arrive open.
//
// # Owners
//
// vCPU threads call MMIO.Read and MMIO.Write; one mutex serialises them. Each
// queue has one worker, started by the device in Activate through Workers and
// joined in Reset; nobody else takes chains from that queue. A worker blocks on
// its queue's eventfd, which the guest's notification signals, either through
// KVM (ioeventfd) or through a trapped write.
//
// # What a hostile driver gets
//
// Everything in guest memory is written by someone who wants to break us. Ring
// addresses are checked once, when the queue is made ready, and frozen. A
// descriptor is copied before it is looked at, and only then checked. A request
// that makes no sense to the device is answered with the device's error status;
// a ring that makes no sense sets DEVICE_NEEDS_RESET: the device's queues all
// stop until the driver resets it, one line is logged, and every other device
// goes on. A panic in a device is treated the same. Comments such as "T14"
// name the numbered threat of the project's threat model that a check answers.
package virtio
