package virtiotest

import (
	"encoding/binary"
	"log/slog"
	"testing"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
)

// The driver's memory: two regions with a hole between them. Rings and what is
// allocated lie in the upper one.
const (
	LowBase  guestmem.GPA = 0
	LowSize               = 64 << 10
	HighBase guestmem.GPA = 1 << 20
)

// Registers, by the names of virtio 1.2 §4.2.2.
const (
	MagicValue        = 0x000
	Version           = 0x004
	DeviceID          = 0x008
	VendorID          = 0x00c
	DeviceFeatures    = 0x010
	DeviceFeaturesSel = 0x014
	DriverFeatures    = 0x020
	DriverFeaturesSel = 0x024
	QueueSel          = 0x030
	QueueSizeMax      = 0x034
	QueueSize         = 0x038
	QueueReady        = 0x044
	QueueNotify       = 0x050
	InterruptStatus   = 0x060
	InterruptACK      = 0x064
	Status            = 0x070
	QueueDescLow      = 0x080
	QueueDescHigh     = 0x084
	QueueDriverLow    = 0x090
	QueueDriverHigh   = 0x094
	QueueDeviceLow    = 0x0a0
	QueueDeviceHigh   = 0x0a4
	SHMSel            = 0x0ac
	SHMLenLow         = 0x0b0
	SHMLenHigh        = 0x0b4
	SHMBaseLow        = 0x0b8
	SHMBaseHigh       = 0x0bc
	QueueReset        = 0x0c0
	ConfigGeneration  = 0x0fc
	ConfigSpace       = 0x100
)

// Config is what a Driver is like. The zero value is a driver that accepts all
// features, uses queues of up to 256 entries and has 8 MiB of memory.
type Config struct {
	Without   uint64 // features not to accept
	QueueSize uint16 // at most; a power of two
	MemSize   uint64 // of the upper region
	// MemBase is where a driver made by NewOver allocates; zero is HighBase.
	MemBase guestmem.GPA
	Memfd   bool // memory from a memfd instead of the heap
	Log     *slog.Logger
}

// Registers is a device's register window, as *virtio.MMIO is one.
type Registers interface {
	Read(off uint64, p []byte)
	Write(off uint64, p []byte)
}

// Memory is a guest's RAM as its driver sees it, as *guestmem.Memory is. The
// loads and stores of words are single accesses.
type Memory interface {
	ReadAt(p []byte, a guestmem.GPA) error
	WriteAt(p []byte, a guestmem.GPA) error
	LoadUint16(a guestmem.GPA) (uint16, error)
	LoadUint32(a guestmem.GPA) (uint32, error)
	StoreUint16(a guestmem.GPA, v uint16) error
	StoreUint64(a guestmem.GPA, v uint64) error
}

// Driver is a guest's driver and the machine around it.
type Driver struct {
	TB   testing.TB
	Mem  *guestmem.Memory // nil if it was made by NewOver
	MMIO *virtio.MMIO     // nil if it was made by NewOver
	IRQ  *IRQ             // nil if it was made by NewOver

	Features uint64 // as negotiated

	regs  Registers
	ram   Memory
	cfg   Config
	base  guestmem.GPA // of what next goes through
	next  guestmem.GPA // bump allocator
	limit guestmem.GPA
	rings []*Ring
}

// New puts dev behind a transport that is in its reset state. Everything is
// closed when the test ends.
func New(tb testing.TB, dev virtio.Device, cfg Config) *Driver {
	tb.Helper()
	if cfg.QueueSize == 0 {
		cfg.QueueSize = 256
	}
	if cfg.MemSize == 0 {
		cfg.MemSize = 8 << 20
	}
	ranges := []guestmem.Range{{Base: LowBase, Size: LowSize}, {Base: HighBase, Size: cfg.MemSize}}
	var mem *guestmem.Memory
	var err error
	if cfg.Memfd {
		mem, err = guestmem.NewMemfd("virtiotest", ranges...)
	} else {
		mem, err = guestmem.NewHeap(ranges...)
	}
	if err != nil {
		tb.Fatalf("virtiotest: %v", err)
	}
	d := &Driver{
		TB: tb, Mem: mem, IRQ: &IRQ{pulse: make(chan struct{}, 1)},
		ram: mem, cfg: cfg, base: HighBase, next: HighBase, limit: HighBase + guestmem.GPA(cfg.MemSize),
	}
	d.MMIO, err = virtio.NewMMIO(dev, mem, d.IRQ, cfg.Log)
	if err != nil {
		tb.Fatalf("virtiotest: %v", err)
	}
	d.regs = d.MMIO
	tb.Cleanup(func() {
		if err := d.MMIO.Close(); err != nil {
			tb.Errorf("virtiotest: %v", err)
		}
		mem.Close()
	})
	return d
}

