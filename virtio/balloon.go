package virtio

import (
	"encoding/binary"
	"math"
	"sync"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

// Memory balloon device, virtio 1.2 §5.5, with free page reporting (§5.5.6.7).
// balloon_stats.go has the statistics queue.

// balloonGuestConfigs are the kernel options that the guest's driver needs.
var balloonGuestConfigs = [...]string{"CONFIG_VIRTIO_BALLOON", "CONFIG_PAGE_REPORTING"}

const (
	balloonFeatureStats        = 1 << 1 // §5.5.3
	balloonFeatureDeflateOnOOM = 1 << 2
	balloonFeatureReporting    = 1 << 5

	// Queues, §5.5.2. The specification numbers five, whichever exist; Linux
	// gives those that exist consecutive numbers. What the features leave
	// without a meaning is therefore a reporting queue: see role.
	balloonInflate = 0
	balloonDeflate = 1
	balloonStats   = 2
	balloonQueues  = 5

	// balloonQueueSize is what Linux needs for reporting
	// (PAGE_REPORTING_CAPACITY), and more than it needs for the rest.
	balloonQueueSize = 32

	// balloonPage is the unit of num_pages, actual and the page numbers,
	// whatever the guest's pages are (§5.5.6).
	balloonPage = 4096
)

// BalloonConfig are a balloon's optional settings.
type BalloonConfig struct {
	// NoReporting does not offer free page reporting: the guest keeps what it
	// once touched until the balloon takes it.
	NoReporting bool
	// Stats offers the statistics queue (see Balloon.Stats).
	Stats bool
	// NoDeflateOnOOM keeps the guest from taking memory out of the balloon when
	// it would otherwise kill a process.
	NoDeflateOnOOM bool
}

// Balloon is a virtio memory balloon. It takes memory from the guest in two
// ways: SetTarget asks the driver for a number of pages, which the guest then
// goes without; and the driver reports pages that are free anyway, which the
// guest may use again at any time. Either way the pages go back to the host at
// once, and are zeros when next touched.
//
// A driver can give away nothing but its own RAM: page numbers and ranges are
// checked against it, and what lies elsewhere is ignored and counted (T78, T79).
// What it gives away while using it is lost to it, and to nobody else.
type Balloon struct {
	features uint64
	workers  Workers
	stats    statsDesk

	mu    sync.Mutex // guards what follows
	state balloonState
	mem   *guestmem.Memory // nil while inactive
	// changed tells the driver of a new target; nil while inactive.
	changed func()
	counts  BalloonCounters
}

// balloonState is what the guest can see.
type balloonState struct {
	Target     uint32 // num_pages, §5.5.4
	Actual     uint32 // as the driver says; nothing relies on it (T78)
	Generation uint32
}

// BalloonCounters count bytes since the balloon was made.
type BalloonCounters struct {
	Inflated uint64 // given by the driver because of SetTarget
	Deflated uint64 // announced by the driver as taken back
	Reported uint64 // reported as free; pages that are reported twice count twice
	Ignored  uint64 // offered, but not RAM, not whole pages, or refused by the host
}

// NewBalloon returns a balloon that asks for nothing yet.
func NewBalloon(c BalloonConfig) *Balloon {
	b := &Balloon{}
	if !c.NoReporting {
		b.features |= balloonFeatureReporting
	}
	if c.Stats {
		b.features |= balloonFeatureStats
	}
	if !c.NoDeflateOnOOM {
		b.features |= balloonFeatureDeflateOnOOM
	}
	return b
}

// SetTarget asks the driver to have size bytes in the balloon, rounded down to
// 4 KiB and at most 16 TiB. The driver complies when it can: see Size. The
// target stays when the guest resets the device.
func (b *Balloon) SetTarget(size uint64) {
	b.mu.Lock()
	old := b.state.Target
	b.state.Target = uint32(min(size/balloonPage, math.MaxUint32))
	changed := b.changed
	if old == b.state.Target {
		changed = nil
	} else {
		b.state.Generation++
	}
	b.mu.Unlock()
	if changed != nil {
		changed()
	}
}

// Size is how many bytes the driver says are in the balloon, at most the size
// of RAM; zero while there is no driver.
func (b *Balloon) Size() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mem == nil {
		return 0
	}
	return min(uint64(b.state.Actual)*balloonPage, b.mem.Size())
}

// Counters are what happened so far.
func (b *Balloon) Counters() BalloonCounters {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counts
}

// GuestConfigs lists the kernel options that the guest's driver needs.
func (b *Balloon) GuestConfigs() []string { return balloonGuestConfigs[:] }

// LowTraffic says that the queues are rarely used.
func (b *Balloon) LowTraffic() {}

// Type is TypeBalloon.
func (b *Balloon) Type() uint32 { return TypeBalloon }

// Features are the balloon's feature bits.
func (b *Balloon) Features() uint64 { return b.features }

// QueueSizes is five queues.
func (b *Balloon) QueueSizes() []uint16 {
	sizes := make([]uint16, balloonQueues)
	for i := range sizes {
		sizes[i] = balloonQueueSize
	}
	return sizes
}

// ReadConfig reads struct virtio_balloon_config, §5.5.4.
func (b *Balloon) ReadConfig(off uint32, p []byte) {
	var config [16]byte
	b.mu.Lock()
	binary.LittleEndian.PutUint32(config[0:], b.state.Target)
	binary.LittleEndian.PutUint32(config[4:], b.state.Actual)
	b.mu.Unlock()
	ReadConfigBytes(config[:], off, p)
}

