package virtio

import (
	"fmt"
	"io"
)

// Entropy device, virtio 1.2 §5.4.

// rngGuestConfig is the kernel option that the guest's driver needs.
const rngGuestConfig = "CONFIG_HW_RANDOM_VIRTIO"

const (
	rngQueueSize = 8

	// One request gets 64 KiB at most, and all of them together 4 MiB a second
	// after a first MiB (T77). A kernel takes a few hundred bytes to seed itself.
	rngMaxRequest = 64 << 10
	rngRate       = 4 << 20
	rngBurst      = 1 << 20
)

// RNG is a virtio entropy device.
type RNG struct {
	src io.Reader

	workers Workers
	limit   throttle // the worker's; kept across resets, which the driver can cause
	queue   *Queue   // the worker's
}

// NewRNG returns a device that hands out src, usually crypto/rand.Reader. src
// should not block for long: a reset waits for it.
func NewRNG(src io.Reader) *RNG {
	return &RNG{src: src, limit: throttle{rate: rngRate, burst: rngBurst}}
}

// GuestConfigs lists the kernel options that the guest's driver needs.
func (r *RNG) GuestConfigs() []string { return []string{rngGuestConfig} }

// LowTraffic says that the queue is rarely used.
func (r *RNG) LowTraffic() {}

// Type is TypeRNG.
func (r *RNG) Type() uint32 { return TypeRNG }

// Features is empty: none is defined.
func (r *RNG) Features() uint64 { return 0 }

// QueueSizes is one queue.
func (r *RNG) QueueSizes() []uint16 { return []uint16{rngQueueSize} }

// ReadConfig does nothing: there is no configuration.
func (r *RNG) ReadConfig(uint32, []byte) {}

// WriteConfig does nothing: there is no configuration.
func (r *RNG) WriteConfig(uint32, []byte) {}

// Activate starts the worker.
func (r *RNG) Activate(a Activation) error {
	r.queue = a.Queues[0]
	r.workers.Serve(a, r.queue, r.serve)
	return nil
}

// Reset ends the worker.
func (r *RNG) Reset() {
	r.workers.Stop()
	r.queue = nil
}

// serve fills a buffer, or the start of it: at least one byte (§5.4.6.2), unless
// it has none. What is readable in the chain is none of our business.
func (r *RNG) serve(c *Chain) error {
	left := r.limit.take(min(c.WritableLen(), rngMaxRequest), r.queue.Done())
	for left > 0 && c.WritableLen() > 0 {
		p := c.Writable()[0]
		n, err := io.ReadFull(r.src, p[:min(len(p), left)])
		c.Wrote(n)
		left -= n
		if err != nil && c.Written() == 0 {
			return &Error{"read entropy", fmt.Errorf("no random byte: %w", err)}
		}
		if err != nil {
			break
		}
	}
	return nil
}
