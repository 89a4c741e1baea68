package virtio_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

func unixWrite(fd int, p []byte) (int, error) { return unix.Write(fd, p) }

// A reset waits for the request in progress, and nothing is written to guest
// memory once the status reads zero.
func TestMMIO_T37_ResetJoinsWorkers(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	var done atomic.Bool
	d, _ := serving(t, func(c *virtio.Chain) error {
		close(entered)
		<-release
		c.Write([]byte("late"))
		done.Store(true)
		return nil
	}, vt.Config{})
	r := d.Ring(0)
	r.Add(vt.Buf{Addr: d.Alloc(4, 4), Len: 4, Write: true})
	r.Kick()
	<-entered
	go func() {
		time.Sleep(20 * time.Millisecond)
		close(release)
	}()
	d.Store32(vt.Status, 0)
	require.True(t, done.Load(), "reset returned before the worker")
	require.Zero(t, d.Status())
	require.Zero(t, r.DeviceUsedIdx(), "the completion was not dropped")
	require.Zero(t, d.IRQ.Count())
	require.Zero(t, d.Load32(vt.InterruptStatus))
	require.Zero(t, d.Load32(vt.QueueReady))
}

func TestMMIO_T39_ResetStorm(t *testing.T) {
	n := 2000
	if testing.Short() {
		n = 200
	}
	d := vt.New(t, &probe{sizes: []uint16{64}, serve: echo}, vt.Config{MemSize: 64 << 10})
	for i := range n {
		d.Start()
		r := d.Ring(0)
		in, out := d.Put([]byte("load")), d.Alloc(4, 4)
		for range 16 {
			r.Add(vt.Buf{Addr: in, Len: 4}, vt.Buf{Addr: out, Len: 4, Write: true})
		}
		r.Kick()
		if i%3 == 0 {
			r.Wait()
		}
	}
	d.Start()
	require.EqualValues(t, 4, d.Ring(0).Do([]byte("last"), 4).Used)
}

// A second driver (kexec) starts from scratch: with rings elsewhere, and smaller.
func TestMMIO_T40_SecondDriver(t *testing.T) {
	d, p := serving(t, echo, vt.Config{})
	d.Ring(0).Do([]byte("one"), 3)
	require.True(t, d.Negotiate(virtio.FeatureVersion1))
	d.Alloc(12345, 1)
	d.SetupQueue(0, 2)
	d.DriverOK()
	require.EqualValues(t, 3, d.Ring(0).Do([]byte("two"), 3).Used)
	require.EqualValues(t, virtio.FeatureVersion1, p.act.Features)
	require.Equal(t, 2, p.activations)
}

