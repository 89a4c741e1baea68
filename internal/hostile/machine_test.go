package hostile

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/boot"
	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
	"github.com/sandpit-vm/sandpit/vmm"
)

// box is a machine with the program in it, and how it ended.
type box struct {
	*Guest
	m      *vmm.Machine
	ended  chan struct{}
	reason vmm.Reason
	err    error
}

// run starts a machine. It is gone when the test ends.
func run(t *testing.T, cfg vmm.Config) *box {
	t.Helper()
	kvmtest.NeedKVM(t)
	b := &box{Guest: NewGuest(), ended: make(chan struct{})}
	cfg.Memory, cfg.Load = Memory, b.Load
	cfg.PIO = append(cfg.PIO, b.Windows()...)
	var err error
	b.m, err = vmm.New(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(b.ended)
		b.reason, b.err = b.m.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		b.End()
		<-b.ended
		require.NoError(t, b.m.Close())
	})
	return b
}

// end waits for the machine to end by itself.
func (b *box) end(t *testing.T) {
	t.Helper()
	select {
	case <-b.ended:
	case <-time.After(Timeout):
		t.Fatal("the machine goes on")
	}
}

// A guest that runs where no instruction can be read from makes an exit that
// nobody knows. The machine ends with a reason.
func TestMachine_T83_UnknownExit(t *testing.T) {
	b := run(t, vmm.Config{})
	require.NoError(t, b.CPU(0).Jump(uint64(hole)))
	b.end(t)
	require.NoError(t, b.err)
	switch b.reason.(type) {
	case vmm.InternalError, vmm.UnknownExit, vmm.TripleFault:
	default:
		t.Fatalf("ended with %T: %v", b.reason, b.reason)
	}
}

func TestMachine_T85_TripleFault(t *testing.T) {
	b := run(t, vmm.Config{})
	require.NoError(t, b.CPU(0).TripleFault())
	b.end(t)
	require.NoError(t, b.err)
	require.IsType(t, vmm.TripleFault{}, b.reason)
}

// A guest that halts for good can be paused, and ended.
func TestMachine_T85_Halt(t *testing.T) {
	b := run(t, vmm.Config{})
	require.NoError(t, b.CPU(0).Halt())
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	require.NoError(t, b.m.Pause(ctx))
	require.NoError(t, b.m.Resume())
	require.NoError(t, b.m.Close())
	require.Equal(t, vmm.Stopped{}, b.reason)
}

// Every port, every width, and strings: nothing but the exit port and the reset
// line does more than its device's own affairs.
func TestMachine_T84_EveryPort(t *testing.T) {
	var out counted
	b := run(t, vmm.Config{Serial: &out})
	c := b.CPU(0)
	skip := func(port int) bool { // what ends the machine, or talks to us
		return port >= portCommand-3 && port <= portVerdict || port >= boot.ExitPort-3 && port <= boot.ExitPort ||
			port >= 0x61 && port <= 0x64
	}
	step := 1
	if !full() {
		step = 3
	}
	for port := 0; port < 0x1000; port += step {
		if skip(port) {
			continue
		}
		for _, n := range []int{1, 2, 4} {
			require.NoError(t, c.Out(uint16(port), n, uint32(port)*0x01010101))
		}
		if port%16 == 0 {
			for _, n := range []int{1, 2, 4} {
				_, err := c.In(uint16(port), n)
				require.NoError(t, err)
			}
		}
	}
	for _, port := range []uint16{boot.SerialPort, boot.SerialPort + 5, boot.RTCPort, boot.RTCPort + 1, 0x60, 0x80, 0xcf8, 0xffff} {
		require.NoError(t, c.OutString(port, []byte(strings.Repeat("x", 5000))))
		require.NoError(t, c.InString(port, make([]byte, 5000)))
	}
	// The serial port can be set up and used afterwards.
	for _, w := range [][2]uint32{{3, 3}, {1, 0}, {2, 7}, {4, 3}} {
		require.NoError(t, c.Out(uint16(boot.SerialPort+w[0]), 1, w[1]))
	}
	before := out.n.Load()
	require.NoError(t, c.OutString(boot.SerialPort, []byte("alive")))
	require.NoError(t, c.Flush())
	require.EqualValues(t, 5, out.n.Load()-before)
}

