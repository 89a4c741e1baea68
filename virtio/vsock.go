package virtio

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

// The vsock device, virtio 1.2 §5.10. The guest needs CONFIG_VSOCKETS and
// CONFIG_VIRTIO_VSOCKETS.
//
// The host's end lies in this process: Dial and Listen. There are no sockets,
// no paths and no CIDs to allocate on the host.

const (
	vsockQueueRx    = 0 // to the guest
	vsockQueueTx    = 1 // from the guest
	vsockQueueEvent = 2
	vsockQueues     = 3

	vsockFeatureStream = 1 << 0 // VIRTIO_VSOCK_F_STREAM

	vsockEventTransportReset = 0 // virtio 1.2 §5.10.6.7
)

const (
	vsockQueueSize = 256
	// vsockQuantum is what a connection may send in its turn.
	vsockQuantum = 64 << 10
	// vsockBatch is how many packets of the guest are taken before it is told
	// that it can have the buffers back.
	vsockBatch = 16

	// A guest that answers neither a request nor a shutdown is reset. Linux
	// gives a shutdown 8 s, too.
	vsockOpenTimeout  = 30 * time.Second
	vsockCloseTimeout = 8 * time.Second
)

// VsockConfig configures a Vsock.
type VsockConfig struct {
	// GuestCID is the guest's address; zero is 3. 1, 2 and 2³²-1 and above are
	// reserved.
	GuestCID uint64
	Log      *slog.Logger // nil discards
}

// Vsock is the socket device and the host's end of its connections.
//
// Two workers exist while the device is active. The tx worker takes packets
// from the guest and never waits for anything else: data goes into the
// connection's buffer, whose size is the credit that the guest has, and answers
// become flags on the connection. The rx worker owns the rx and event queues
// and gives each connection that has something to send its turn.
type Vsock struct {
	cid          uint64
	log          *slog.Logger
	segments     sync.Pool // of *vsockSegment
	openTimeout  time.Duration
	closeTimeout time.Duration

	workers Workers
	wake    chan struct{} // the rx worker has something to do

	mu                   sync.Mutex // guards what follows
	closed               bool
	conns                map[vsockKey]*vsockConn
	live                 int // connections in the table, or held by a user, or both
	listeners            map[uint32]*vsockListener
	nextPort             uint32
	readyHead, readyTail *vsockConn   // with something to send, in order
	resets               []vsockReset // to send, oldest first
	eventPending         bool         // TRANSPORT_RESET to send
	dropped              uint64       // packets and resets that came to nothing
	logged               bool         // that there are such packets
}

// NewVsock returns a device without connections.
func NewVsock(cfg VsockConfig) *Vsock {
	v := &Vsock{
		cid:          cfg.GuestCID,
		log:          cfg.Log,
		openTimeout:  vsockOpenTimeout,
		closeTimeout: vsockCloseTimeout,
		wake:         make(chan struct{}, 1),
		conns:        make(map[vsockKey]*vsockConn),
		listeners:    make(map[uint32]*vsockListener),
		nextPort:     vsockFirstEphemeral,
	}
	if v.cid == 0 {
		v.cid = 3
	}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	v.segments.New = func() any { return new(vsockSegment) }
	return v
}

// Type implements Device.
func (v *Vsock) Type() uint32 { return TypeVsock }

// Features implements Device. A driver that accepts none means streams, too.
func (v *Vsock) Features() uint64 { return vsockFeatureStream }

// QueueSizes implements Device.
func (v *Vsock) QueueSizes() []uint16 {
	return []uint16{vsockQueueSize, vsockQueueSize, vsockQueueSize}
}

// ReadConfig implements Device, virtio 1.2 §5.10.4.
func (v *Vsock) ReadConfig(off uint32, p []byte) {
	var space [8]byte
	binary.LittleEndian.PutUint64(space[:], v.cid)
	ReadConfigBytes(space[:], off, p)
}

// WriteConfig implements Device. There is nothing to write.
func (v *Vsock) WriteConfig(uint32, []byte) {}

