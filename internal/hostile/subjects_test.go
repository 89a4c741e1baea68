package hostile

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// subject is a device under attack, and the host's side of it.
type subject struct {
	name    string
	dev     virtio.Device
	brittle *brittle

	// A good request: to which queue, what is readable and writable, and what
	// is written.
	queue   int
	request []byte
	room    int
	used    uint32

	// victims are the queues that take chains, and what makes them do so.
	victims []victim

	disk    *disk
	console *consoleHost
	vsock   *virtio.Vsock
	balloon *virtio.Balloon
}

type victim struct {
	queue   int
	trigger func(a *attack, d *vt.Driver) // besides a kick; may be nil
	long    bool                          // takes chains as long as memory
}

// subjectNames are all of them.
var subjectNames = []string{"blk", "vsock", "rng", "console", "pmem", "balloon", "blk-ro", "balloon-stats"}

// onlySpecial are subjects that only the attacks made for them are for.
var onlySpecial = []string{"blk-ro", "balloon-stats"}

// maxQueues is the most queues that any of them has.
const maxQueues = 5

func newSubject(t testing.TB, name string) *subject {
	t.Helper()
	s := &subject{name: name, victims: []victim{{}}}
	switch name {
	case "blk", "blk-ro":
		s.disk = &disk{data: make([]byte, 256*512)}
		for i := range s.disk.data {
			s.disk.data[i] = byte(i/512 + i)
		}
		s.dev = virtio.NewBlk(virtio.BlkConfig{Backend: s.disk, ID: "hostile", ReadOnly: name == "blk-ro"})
		s.request, s.room, s.used = blkHeader(blkIn, 3), 513, 513
	case "rng":
		s.dev = virtio.NewRNG(zeros{})
		s.room, s.used = 16, 16
	case "pmem":
		s.dev = virtio.NewPMem(4<<30, 2<<20)
		s.request, s.room, s.used = make([]byte, 4), 4, 4
	case "balloon", "balloon-stats":
		s.balloon = virtio.NewBalloon(virtio.BalloonConfig{Stats: name == "balloon-stats"})
		s.dev = s.balloon
		s.request = binary.LittleEndian.AppendUint32(nil, uint32(subjectBase+7<<20)>>12)
		s.victims = []victim{{queue: 0}, {queue: 1}, {queue: reportQueue, long: true}}
	case "console":
		h := &consoleHost{}
		in, w := io.Pipe()
		h.in = w
		c := virtio.NewConsole(in, &h.out, virtio.ConsoleOptions{Rate: 1 << 30})
		t.Cleanup(func() { w.Close(); c.Close() })
		s.dev, s.console, s.queue = c, h, 1
		s.request = []byte("output")
		s.victims = []victim{{queue: 1}, {queue: 0, trigger: func(*attack, *vt.Driver) { go w.Write([]byte("k")) }}}
	case "vsock":
		v := virtio.NewVsock(virtio.VsockConfig{})
		l, err := v.Listen(echoPort)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { echoAll(l) })
		t.Cleanup(func() { v.Close(); wg.Wait() })
		s.dev, s.vsock, s.queue = v, v, 1
		s.request = packet(opRst, 99, 99, nil)
		s.victims = []victim{{queue: 1}, {queue: 0, trigger: func(a *attack, d *vt.Driver) {
			// Data for a connection that there is not is answered.
			d.Ring(1).Add(vt.Buf{Addr: d.Put(packet(opRW, 99, 99, nil)), Len: 44})
			d.Ring(1).Kick()
		}}}
	}
	s.brittle = &brittle{Device: s.dev}
	s.dev = s.brittle.wrap()
	return s
}

// brittle is a device that panics when it is told to: in its worker, in the
// midst of a chain's use, or when its configuration is read.
type brittle struct {
	virtio.Device
	worker, config atomic.Bool
}

// wrap keeps the optional interfaces of the device.
func (b *brittle) wrap() virtio.Device {
	g, generates := b.Device.(virtio.ConfigGenerator)
	l, low := b.Device.(virtio.LowTraffic)
	switch {
	case generates && low:
		return struct {
			*brittle
			virtio.ConfigGenerator
			virtio.LowTraffic
		}{b, g, l}
	case low:
		return struct {
			*brittle
			virtio.LowTraffic
		}{b, l}
	}
	return b
}

