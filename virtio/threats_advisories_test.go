package virtio_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// Past bugs of systems like this one, tried on this one. docs/threats.md has the
// list.

// Firecracker's PCI transport let a driver write queue registers after
// DRIVER_OK. Every offset, width and value, in every state from QueueReady on:
// the device works on what was checked.
func TestAdvisory_CVE_2026_5747(t *testing.T) {
	for _, status := range []uint32{ack | driver | featuresOK, ack | driver | featuresOK | driverOK, ack | driver | featuresOK | driverOK | failed} {
		p := &probe{sizes: []uint16{16, 16}, serve: echo}
		d := vt.New(t, p, vt.Config{MemSize: 64 << 10})
		require.True(t, d.Negotiate(d.Offered()))
		r := d.SetupQueue(0, 16)
		other := d.Alloc(4096, 4096)
		if status&driverOK != 0 {
			d.DriverOK()
			d.Store32(vt.Status, status)
		}
		for _, sel := range []uint32{0, 1, 2, 0xffffffff} {
			for off := uint64(vt.QueueSel); off < vt.ConfigSpace; off++ {
				if off == vt.Status || off == vt.QueueReady && status&driverOK == 0 {
					continue // resets, or takes the queue back: both are the driver's right
				}
				for _, n := range []int{1, 2, 4, 8} {
					for _, v := range []uint64{0, 1, 0xffff, 0x10000, uint64(other), ^uint64(0)} {
						d.Store32(vt.QueueSel, sel)
						d.Store(off, binary.LittleEndian.AppendUint64(nil, v)[:n])
					}
				}
			}
		}
		d.Store32(vt.QueueSel, 0)
		require.EqualValues(t, 1, d.Load32(vt.QueueReady))
		if status&driverOK == 0 {
			d.DriverOK()
		}
		s := p.act.Queues[0].State()
		require.Equal(t, [4]uint64{16, uint64(r.Desc), uint64(r.Avail), uint64(r.Used)},
			[4]uint64{uint64(s.Size), uint64(s.Desc), uint64(s.Avail), uint64(s.Used)})
		require.EqualValues(t, 4, r.Do([]byte("ping"), 4).Used)
	}
}

// Firecracker's vsock read and wrote beyond the end of guest memory when a
// packet's buffer crossed it.
func TestAdvisory_CVE_2019_18960(t *testing.T) {
	end := vt.HighBase + 8<<20
	for _, b := range []vt.Buf{
		{Addr: end - 100, Len: 200}, {Addr: end - 44, Len: 64 << 10}, {Addr: end - 1, Len: 0xffffffff},
		{Addr: ^guestmem.GPA(0) - 50, Len: 200}, {Addr: vt.LowSize - 50, Len: 100},
	} {
		for queue, write := range map[int]bool{0: true, 1: false} {
			v, d := vsockDriver(t, vt.Config{})
			_, err := v.Listen(1024)
			require.NoError(t, err)
			b.Write = write
			r := d.Ring(queue)
			if write { // a good header of a packet, then the bad buffer
				r.Add(vt.Buf{Addr: d.Alloc(44, 16), Len: 44, Write: true}, b)
			} else {
				r.Add(vt.Buf{Addr: d.Put(vsockHdr(guestOpRW, 5, 1024, b.Len)), Len: 44}, b)
			}
			r.Kick()
			if write { // something to send
				d.Ring(1).Add(vt.Buf{Addr: d.Put(vsockHdr(guestOpRW, 5, 1024, 0)), Len: 44})
				d.Ring(1).Kick()
			}
			d.WaitNeedsReset()
			require.Zero(t, r.DeviceUsedIdx())
		}
	}
	// A length beyond the buffers, with more memory right behind them.
	v, d := vsockDriver(t, vt.Config{})
	l, err := v.Listen(1024)
	require.NoError(t, err)
	c := vsockAccept(t, d, l, 5)
	d.Ring(1).Do(append(vsockHdr(guestOpRW, 5, 1024, 4096), "short"...), 0)
	require.EqualValues(t, guestOpRst, vsockOp(vsockRecv(t, d)))
	n, err := c.Read(make([]byte, 4096))
	require.Error(t, err)
	require.Zero(t, n, "read beyond the packet")
}