// NewOver returns a driver for a device that is somewhere else, such as in a
// virtual machine whose processor makes the accesses. What is allocated lies in
// the cfg.MemSize bytes of RAM from cfg.MemBase; Memfd and Log are not used.
func NewOver(tb testing.TB, regs Registers, ram Memory, cfg Config) *Driver {
	tb.Helper()
	if cfg.QueueSize == 0 {
		cfg.QueueSize = 256
	}
	if cfg.MemSize == 0 {
		cfg.MemSize = 8 << 20
	}
	if cfg.MemBase == 0 {
		cfg.MemBase = HighBase
	}
	return &Driver{
		TB: tb, regs: regs, ram: ram, cfg: cfg,
		base: cfg.MemBase, next: cfg.MemBase, limit: cfg.MemBase + guestmem.GPA(cfg.MemSize),
	}
}

// Load reads n bytes at off of the register window in one access.
func (d *Driver) Load(off uint64, n int) []byte {
	p := make([]byte, n)
	d.regs.Read(off, p)
	return p
}

// Load32 reads a register.
func (d *Driver) Load32(off uint64) uint32 {
	var p [4]byte
	d.regs.Read(off, p[:])
	return binary.LittleEndian.Uint32(p[:])
}

// Store writes p at off of the register window in one access.
func (d *Driver) Store(off uint64, p []byte) { d.regs.Write(off, p) }

// Store32 writes a register.
func (d *Driver) Store32(off uint64, v uint32) {
	var p [4]byte
	binary.LittleEndian.PutUint32(p[:], v)
	d.regs.Write(off, p[:])
}

// Status reads the device status.
func (d *Driver) Status() uint32 { return d.Load32(Status) }

// NeedsReset reports whether the device has given up.
func (d *Driver) NeedsReset() bool { return d.Status()&virtio.StatusNeedsReset != 0 }

// Offered reads the device's features.
func (d *Driver) Offered() uint64 {
	d.Store32(DeviceFeaturesSel, 1)
	high := d.Load32(DeviceFeatures)
	d.Store32(DeviceFeaturesSel, 0)
	return uint64(high)<<32 | uint64(d.Load32(DeviceFeatures))
}

// Reset resets the device and forgets the rings and everything allocated.
func (d *Driver) Reset() {
	d.Store32(Status, 0)
	d.next, d.rings = d.base, nil
}

// Negotiate resets the device and goes up to FEATURES_OK with the given features.
// It reports whether the device agreed.
func (d *Driver) Negotiate(features uint64) bool {
	d.Reset()
	d.Store32(Status, virtio.StatusAcknowledge)
	d.Store32(Status, virtio.StatusAcknowledge|virtio.StatusDriver)
	d.Store32(DriverFeaturesSel, 0)
	d.Store32(DriverFeatures, uint32(features))
	d.Store32(DriverFeaturesSel, 1)
	d.Store32(DriverFeatures, uint32(features>>32))
	d.Store32(Status, virtio.StatusAcknowledge|virtio.StatusDriver|virtio.StatusFeaturesOK)
	d.Features = features
	return d.Status()&virtio.StatusFeaturesOK != 0
}

