package virtio

import (
	"fmt"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

// Device types, virtio 1.2 §5.
const (
	TypeNet     = 1
	TypeBlk     = 2
	TypeConsole = 3
	TypeRNG     = 4
	TypeBalloon = 5
	Type9P      = 9
	TypeVsock   = 19
	TypeFS      = 26
	TypePMem    = 27
)

// Feature bits that belong to the transport and the queues, virtio 1.2 §6.
const (
	FeatureIndirectDesc = 1 << 28
	FeatureEventIdx     = 1 << 29
	FeatureVersion1     = 1 << 32

	// transportFeatures are offered for every device.
	transportFeatures = FeatureIndirectDesc | FeatureEventIdx | FeatureVersion1
	// deviceFeatures are the bits that belong to the device class, §2.2.
	deviceFeatures = 1<<24 - 1 | 1<<41 | 1<<42 | ^uint64(1<<50-1)
)

// Device is what a transport drives. The transport calls all methods but Type,
// Features and QueueSizes one at a time; workers run beside them.
type Device interface {
	// Type is the device's number in virtio 1.2 §5.
	Type() uint32
	// Features are the device class's feature bits, which never change. The
	// transport adds VERSION_1, INDIRECT_DESC and EVENT_IDX.
	Features() uint64
	// QueueSizes are the maximum sizes of the queues, powers of two up to
	// MaxQueueSize. Their number never changes.
	QueueSizes() []uint16
	// ReadConfig reads the configuration space at off into p, which is zeroed
	// and of any length; what lies beyond the space stays zero.
	ReadConfig(off uint32, p []byte)
	// WriteConfig writes to the configuration space. It is called between
	// DRIVER and FAILED or NEEDS_RESET only; fields that the driver must not
	// write are ignored.
	WriteConfig(off uint32, p []byte)
	// Activate starts the device's workers, at DRIVER_OK. An error sets
	// DEVICE_NEEDS_RESET.
	Activate(Activation) error
	// Reset stops and joins the workers and forgets the driver's state. The
	// device does not touch guest memory once Reset has returned. It is called
	// whether the device is active or not.
	Reset()
}

// ConfigGenerator is implemented by a device whose configuration space changes
// by itself. The value must change, under the lock that ReadConfig takes,
// whenever the space does (virtio 1.2 §2.5).
type ConfigGenerator interface {
	ConfigGeneration() uint32
}

// LowTraffic is implemented by a device whose queues are rarely kicked. Their
// workers then wait in Go's network poller, where a wake-up takes four times as
// long but no thread is blocked meanwhile.
type LowTraffic interface {
	LowTraffic()
}

// Activation is what a device gets when the driver sets DRIVER_OK. It is valid
// until Reset.
type Activation struct {
	Mem      *guestmem.Memory
	Features uint64 // as negotiated, the transport's bits included
	// Queues are the device's queues; nil for one that the driver left out.
	Queues []*Queue

	// NeedsReset reports that the device cannot go on. It sets
	// DEVICE_NEEDS_RESET, stops the device's queues, and logs the first error
	// of this activation. It may be called from any goroutine, at any time.
	NeedsReset func(error)
	// ConfigChanged tells the driver that the configuration space has changed.
	// It may be called from any goroutine, at any time.
	ConfigChanged func()
	// Activity, which may be nil, is told of the chains that were used.
	Activity func(queue, chains int)
}

// Interrupt is the device's interrupt line. Trigger is an edge: it is called
// once per notification and from several goroutines.
type Interrupt interface {
	Trigger() error
}

// typeName is for people: logs and traces.
func typeName(t uint32) string {
	switch t {
	case TypeNet:
		return "net"
	case TypeBlk:
		return "blk"
	case TypeConsole:
		return "console"
	case TypeRNG:
		return "rng"
	case TypeBalloon:
		return "balloon"
	case Type9P:
		return "9p"
	case TypeVsock:
		return "vsock"
	case TypeFS:
		return "fs"
	case TypePMem:
		return "pmem"
	}
	return fmt.Sprintf("type-%d", t)
}

// ReadConfigBytes copies what p asks for of a configuration space.
func ReadConfigBytes(space []byte, off uint32, p []byte) {
	if uint64(off) < uint64(len(space)) {
		copy(p, space[off:])
	}
}