type counted struct{ n atomic.Int64 }

func (c *counted) Write(p []byte) (int, error) { c.n.Add(int64(len(p))); return len(p), nil }

// Every width at every place of the address space's corners where no RAM is.
func TestMachine_T84_EveryWidthOfMMIO(t *testing.T) {
	b := run(t, vmm.Config{Virtio: []vmm.VirtioDevice{{Name: "rng", Device: bystander()}}})
	c := b.CPU(0)
	for _, at := range []uint64{Memory, 0xc0000000, 0xd0000ff8, 0xd0000ffc, 0xd0001000, 0xe0000000, 0xffffffe0, 1 << 32, 8<<30 - 64} {
		for _, n := range []int{1, 2, 4, 8} {
			for off := range uint64(9) {
				if at+off+uint64(n) > 8<<30 {
					continue
				}
				require.NoError(t, c.Store(at+off, n, ^uint64(0)))
			}
			_, err := c.Load(at+1, n)
			require.NoError(t, err)
		}
	}
	v, err := c.Load(0xd0000000, 4)
	require.NoError(t, err)
	require.EqualValues(t, 0x74726976, v)
}

// What a guest can provoke fills no log (T86), whatever it provokes.
func TestMachine_T86_Log(t *testing.T) {
	var lines counted
	b := run(t, vmm.Config{
		Virtio: []vmm.VirtioDevice{{Name: "rng", Device: bystander()}},
		Log:    slog.New(slog.NewTextHandler(&lineCounter{&lines}, nil)),
	})
	start := time.Now()
	d := vt.NewOver(t, Window{G: b.Guest, Base: boot.MMIODeviceBase, Fail: func(err error) { require.NoError(t, err) }}, RAM{b.Guest}, vt.Config{})
	for range 50 {
		d.Start()
		d.Ring(0).Offer(0xffff)
		d.Ring(0).Kick()
		d.WaitNeedsReset()
		d.Reset()
	}
	for range 500 {
		require.NoError(t, b.CPU(0).Store(uint64(hole), 4, 0))
		require.NoError(t, b.CPU(0).Out(0x99, 4, 0))
	}
	require.NoError(t, b.CPU(0).Flush())
	require.LessOrEqual(t, lines.n.Load(), 1+int64(time.Since(start)/time.Second))
}

type lineCounter struct{ c *counted }

func (l *lineCounter) Write(p []byte) (int, error) {
	l.c.n.Add(int64(strings.Count(string(p), "\n")))
	return len(p), nil
}

// A machine that is paused with requests in flight: the devices finish them,
// and nothing is lost.
func TestMachine_T41_PauseInFlight(t *testing.T) {
	s := newSubject(t, "blk")
	s.disk.slow(2 * time.Millisecond)
	b := run(t, vmm.Config{Virtio: []vmm.VirtioDevice{{Name: "blk", Device: s.dev}}})
	d := vt.NewOver(t, Window{G: b.Guest, Base: boot.MMIODeviceBase, Fail: func(err error) { require.NoError(t, err) }},
		RAM{b.Guest}, vt.Config{QueueSize: 32})
	d.Start()
	a := &attack{TB: t, s: s}
	r := d.Ring(0)
	in, out := d.Put(s.request), d.Alloc(uint64(s.room), 16)
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	flag := d.Alloc(8, 8)
	for round := range uint64(5) {
		for range 16 {
			r.Add(a.goodChain(in, out)...)
		}
		r.Kick()
		require.NoError(t, b.CPU(0).Spin(flag, uint32(round+1)))
		require.NoError(t, b.m.Pause(ctx))
		var used uint16
		for ctx.Err() == nil && used != r.AvailIdx { // seen by the host: the vCPUs stand still
			var err error
			used, err = b.m.Memory().LoadUint16(r.Used + 2)
			require.NoError(t, err)
			time.Sleep(time.Millisecond)
		}
		require.Equal(t, r.AvailIdx, used)
		require.NoError(t, b.m.Memory().StoreUint64(flag, round+1))
		require.NoError(t, b.m.Resume())
		for range 16 {
			r.Wait()
		}
	}
}