func TestMMIO_T43_NeedsReset(t *testing.T) {
	var log lockedBuffer
	served := make(chan struct{}, 100)
	p := &probe{sizes: []uint16{16, 16}}
	p.activate = func(a virtio.Activation) error {
		for _, q := range a.Queues {
			p.workers.Serve(a, q, func(c *virtio.Chain) error { served <- struct{}{}; return echo(c) })
		}
		return nil
	}
	d := vt.New(t, p, vt.Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
	other, _ := serving(t, echo, vt.Config{}) // another device, not concerned
	d.Start()
	d.Ring(0).Offer(0xffff) // no such head
	d.Ring(0).Kick()
	d.WaitNeedsReset()
	require.EqualValues(t, ack|driver|featuresOK|driverOK|needsReset, d.Status())
	require.NotZero(t, d.Load32(vt.InterruptStatus)&virtio.InterruptConfig)
	require.EqualValues(t, 1, d.IRQ.Count())

	// All its queues have stopped, and only a reset changes that.
	r1 := d.Ring(1)
	r1.Add(vt.Buf{Addr: d.Put([]byte("x")), Len: 1})
	r1.Kick()
	d.DriverOK()
	d.Store32(vt.Status, ack)
	d.Store32(vt.Status, d.Status()|1<<5)
	time.Sleep(20 * time.Millisecond)
	require.Zero(t, r1.DeviceUsedIdx())
	require.Empty(t, served)
	require.True(t, d.NeedsReset())
	require.EqualValues(t, 2, other.Ring(0).Do([]byte("hi"), 2).Used)

	p.act.NeedsReset(errors.New("again"))
	require.Equal(t, 1, strings.Count(log.String(), "needs reset"), log.String())

	d.Start()
	require.EqualValues(t, 2, d.Ring(1).Do([]byte("hi"), 2).Used)
	require.False(t, d.NeedsReset())
}

// A report from a life that a reset has ended changes nothing.
func TestMMIO_T38_StaleActivation(t *testing.T) {
	d, p := serving(t, echo, vt.Config{})
	old := p.act
	d.Start()
	old.NeedsReset(errors.New("late"))
	old.ConfigChanged()
	require.False(t, d.NeedsReset())
	require.Zero(t, d.IRQ.Count())
	require.EqualValues(t, 2, d.Ring(0).Do([]byte("hi"), 2).Used)
}

// Registers from several vCPUs at once, while a worker works.
func TestMMIO_T44_ConcurrentAccess(t *testing.T) {
	p := &probe{sizes: []uint16{16}, serve: echo, config: make([]byte, 16)}
	d := vt.New(t, p, vt.Config{})
	d.Start()
	var wg sync.WaitGroup
	for cpu := range 4 {
		wg.Go(func() {
			var b [8]byte
			for i := range 3000 {
				off := uint64((i*7 + cpu*13) % 0x140)
				if i%50 == 0 {
					off = vt.Status
				}
				d.MMIO.Read(off, b[:4])
				b[0] = byte(i * cpu)
				d.MMIO.Write(off, b[:4])
			}
		})
	}
	wg.Wait()
	d.Start()
	require.EqualValues(t, 2, d.Ring(0).Do([]byte("hi"), 2).Used)
}

func TestMMIO_T45_Panics(t *testing.T) {
	t.Run("worker", func(t *testing.T) {
		var log lockedBuffer
		d, p := serving(t, func(*virtio.Chain) error { panic("boom") }, vt.Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
		d.Ring(0).Add(vt.Buf{Addr: 0x100, Len: 1})
		d.Ring(0).Kick()
		d.WaitNeedsReset()
		require.Eventually(t, func() bool { return strings.Contains(log.String(), "boom") }, vt.Timeout, time.Millisecond)
		p.serve = echo
		d.Start()
		require.EqualValues(t, 2, d.Ring(0).Do([]byte("hi"), 2).Used)
	})
	t.Run("activate", func(t *testing.T) {
		p := &probe{sizes: []uint16{16}, activate: func(virtio.Activation) error { panic("boom") }}
		d := vt.New(t, p, vt.Config{})
		require.True(t, d.Negotiate(d.Offered()))
		d.DriverOK()
		require.True(t, d.NeedsReset())
		p.activate = nil
		d.Start()
	})
	t.Run("activate fails", func(t *testing.T) {
		p := &probe{sizes: []uint16{16}, activate: func(virtio.Activation) error { return os.ErrInvalid }}
		d := vt.New(t, p, vt.Config{})
		require.True(t, d.Negotiate(d.Offered()))
		d.DriverOK()
		require.True(t, d.NeedsReset())
	})
	t.Run("config", func(t *testing.T) {
		d := vt.New(t, &panicky{probe{sizes: []uint16{16}}}, vt.Config{})
		require.Equal(t, make([]byte, 4), d.Load(vt.ConfigSpace, 4))
		require.True(t, d.NeedsReset())
		d.Store32(vt.Status, ack) // no step leads on but a reset
		require.EqualValues(t, needsReset, d.Status())
		d.Reset()
		require.False(t, d.NeedsReset())
		d.Start()
		d.Store(vt.ConfigSpace, []byte{1})
		require.True(t, d.NeedsReset())
	})
}

type panicky struct{ probe }

func (*panicky) ReadConfig(uint32, []byte)  { panic("boom") }
func (*panicky) WriteConfig(uint32, []byte) { panic("boom") }

// A worker's fault on memory that has gone is the device's problem only (T53).
func TestGuard_T53_MemoryFault(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(4096))
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	require.NoError(t, err)
	defer unix.Munmap(m)
	require.NoError(t, f.Truncate(0))
	var sink byte
	require.ErrorIs(t, virtio.Guard(func() error { sink = m[0]; return nil }), virtio.ErrPanic)
	require.Zero(t, sink)
}

// A wake-up that comes after the transport was closed does not reach whatever
// has the descriptor's number now.
func TestMMIO_LateWake(t *testing.T) {
	d, p := serving(t, echo, vt.Config{})
	q, fd := p.act.Queues[0], d.MMIO.KickFD(0)
	require.NoError(t, d.MMIO.Close())
	var heir int
	require.Eventually(t, func() bool { // other tests' leftovers may take numbers
		var err error
		heir, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
		require.NoError(t, err)
		t.Cleanup(func() { unix.Close(heir) })
		return heir >= fd
	}, vt.Timeout, time.Microsecond)
	q.Wake()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(heir), Events: unix.POLLIN}}, 0)
	require.NoError(t, err)
	require.Zero(t, n)
}

// A driver that breaks its device over and over fills no log.
func TestMMIO_T86_LogRate(t *testing.T) {
	var log lockedBuffer
	d := vt.New(t, &probe{sizes: []uint16{16}, serve: echo}, vt.Config{Log: slog.New(slog.NewTextHandler(&log, nil)), MemSize: 64 << 10})
	start := time.Now()
	for range 100 {
		d.Start()
		d.Ring(0).Offer(0xffff)
		d.Ring(0).Kick()
		d.WaitNeedsReset()
		d.Reset()
		reach(d, ack|driver|featuresOK)
		d.Place(0, 3, 0, 0, 0)
	}
	lines := strings.Count(log.String(), "\n")
	require.LessOrEqual(t, lines, 1+int(time.Since(start)/time.Second), log.String())
	require.NotZero(t, lines)
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