// rust-vmm's queue, and Firecracker with it, went round and round when the
// available index was further ahead than the queue is long.
func TestAdvisory_vm_virtio_196(t *testing.T) {
	var served atomic.Int64
	for _, jump := range []uint16{17, 0x100, 0x8000, 0xfff0, 0xffff} {
		served.Store(0)
		d, _ := serving(t, func(*virtio.Chain) error { served.Add(1); return nil }, vt.Config{QueueSize: 16, MemSize: 64 << 10})
		r := d.Ring(0)
		r.Add(vt.Buf{Addr: 0x100, Len: 1})
		r.Kick()
		r.Wait()
		r.SetAvailIdx(r.AvailIdx + jump)
		r.Kick()
		d.WaitNeedsReset()
		require.LessOrEqual(t, served.Load(), int64(1+16))
	}
}

// Cloud Hypervisor took a raw disk for another format by what the guest had
// written to it.
func TestAdvisory_CVE_2026_27211(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(path, make([]byte, 64*512), 0o600))
	for _, magic := range []string{
		"QFI\xfb\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x68\x00\x00\x00\x0b", "KDMV\x01\x00\x00\x00", "vhdxfile", "conectix", "<<< Oracle VM VirtualBox Disk Image >>>",
	} {
		sector := make([]byte, 512)
		copy(sector, magic)
		copy(sector[0x68:], "/etc/passwd")
		for start := range 2 { // written, and found after a restart
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			require.NoError(t, err)
			back, err := virtio.NewFileBackend(f, false)
			require.NoError(t, err)
			require.EqualValues(t, 64*512, back.Size())
			d := &disk{Driver: vt.New(t, virtio.NewBlk(virtio.BlkConfig{Backend: back}), vt.Config{})}
			d.Start()
			if start == 0 {
				_, st := d.do(blkOut, 0, sector, 0)
				require.EqualValues(t, blkOK, st)
			}
			r, st := d.do(blkIn, 0, nil, 64*512)
			require.EqualValues(t, blkOK, st)
			require.Equal(t, append(sector, make([]byte, 63*512)...), r.Data[:64*512])
			require.NoError(t, d.MMIO.Close())
			require.NoError(t, f.Close())
		}
	}
}

// slowDisk is a disk whose transfers wait until they are let go.
type slowDisk struct {
	memDisk
	entered chan struct{}
	release chan struct{}
}

func (s *slowDisk) PreadV(bufs [][]byte, off int64) (int, error) {
	s.entered <- struct{}{}
	<-s.release
	return s.memDisk.PreadV(bufs, off)
}

// Cloud Hypervisor's block requests completed into memory that a reset had
// given back.
func TestAdvisory_CVE_2026_45782(t *testing.T) {
	back := &slowDisk{memDisk: memDisk{data: bytes.Repeat([]byte{7}, 64*512)}, entered: make(chan struct{}, 64), release: make(chan struct{})}
	d := &disk{Driver: vt.New(t, virtio.NewBlk(virtio.BlkConfig{Backend: back}), vt.Config{})}
	d.Start()
	r := d.Ring(0)
	var data []guestmem.GPA
	for range 32 {
		a := d.Alloc(513, 16)
		data = append(data, a)
		r.Add(vt.Buf{Addr: d.Put(header(blkIn, 1)), Len: 16}, vt.Buf{Addr: a, Len: 513, Write: true})
	}
	r.Kick()
	<-back.entered
	var wg sync.WaitGroup
	var before []byte
	wg.Go(func() {
		time.Sleep(20 * time.Millisecond)
		close(back.release)
	})
	d.Store32(vt.Status, 0) // waits for the transfer that is under way
	require.Zero(t, d.Status())
	for _, a := range data {
		before = append(before, d.Get(a, 513)...)
	}
	used := r.DeviceUsedIdx()
	wg.Wait()
	time.Sleep(20 * time.Millisecond)
	var after []byte
	for _, a := range data {
		after = append(after, d.Get(a, 513)...)
	}
	require.Equal(t, before, after)
	require.Equal(t, used, r.DeviceUsedIdx())
	require.Zero(t, d.IRQ.Count())
	require.Empty(t, back.entered, "a request was begun after the reset")
}

