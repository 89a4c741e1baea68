package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

// The MMIO transport, virtio 1.2 §4.2, version 2 ("modern"). This file holds the
// register file; mmio_status.go what the status register sets in motion.

// transportGuestConfigs are the kernel options that a guest's driver needs.
var transportGuestConfigs = [...]string{"CONFIG_VIRTIO", "CONFIG_VIRTIO_MMIO", "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES"}

// MMIO is a device's register window. Its methods may be called from any number
// of goroutines (T44).
type MMIO struct {
	dev  Device
	mem  *guestmem.Memory
	irq  Interrupt
	log  *guestLog
	name string
	max  []uint16 // queue sizes
	kick []*kick  // per queue

	trace atomic.Pointer[func(Event)]

	// mu guards regs and serialises the device's methods. It is held while a
	// reset joins the workers, which never take it.
	mu     sync.Mutex
	regs   registers
	closed bool

	// intr guards what workers touch. Taken inside mu, never around it.
	intr struct {
		sync.Mutex
		status     uint32 // InterruptStatus
		generation uint32 // of the configuration, besides the device's own
		needsReset bool
		active     *activation // nil outside DRIVER_OK … reset
	}
}

// registers is what the driver has written, and nothing else: plain data.
type registers struct {
	Status            uint32 // without NEEDS_RESET, which is the device's
	DeviceFeaturesSel uint32
	DriverFeaturesSel uint32
	DriverFeatures    uint64
	BadFeatures       bool // a feature beyond bit 63 was accepted
	QueueSel          uint32
	SHMSel            uint32
	Queues            []queueRegisters
}

// queueRegisters is what the driver wrote about one queue, unchecked until
// Ready, frozen afterwards (T6).
type queueRegisters struct {
	Size  uint32
	Ready bool
	Desc  uint64
	Avail uint64
	Used  uint64
}

// NewMMIO returns a transport for dev in its reset state. The caller maps it at
// a window of WindowSize bytes and closes it before mem. A nil log discards.
func NewMMIO(dev Device, mem *guestmem.Memory, irq Interrupt, log *slog.Logger) (*MMIO, error) {
	t := &MMIO{
		dev:  dev,
		mem:  mem,
		irq:  irq,
		log:  newGuestLog(log),
		name: typeName(dev.Type()),
		max:  dev.QueueSizes(),
	}
	t.regs.Queues = make([]queueRegisters, len(t.max))
	_, poll := dev.(LowTraffic)
	for i, size := range t.max {
		if size == 0 || size&(size-1) != 0 || size > MaxQueueSize {
			t.closeKicks()
			return nil, &Error{"new transport", fmt.Errorf("%s queue %d: %w", t.name, i, ErrQueueSize)}
		}
		k, err := newKick(poll)
		if err != nil {
			t.closeKicks()
			return nil, &Error{"new transport", err}
		}
		t.kick = append(t.kick, k)
	}
	return t, nil
}

// Name is the device's kind: "blk", "vsock", …
func (t *MMIO) Name() string { return t.name }

// KickFD is the eventfd of queue q, or -1. It stays owned by t. Adding to it
// does what writing q to QueueNotify does.
func (t *MMIO) KickFD(q int) int {
	if q < 0 || q >= len(t.kick) {
		return -1
	}
	return t.kick[q].fd
}

// Close resets the device and closes the eventfds. The window reads zeros
// afterwards. A second Close does nothing.
func (t *MMIO) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.reset()
	t.closed = true
	return t.closeKicks()
}

func (t *MMIO) closeKicks() error {
	var errs []error
	for _, k := range t.kick {
		errs = append(errs, k.close())
	}
	if err := errors.Join(errs...); err != nil {
		return &Error{"close", err}
	}
	return nil
}

// Read serves a load of len(p) bytes at off in the window.
func (t *MMIO) Read(off uint64, p []byte) {
	clear(p)
	t.load(off, p)
	t.traceAccess(EventRead, off, p)
}

func (t *MMIO) load(off uint64, p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock() // a panic must not keep the lock: Close takes it
	switch {
	case t.closed || off >= WindowSize:
	case off >= regConfig:
		// Any width and any offset; beyond the space it is zeros (T2).
		t.guard("read config", func() { t.dev.ReadConfig(uint32(off-regConfig), p) })
	case len(p) == 4 && off%4 == 0: // §4.2.2.2; anything else reads zero (T1)
		binary.LittleEndian.PutUint32(p, t.readRegister(off))
	}
}

// readRegister is called with t.mu held.
func (t *MMIO) readRegister(off uint64) uint32 {
	switch off {
	case regMagicValue:
		return magicValue
	case regVersion:
		return mmioVersion
	case regDeviceID:
		return t.dev.Type()
	case regVendorID:
		return vendorID
	case regDeviceFeatures:
		switch t.regs.DeviceFeaturesSel {
		case 0:
			return uint32(t.offered())
		case 1:
			return uint32(t.offered() >> 32)
		}
	case regQueueSizeMax:
		if sel := t.regs.QueueSel; sel < uint32(len(t.max)) { // T5
			return uint32(t.max[sel])
		}
	case regQueueReady:
		if q := t.selected(); q != nil && q.Ready {
			return 1
		}
	case regInterruptStatus:
		t.intr.Lock()
		defer t.intr.Unlock()
		return t.intr.status
	case regStatus:
		return t.status()
	case regSHMLenLow, regSHMLenHigh, regSHMBaseLow, regSHMBaseHigh:
		return 0xffffffff // no region has any id
	case regConfigGeneration:
		return t.generation()
	}
	return 0
}