// Start goes through the whole initialisation of virtio 1.2 §3.1.1, with rings
// for all queues. The test fails if the device does not follow.
func (d *Driver) Start() {
	d.TB.Helper()
	if !d.Negotiate(d.Offered() &^ d.cfg.Without) {
		d.TB.Fatalf("virtiotest: features refused, status %#x", d.Status())
	}
	for i := 0; ; i++ {
		d.Store32(QueueSel, uint32(i))
		size := d.Load32(QueueSizeMax)
		if size == 0 {
			break
		}
		if r := d.SetupQueue(i, uint16(min(size, uint32(d.cfg.QueueSize)))); !r.Ready() {
			d.TB.Fatalf("virtiotest: queue %d refused", i)
		}
	}
	d.DriverOK()
	if s := d.Status(); s&virtio.StatusDriverOK == 0 || s&virtio.StatusNeedsReset != 0 {
		d.TB.Fatalf("virtiotest: not active, status %#x", s)
	}
}

// SetupQueue allocates rings for queue i and makes it ready.
func (d *Driver) SetupQueue(i int, size uint16) *Ring {
	n := uint64(size)
	r := &Ring{
		d: d, Index: i, Size: size,
		Desc: d.Alloc(16*n, 16),
		// Whole words: a 16-bit atomic access takes the word around it, and the
		// race detector takes that for an access to its neighbour.
		Avail: d.Alloc((6+2*n+3)&^3, 4),
		Used:  d.Alloc((6+8*n+3)&^3, 4),
	}
	r.chains = make([]chain, size)
	for k := range n {
		r.free = append(r.free, uint16(n-1-k))
	}
	d.Place(i, uint32(size), uint64(r.Desc), uint64(r.Avail), uint64(r.Used))
	for len(d.rings) <= i {
		d.rings = append(d.rings, nil)
	}
	d.rings[i] = r
	return r
}

// Place writes the registers of queue i, whatever the values, and asks for it to
// be made ready.
func (d *Driver) Place(i int, size uint32, desc, avail, used uint64) {
	d.Store32(QueueSel, uint32(i))
	d.Store32(QueueSize, size)
	d.Store32(QueueDescLow, uint32(desc))
	d.Store32(QueueDescHigh, uint32(desc>>32))
	d.Store32(QueueDriverLow, uint32(avail))
	d.Store32(QueueDriverHigh, uint32(avail>>32))
	d.Store32(QueueDeviceLow, uint32(used))
	d.Store32(QueueDeviceHigh, uint32(used>>32))
	d.Store32(QueueReady, 1)
}

// DriverOK sets DRIVER_OK.
func (d *Driver) DriverOK() {
	d.Store32(Status, virtio.StatusAcknowledge|virtio.StatusDriver|virtio.StatusFeaturesOK|virtio.StatusDriverOK)
}

// Ring returns the ring of queue i, nil if it was not set up.
func (d *Driver) Ring(i int) *Ring {
	if i >= len(d.rings) {
		return nil
	}
	return d.rings[i]
}

// Alloc returns the address of n unused bytes, zeroed since the memory is new or
// left over from before a Reset. The test fails when there is no more memory.
func (d *Driver) Alloc(n, align uint64) guestmem.GPA {
	a := (d.next + guestmem.GPA(align) - 1) &^ (guestmem.GPA(align) - 1)
	if n > uint64(d.limit-a) || a > d.limit {
		d.TB.Fatalf("virtiotest: no room for %d bytes", n)
	}
	d.next = a + guestmem.GPA(n)
	if d.Mem == nil {
		if err := d.ram.WriteAt(make([]byte, n), a); err != nil {
			d.TB.Fatalf("virtiotest: %v", err)
		}
		return a
	}
	b, err := d.Mem.Bytes(a, n)
	if err == nil {
		clear(b)
	}
	return a
}

// Put allocates memory for p and copies it there.
func (d *Driver) Put(p []byte) guestmem.GPA {
	a := d.Alloc(uint64(len(p)), 16)
	if err := d.ram.WriteAt(p, a); err != nil && len(p) > 0 {
		d.TB.Fatalf("virtiotest: %v", err)
	}
	return a
}

// Get copies n bytes at a.
func (d *Driver) Get(a guestmem.GPA, n int) []byte {
	p := make([]byte, n)
	if n == 0 {
		return p
	}
	if err := d.ram.ReadAt(p, a); err != nil {
		d.TB.Fatalf("virtiotest: %v", err)
	}
	return p
}