func (b *brittle) Activate(a virtio.Activation) error {
	report := a.Activity
	a.Activity = func(queue, chains int) {
		if b.worker.Load() {
			panic("injected into a worker")
		}
		report(queue, chains)
	}
	return b.Device.Activate(a)
}

func (b *brittle) ReadConfig(off uint32, p []byte) {
	if b.config.Load() {
		panic("injected into the configuration space")
	}
	b.Device.ReadConfig(off, p)
}

// disk is a backend in memory with faults and delays to order.
type disk struct {
	mu     sync.Mutex // guards what follows
	data   []byte
	err    error
	delay  time.Duration
	panics atomic.Bool
}

func (d *disk) Size() int64 { return int64(len(d.data)) }

func (d *disk) PreadV(bufs [][]byte, off int64) (n int, err error) {
	return d.move(bufs, off, func(b, disk []byte) int { return copy(b, disk) })
}

func (d *disk) PwriteV(bufs [][]byte, off int64) (n int, err error) {
	return d.move(bufs, off, func(b, disk []byte) int { return copy(disk, b) })
}

func (d *disk) move(bufs [][]byte, off int64, do func(b, disk []byte) int) (n int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.panics.Load() {
		panic("injected into the backend")
	}
	time.Sleep(d.delay)
	if d.err != nil {
		return 0, d.err
	}
	for _, b := range bufs {
		n += do(b, d.data[off+int64(n):])
	}
	return n, nil
}

func (d *disk) Sync() error                { d.mu.Lock(); defer d.mu.Unlock(); return d.err }
func (d *disk) Discard(off, n int64) error { return d.Sync() }
func (d *disk) WriteZeroes(off, n int64, _ bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.data[off : off+n])
	return d.err
}

func (d *disk) fail(err error)           { d.mu.Lock(); d.err = err; d.mu.Unlock() }
func (d *disk) slow(delay time.Duration) { d.mu.Lock(); d.delay = delay; d.mu.Unlock() }
func (d *disk) snapshot() []byte         { d.mu.Lock(); defer d.mu.Unlock(); return bytes.Clone(d.data) }

// consoleHost is the host's side of a console.
type consoleHost struct {
	in  *io.PipeWriter
	out output
}

// output counts and forgets.
type output struct{ n atomic.Int64 }

func (o *output) Write(p []byte) (int, error) { o.n.Add(int64(len(p))); return len(p), nil }

// Block requests, virtio 1.2 §5.2.6.
const (
	blkIn, blkOut, blkFlush, blkGetID, blkDiscard, blkWriteZeroes = 0, 1, 4, 8, 11, 13
	blkOK, blkIOErr, blkUnsupp                                    = 0, 1, 2
)

func blkHeader(kind uint32, sector uint64) []byte {
	h := make([]byte, 16)
	binary.LittleEndian.PutUint32(h, kind)
	binary.LittleEndian.PutUint64(h[8:], sector)
	return h
}

// Socket packets, virtio 1.2 §5.10.6.
const (
	opRequest, opResponse, opRst, opShutdown, opRW, opCreditUpdate, opCreditRequest = 1, 2, 3, 4, 5, 6, 7

	echoPort = 1024
)

func packet(op uint16, src, dst uint32, data []byte) []byte {
	le := binary.LittleEndian
	h := make([]byte, 44, 44+len(data))
	le.PutUint64(h[0:], 3)
	le.PutUint64(h[8:], 2)
	le.PutUint32(h[16:], src)
	le.PutUint32(h[20:], dst)
	le.PutUint32(h[24:], uint32(len(data)))
	le.PutUint16(h[28:], 1)
	le.PutUint16(h[30:], op)
	le.PutUint32(h[36:], 1<<16)
	return append(h, data...)
}

// echoAll serves the port that guests can connect to.
func echoAll(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { // ends with the connection, at the latest with the device
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}