// Write serves a store of len(p) bytes at off in the window.
func (t *MMIO) Write(off uint64, p []byte) {
	t.traceAccess(EventWrite, off, p)
	if before, after := t.store(off, p); after != before {
		t.emit(Event{Kind: EventStatus, Value: uint64(after)})
	}
}

// store returns the status before and after.
func (t *MMIO) store(off uint64, p []byte) (before, after uint32) {
	t.mu.Lock()
	defer t.mu.Unlock() // a panic must not keep the lock: Close takes it
	before = t.status()
	switch {
	case t.closed || off >= WindowSize:
	case off >= regConfig:
		if before&StatusDriver != 0 && before&(StatusFailed|StatusNeedsReset) == 0 { // T2
			t.guard("write config", func() { t.dev.WriteConfig(uint32(off-regConfig), p) })
		}
	case len(p) == 4 && off%4 == 0: // T1
		t.writeRegister(off, binary.LittleEndian.Uint32(p))
	}
	return before, t.status()
}

// writeRegister is called with t.mu held.
func (t *MMIO) writeRegister(off uint64, v uint32) {
	switch off {
	case regDeviceFeaturesSel:
		t.regs.DeviceFeaturesSel = v
	case regDriverFeaturesSel:
		t.regs.DriverFeaturesSel = v
	case regDriverFeatures:
		t.acceptFeatures(v)
	case regQueueSel:
		t.regs.QueueSel = v
	case regQueueNotify:
		// An unknown queue, or a driver that is not ready: nothing (T10). The
		// counter adds up, so a storm of writes wakes a worker no faster than
		// it runs.
		if v < uint32(len(t.kick)) && t.regs.Status&StatusDriverOK != 0 {
			t.kick[v].signal()
		}
	case regInterruptACK:
		t.intr.Lock()
		t.intr.status &^= v & (InterruptUsed | InterruptConfig) // T11
		t.intr.Unlock()
	case regStatus:
		t.writeStatus(v)
	case regSHMSel:
		t.regs.SHMSel = v
	case regQueueReady:
		t.writeReady(v)
	default:
		t.writeQueue(off, v)
	}
}

// selected is the queue that QueueSel names, nil if there is none (T5). Called
// with t.mu held.
func (t *MMIO) selected() *queueRegisters {
	if t.regs.QueueSel >= uint32(len(t.regs.Queues)) {
		return nil
	}
	return &t.regs.Queues[t.regs.QueueSel]
}

// configurable reports whether queues may be set up: after FEATURES_OK, before
// DRIVER_OK, and only while all is well (T6). Called with t.mu held.
func (t *MMIO) configurable() bool {
	return t.status() == StatusAcknowledge|StatusDriver|StatusFeaturesOK
}

// writeQueue writes a register of the selected queue. Called with t.mu held.
func (t *MMIO) writeQueue(off uint64, v uint32) {
	q := t.selected()
	if q == nil || q.Ready || !t.configurable() {
		return // T5, T6
	}
	low := func(a uint64) uint64 { return a&^0xffffffff | uint64(v) }
	high := func(a uint64) uint64 { return a&0xffffffff | uint64(v)<<32 }
	switch off {
	case regQueueSize:
		q.Size = v
	case regQueueDescLow:
		q.Desc = low(q.Desc)
	case regQueueDescHigh:
		q.Desc = high(q.Desc)
	case regQueueDriverLow:
		q.Avail = low(q.Avail)
	case regQueueDriverHigh:
		q.Avail = high(q.Avail)
	case regQueueDeviceLow:
		q.Used = low(q.Used)
	case regQueueDeviceHigh:
		q.Used = high(q.Used)
	}
}

// writeReady makes the selected queue ready, if what was written about it holds
// together, or takes that back. Called with t.mu held.
func (t *MMIO) writeReady(v uint32) {
	q := t.selected()
	if q == nil || !t.configurable() {
		return // T5, T6: once the driver is ready, a queue stops by reset only
	}
	if v&1 == 0 {
		q.Ready = false
		return
	}
	if q.Ready {
		return
	}
	if _, err := t.newQueue(int(t.regs.QueueSel)); err != nil {
		t.log.warn("virtio: queue refused", "device", t.name, "queue", t.regs.QueueSel, "err", err)
		return
	}
	q.Ready = true
}

// newQueue builds queue i from the registers. Called with t.mu held.
func (t *MMIO) newQueue(i int) (*Queue, error) {
	r := &t.regs.Queues[i]
	if r.Size > uint32(t.max[i]) {
		return nil, &Error{"new queue", fmt.Errorf("%d: %w", r.Size, ErrQueueSize)} // T7
	}
	return NewQueue(t.mem, QueueState{
		Size:     uint16(r.Size),
		Desc:     guestmem.GPA(r.Desc),
		Avail:    guestmem.GPA(r.Avail),
		Used:     guestmem.GPA(r.Used),
		Indirect: t.regs.DriverFeatures&FeatureIndirectDesc != 0,
		EventIdx: t.regs.DriverFeatures&FeatureEventIdx != 0,
	}, nil)
}