// Activate implements Device.
func (v *Vsock) Activate(a Activation) error {
	if v.cid <= vsockHostCID || v.cid >= 1<<32-1 {
		return &Error{"activate vsock", fmt.Errorf("guest CID %d is reserved", v.cid)}
	}
	rx, tx := a.Queues[vsockQueueRx], a.Queues[vsockQueueTx]
	if rx == nil || tx == nil {
		return &Error{"activate vsock", fmt.Errorf("the driver left out a queue")}
	}
	s := &vsockSender{dev: v, act: a, rx: rx, event: a.Queues[vsockQueueEvent]}
	// A worker that ends, because a ring is no good, takes all connections
	// with it.
	v.workers.Go(a, rx, func() error {
		defer v.failAll(syscall.ECONNRESET, true)
		return s.run()
	})
	v.workers.Go(a, tx, func() error {
		defer v.failAll(syscall.ECONNRESET, true)
		return v.receiveAll(a, tx)
	})
	return nil
}

// Reset implements Device. Connections end with ECONNRESET; listeners, and dials
// that the guest has not heard of, wait for the next driver.
func (v *Vsock) Reset() {
	v.workers.Stop()
	v.failAll(syscall.ECONNRESET, true)
}

// Close ends what Reset leaves: listeners, and dials that wait for a driver. It
// is called after the transport's Close.
func (v *Vsock) Close() error {
	v.mu.Lock()
	v.closed = true
	listeners := make([]net.Listener, 0, len(v.listeners))
	for _, l := range v.listeners {
		listeners = append(listeners, l)
	}
	v.mu.Unlock()
	for _, l := range listeners {
		l.Close()
	}
	v.failAll(syscall.ECONNRESET, false)
	return nil
}

// TransportReset ends all connections and tells the guest's driver that the
// world has changed under it: after a restore.
func (v *Vsock) TransportReset() {
	v.failAll(syscall.ECONNRESET, true)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.eventPending = true
	v.wakeSender()
}

// receiveAll is the tx worker.
func (v *Vsock) receiveAll(a Activation, q *Queue) error {
	var c Chain
	for {
		q.DisableNotifications()
		n := 0
		for n < vsockBatch {
			ok, err := q.Pop(&c)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			v.receive(&c)
			q.Push(c.Head(), 0)
			n++
		}
		q.Notify()
		if n > 0 && a.Activity != nil {
			a.Activity(q.Index(), n)
		}
		if n == vsockBatch || q.EnableNotifications() {
			if q.Stopped() {
				return ErrStopped
			}
			continue
		}
		if err := q.Wait(); err != nil {
			return err
		}
	}
}

// vsockPayload is what follows a header: a Chain, or a test's.
type vsockPayload interface {
	Read(p []byte) (int, error)
	ReadableLen() int
}

// receive handles one packet of the guest. It does not wait.
func (v *Vsock) receive(c *Chain) {
	var h vsockHeader
	if c.ReadFull(h[:]) != nil { // T60
		v.drop()
		return
	}
	v.receivePacket(&h, c)
}

func (v *Vsock) receivePacket(h *vsockHeader, payload vsockPayload) {
	if h.srcCID() != v.cid || h.dstCID() != vsockHostCID { // T61
		v.drop()
		return
	}
	key := vsockKey{local: h.dstPort(), peer: h.srcPort()}
	sound := h.length() <= vsockMaxPayload && int(h.length()) <= payload.ReadableLen() // T60
	var c *vsockConn
	if h.typ() == vsockTypeStream {
		c = v.lookup(key)
	}
	switch {
	case c != nil && sound:
		c.receive(h, payload)
	case c != nil:
		c.mu.Lock()
		c.reset(syscall.ECONNRESET)
		c.mu.Unlock()
	case h.op() == vsockOpRst:
		// Nothing to reset, and a RST is never answered.
	case h.op() == vsockOpRequest && h.typ() == vsockTypeStream && sound:
		v.accept(key, h)
	default: // the type is unknown (virtio 1.2 §5.10.6.4), or the connection is
		v.mu.Lock()
		v.enqueueReset(key, h.typ())
		v.mu.Unlock()
	}
}

// drop counts a packet that makes no sense, and logs the first: the guest could
// fill the disk (T86).
func (v *Vsock) drop() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.dropped++; !v.logged {
		v.logged = true
		v.log.Warn("vsock: dropping malformed packets from the guest")
	}
}
