package virtio

import "encoding/binary"

// Persistent memory device, virtio 1.2 §5.19.
//
// The device is a range of guest-physical memory, which whoever builds the
// machine maps (guestmem.NewFile); this part tells the driver where it is and
// answers its flushes. Ours is read-only, so a flush has nothing to do.

// pmemGuestConfigs are the kernel options that the guest needs: the driver, the
// block device over it, which takes part of the code for claims, and a file
// system's direct access.
var pmemGuestConfigs = [...]string{"CONFIG_VIRTIO_PMEM", "CONFIG_BLK_DEV_PMEM", "CONFIG_ND_CLAIM", "CONFIG_FS_DAX"}

const (
	pmemQueueSize = 16

	// struct virtio_pmem_req and virtio_pmem_resp, §5.19.6.
	pmemRequestSize = 4
	pmemFlush       = 0
	pmemOK          = 0
	pmemFailed      = 0xffff_ffff // -1

	// PMemAlign is what Linux needs the start and the size of the range to be
	// multiples of (SUBSECTION_SIZE: it makes struct pages for it).
	PMemAlign = 2 << 20
)

// PMem is a virtio persistent memory device that cannot be written.
type PMem struct {
	config  [16]byte // struct virtio_pmem_config, §5.19.4: start and size
	workers Workers
	queue   *Queue // the worker's
}

// NewPMem returns a device for size bytes of guest-physical memory at start,
// both multiples of PMemAlign.
func NewPMem(start, size uint64) *PMem {
	p := &PMem{}
	binary.LittleEndian.PutUint64(p.config[0:], start)
	binary.LittleEndian.PutUint64(p.config[8:], size)
	return p
}

// GuestConfigs lists the kernel options that the guest's driver needs.
func (p *PMem) GuestConfigs() []string { return pmemGuestConfigs[:] }

// LowTraffic says that the queue is rarely used.
func (p *PMem) LowTraffic() {}

// Type is TypePMem.
func (p *PMem) Type() uint32 { return TypePMem }

// Features is empty: the range is in the configuration space (§5.19.3).
func (p *PMem) Features() uint64 { return 0 }

// QueueSizes is one queue.
func (p *PMem) QueueSizes() []uint16 { return []uint16{pmemQueueSize} }

// ReadConfig reads struct virtio_pmem_config.
func (p *PMem) ReadConfig(off uint32, b []byte) { ReadConfigBytes(p.config[:], off, b) }

// WriteConfig does nothing: all fields are the device's.
func (p *PMem) WriteConfig(uint32, []byte) {}

// Activate starts the worker.
func (p *PMem) Activate(a Activation) error {
	p.queue = a.Queues[0]
	p.workers.Serve(a, p.queue, p.serve)
	return nil
}

// Reset ends the worker.
func (p *PMem) Reset() {
	p.workers.Stop()
	p.queue = nil
}

// serve answers a request; one without room for the answer gets none.
func (p *PMem) serve(c *Chain) error {
	var request, answer [pmemRequestSize]byte
	result := uint32(pmemOK)
	if err := c.ReadFull(request[:]); err != nil || binary.LittleEndian.Uint32(request[:]) != pmemFlush {
		result = pmemFailed
	}
	if c.WritableLen() < len(answer) {
		return nil
	}
	binary.LittleEndian.PutUint32(answer[:], result)
	_, err := c.Write(answer[:])
	return err
}