// Cloud Hypervisor's devices asserted what drivers write: a queue beyond the
// last, a balloon's actual, accesses that are short or misaligned.
func TestAdvisory_CloudHypervisor_7918(t *testing.T) {
	devices := map[string]func() virtio.Device{
		"blk": func() virtio.Device {
			return virtio.NewBlk(virtio.BlkConfig{Backend: &memDisk{data: make([]byte, 512)}})
		},
		"rng":     func() virtio.Device { return virtio.NewRNG(zeroes{}) },
		"console": func() virtio.Device { return virtio.NewConsole(nil, nil, virtio.ConsoleOptions{}) },
		"pmem":    func() virtio.Device { return virtio.NewPMem(1<<32, 2<<20) },
		"vsock":   func() virtio.Device { return virtio.NewVsock(virtio.VsockConfig{}) },
		"balloon": func() virtio.Device { return virtio.NewBalloon(virtio.BalloonConfig{Stats: true}) },
	}
	for name, dev := range devices {
		t.Run(name, func(t *testing.T) {
			d := vt.New(t, dev(), vt.Config{MemSize: 256 << 10, QueueSize: 8})
			for _, started := range []bool{false, true} {
				if started {
					d.Start()
				}
				for _, sel := range []uint32{0, 7, 0x80000000, 0xffffffff} {
					for off := uint64(0); off < 0x160; off++ {
						for n := range 17 {
							if off == vt.Status && n == 4 {
								continue
							}
							d.Store32(vt.QueueSel, sel)
							d.Store(off, bytes.Repeat([]byte{byte(off) * 31}, n))
							d.Load(off, n)
						}
					}
				}
				for _, off := range []uint64{0xffe, 0xfff, 0x1000, 1 << 32, ^uint64(0) - 3, ^uint64(0)} {
					d.Store(off, make([]byte, 8))
					require.Equal(t, make([]byte, 8), d.Load(off, 8))
				}
			}
			d.CheckAlive()
		})
	}
}

// Cloud Hypervisor's block device kept a request that was a header only, and its
// queue stalled.
func TestAdvisory_CloudHypervisor_8401(t *testing.T) {
	d := newDisk(t, 8, virtio.BlkConfig{}, vt.Config{QueueSize: 16})
	for range 100 {
		for _, kind := range []uint32{blkIn, blkOut, blkFlush, blkGetID, blkDiscard, 99} {
			require.Zero(t, d.Ring(0).Do(header(kind, 0), 0).Used) // fails if the head does not come back
		}
		require.Zero(t, d.Ring(0).Do(header(blkIn, 0)[:3], 0).Used)
	}
	_, st := d.do(blkIn, 0, nil, 512)
	require.EqualValues(t, blkOK, st)
	require.False(t, d.NeedsReset())
}

// QEMU kept what it popped, however much was submitted without waiting for an
// answer.
func TestAdvisory_CVE_2016_5403(t *testing.T) {
	v, d := vsockDriver(t, vt.Config{})
	disk := newDisk(t, 8, virtio.BlkConfig{}, vt.Config{})
	packet := d.Put(vsockHdr(guestOpRW, 7, 9999, 0)) // answered with a reset that nobody reads
	request := disk.Put(header(blkIn, 0))
	room := disk.Alloc(513, 16)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for range 2000 {
		for range 32 {
			d.Ring(1).Add(vt.Buf{Addr: packet, Len: 44})
			disk.Ring(0).Add(vt.Buf{Addr: request, Len: 16}, vt.Buf{Addr: room, Len: 513, Write: true})
		}
		d.Ring(1).Kick()
		disk.Ring(0).Kick()
		for range 32 {
			d.Ring(1).Wait()
			disk.Ring(0).Wait()
		}
	}
	require.Less(t, heap(), before+1<<20)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := v.Dial(ctx, 1)
	require.Error(t, err)
}

// QEMU's block device wrote an answer without looking at how much room there was
// for it.
func TestAdvisory_CVE_2026_48914(t *testing.T) {
	d := newDisk(t, 8, virtio.BlkConfig{ID: "01234567890123456789"}, vt.Config{})
	canary := bytes.Repeat([]byte{0xd7}, 1024)
	at := d.Put(canary)
	for _, kind := range []uint32{blkIn, blkOut, 2, 3, blkFlush, blkGetID, blkDiscard, blkWriteZeroes, 14, 16, 99} {
		for _, n := range []uint32{0, 1, 2, 3, 19, 20, 21, 22, 36, 95, 96, 511, 512, 513, 514} {
			require.NoError(t, d.Mem.WriteAt(canary, at))
			r := d.Ring(0)
			r.Add(vt.Buf{Addr: d.Put(header(kind, 0)), Len: 16}, vt.Buf{Addr: at + 256, Len: n, Write: true})
			r.Kick()
			_, used := r.Wait()
			require.LessOrEqual(t, used, n, "type %d, room %d", kind, n)
			require.Equal(t, canary[:256], d.Get(at, 256))
			require.Equal(t, canary[256+n:], d.Get(at+256+guestmem.GPA(n), 1024-256-int(n)), "type %d, room %d", kind, n)
		}
	}
}