// Persistent memory whose file is made shorter under the guest: the machine
// ends with an error that the host can read, and this process goes on.
func TestMachine_T53_PersistentMemoryTruncated(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(4<<20))
	_, err = f.WriteAt([]byte("contents"), 0)
	require.NoError(t, err)
	b := run(t, vmm.Config{PMem: []vmm.PMemFile{{Name: "image", File: f}}})
	at := uint64(boot.PMem(boot.Ranges(Memory), 4<<20)[0].Base)
	v, err := b.CPU(0).Load(at, 8)
	require.NoError(t, err)
	require.EqualValues(t, 0x73746e65746e6f63, v)
	require.NoError(t, b.CPU(0).Store(at, 8, 0)) // read-only: goes nowhere
	v, err = b.CPU(0).Load(at, 8)
	require.NoError(t, err)
	require.EqualValues(t, 0x73746e65746e6f63, v)

	require.NoError(t, f.Truncate(0))
	_, err = b.CPU(0).post(cmdLoad8, at, 0, 0, nil, 0)
	require.NoError(t, err)
	require.NoError(t, b.CPU(0).begin())
	b.end(t)
	require.ErrorIs(t, b.err, vmm.ErrTruncated)
	for _, part := range []string{"image", f.Name(), "made shorter", "start it anew", "bad address"} {
		require.ErrorContains(t, b.err, part)
	}
}

// A disk whose file is made shorter: reads beyond its end fail, the others do
// not, and the device serves on.
func TestDisk_T53_FileTruncated(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(256*512))
	back, err := virtio.NewFileBackend(f, false)
	require.NoError(t, err)
	d := vt.New(t, virtio.NewBlk(virtio.BlkConfig{Backend: back}), vt.Config{})
	d.Start()
	a := &attack{TB: t}
	require.EqualValues(t, blkOK, a.request(d, blkIn, 200, nil, 4096))
	require.NoError(t, f.Truncate(100*512))
	require.EqualValues(t, blkIOErr, a.request(d, blkIn, 200, nil, 4096))
	require.EqualValues(t, blkIOErr, a.request(d, blkIn, 98, nil, 4096), "half of it is there")
	require.EqualValues(t, blkOK, a.request(d, blkIn, 0, nil, 4096))
	require.False(t, d.NeedsReset())
}

// A panic in a device of the platform, or of the caller's own, ends that device
// only; so does one in a virtio device's transport.
func TestMachine_T45_PanicOnAVCPU(t *testing.T) {
	var once sync.Once
	var lines counted
	b := run(t, vmm.Config{
		Log:    slog.New(slog.NewTextHandler(&lineCounter{&lines}, nil)),
		Serial: panicking{},
		PIO:    []vmm.Window{{Name: "faulty", Base: 0x700, Size: 4, Handler: faulty{}}},
		MMIO:   []vmm.Window{{Name: "faulty", Base: uint64(hole), Size: 4096, Handler: faulty{}}},
		Virtio: []vmm.VirtioDevice{{Name: "rng", Device: bystander()}},
	})
	c := b.CPU(0)
	for range 3 {
		for _, port := range []uint16{0x700, boot.SerialPort} {
			v, err := c.In(port, 1)
			require.NoError(t, err)
			require.NoError(t, c.Out(port, 1, 'x'))
			once.Do(func() { require.EqualValues(t, 0xff, v) })
		}
		v, err := c.Load(uint64(hole), 4)
		require.NoError(t, err)
		require.EqualValues(t, 0xffffffff, v)
		v, err = c.Load(0xd0000000, 4)
		require.NoError(t, err)
		require.EqualValues(t, 0x74726976, v)
	}
	require.EqualValues(t, 3, lines.n.Load(), "one line for each device")
	select {
	case <-b.ended:
		t.Fatal(fmt.Sprint("the machine ended: ", b.reason, b.err))
	default:
	}
}

type panicking struct{}

func (panicking) Write([]byte) (int, error) { panic("injected") }

type faulty struct{}

func (faulty) Read(uint64, []byte)  { panic("injected") }
func (faulty) Write(uint64, []byte) { panic("injected") }