// WriteConfig writes actual, or a part of it; everything else is ours, or
// belongs to features that are not offered.
func (b *Balloon) WriteConfig(off uint32, p []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var actual [4]byte
	binary.LittleEndian.PutUint32(actual[:], b.state.Actual)
	for i, v := range p {
		if at := uint64(off) + uint64(i); at >= 4 && at < 8 {
			actual[at-4] = v
		}
	}
	b.state.Actual = binary.LittleEndian.Uint32(actual[:])
}

// ConfigGeneration counts the changes of the target.
func (b *Balloon) ConfigGeneration() uint32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state.Generation
}

// Activate starts the workers.
func (b *Balloon) Activate(a Activation) error {
	b.mu.Lock()
	b.mem, b.changed = a.Mem, a.ConfigChanged
	b.mu.Unlock()
	for i, q := range a.Queues {
		if q == nil {
			continue
		}
		switch b.role(i, a.Features) {
		case balloonInflate:
			b.workers.Serve(a, q, func(c *Chain) error { return b.inflate(a.Mem, q, c) })
		case balloonDeflate:
			b.workers.Serve(a, q, b.deflate)
		case balloonStats:
			b.workers.Go(a, q, func() error { return b.stats.serve(a, q) })
		case balloonReporting:
			// A chain describes free memory and may describe all of it, once.
			q.LimitChains(int(min(a.Mem.Size(), math.MaxInt)))
			b.workers.Serve(a, q, func(c *Chain) error { return b.report(a.Mem, q, c) })
		default:
			b.workers.Serve(a, q, func(*Chain) error { return nil })
		}
	}
	return nil
}

// Roles of queues, besides the numbers above.
const (
	balloonReporting = 4
	balloonNothing   = -1
)

// role is what queue i is for under the negotiated features: what §5.5.2 says,
// or what Linux makes of it (drivers/virtio/virtio_mmio.c, vm_find_vqs), which
// never contradict each other because free page hinting is not offered.
func (b *Balloon) role(i int, features uint64) int {
	switch {
	case i == balloonInflate, i == balloonDeflate:
		return i
	case i == balloonStats && features&balloonFeatureStats != 0:
		return balloonStats
	case features&balloonFeatureReporting != 0:
		return balloonReporting
	}
	return balloonNothing
}

// Reset ends the workers.
func (b *Balloon) Reset() {
	b.mu.Lock()
	b.mem, b.changed, b.state.Actual = nil, nil, 0
	b.mu.Unlock()
	b.workers.Stop()
}

// inflate takes an array of page numbers, §5.5.6. Neighbours are given back
// together: each call costs the host more than the page is worth.
func (b *Balloon) inflate(mem *guestmem.Memory, q *Queue, c *Chain) error {
	var numbers [1024]byte // Linux sends as many
	var run guestmem.Range
	var ignored uint64
	for c.ReadableLen() >= 4 {
		if q.Stopped() {
			return ErrStopped // a long array must not delay a reset
		}
		n, _ := c.Read(numbers[:min(len(numbers), c.ReadableLen()&^3)])
		for p := numbers[:n]; len(p) > 0; p = p[4:] {
			page := guestmem.Range{Base: guestmem.GPA(binary.LittleEndian.Uint32(p)) * balloonPage, Size: balloonPage}
			_, err := mem.Bytes(page.Base, page.Size)
			switch {
			case err != nil: // T78, T79
				ignored += page.Size
			case run.Size > 0 && page.Base == run.End():
				run.Size += page.Size
			case run.Size > 0 && page.End() == run.Base:
				run.Base, run.Size = page.Base, run.Size+page.Size
			default:
				b.giveBack(mem, run, &b.counts.Inflated)
				run = page
			}
		}
	}
	b.giveBack(mem, run, &b.counts.Inflated)
	b.ignore(ignored + uint64(c.ReadableLen()))
	return nil
}

// deflate takes note of pages that the driver uses again. It may, whether we
// know or not: MUST_TELL_HOST is not offered.
func (b *Balloon) deflate(c *Chain) error {
	b.mu.Lock()
	b.counts.Deflated += uint64(c.ReadableLen()/4) * balloonPage
	b.mu.Unlock()
	return nil
}

// report gives the ranges back that the writable buffers are, §5.5.6.7: the
// whole pages inside them.
func (b *Balloon) report(mem *guestmem.Memory, q *Queue, c *Chain) error {
	for _, buf := range c.Writable() {
		if q.Stopped() {
			return ErrStopped
		}
		r, ok := mem.RangeOf(buf)
		if !ok { // cannot be: the chain was checked
			b.ignore(uint64(len(buf)))
			continue
		}
		start := (r.Base + balloonPage - 1) &^ (balloonPage - 1)
		end := r.End() &^ (balloonPage - 1)
		if start >= end {
			b.ignore(r.Size)
			continue
		}
		whole := guestmem.Range{Base: start, Size: uint64(end - start)}
		b.giveBack(mem, whole, &b.counts.Reported)
		b.ignore(r.Size - whole.Size)
	}
	b.ignore(uint64(c.ReadableLen()))
	return nil
}

// giveBack returns r to the host and adds it to count. It is advice: a host that
// refuses keeps the guest's memory, and that is all.
func (b *Balloon) giveBack(mem *guestmem.Memory, r guestmem.Range, count *uint64) {
	if r.Size == 0 {
		return
	}
	err := mem.Discard(r)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		count = &b.counts.Ignored
	}
	*count += r.Size
}

func (b *Balloon) ignore(n uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts.Ignored += n
}
