package virtio_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

const rx, tx = 0, 1

// wait is for what a goroutine on the host's side does.
func wait(t *testing.T, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, 10*time.Second, time.Millisecond)
}

func TestConsole_Output(t *testing.T) {
	var out lockedBuffer
	c := virtio.NewConsole(nil, &out, virtio.ConsoleOptions{})
	d := vt.New(t, c, vt.Config{})
	d.Start()
	require.Zero(t, d.Ring(tx).Do([]byte("Hello, "), 0).Used)
	require.Zero(t, d.Ring(tx).DoSplit([][]byte{[]byte("wor"), []byte("ld"), []byte("\x1b[0m")}).Used)
	// What the driver must not do, §5.3.6.1: a writable buffer to transmit.
	require.Zero(t, d.Ring(tx).Do([]byte("!"), 10).Used)
	wait(t, func() bool { return out.String() == "Hello, world\x1b[0m!" })

	big := bytes.Repeat([]byte("0123456789abcdef"), 20000) // more than the buffer
	for p := big; len(p) > 0; p = p[min(len(p), 65536):] {
		d.Ring(tx).Do(p[:min(len(p), 65536)], 0)
	}
	require.NoError(t, d.MMIO.Close())
	require.NoError(t, c.Close())
	<-c.Drained()
	require.True(t, out.String() == "Hello, world\x1b[0m!"+string(big))
}

func TestConsole_Input(t *testing.T) {
	in, host := io.Pipe()
	c := virtio.NewConsole(in, nil, virtio.ConsoleOptions{})
	defer c.Close()
	defer host.Close()
	d := vt.New(t, c, vt.Config{})
	d.Start()
	r := d.Ring(rx)
	a, b := d.Alloc(4, 4), d.Alloc(100, 4)
	ha := r.Add(vt.Buf{Addr: a, Len: 4, Write: true})
	hb := r.Add(vt.Buf{Addr: 0x100, Len: 0, Write: true}) // no room: comes back empty
	hc := r.Add(vt.Buf{Addr: b, Len: 100, Write: true})
	r.Kick()
	time.Sleep(20 * time.Millisecond) // the worker has seen the buffers and sleeps
	host.Write([]byte("input"))
	head, used := r.Wait()
	require.Equal(t, ha, head)
	require.EqualValues(t, 4, used)
	head, used = r.Wait()
	require.Equal(t, hb, head)
	require.Zero(t, used)
	head, used = r.Wait()
	require.Equal(t, hc, head)
	require.EqualValues(t, 1, used)
	require.Equal(t, "inpu", string(d.Get(a, 4)))
	require.Equal(t, "t", string(d.Get(b, 1)))

	// Without buffers nothing is lost, across a reset too.
	host.Write([]byte("later"))
	d.Start()
	r = d.Ring(rx)
	b = d.Alloc(100, 4)
	r.Add(vt.Buf{Addr: b, Len: 100, Write: true})
	r.Kick()
	_, used = r.Wait()
	require.Equal(t, "later", string(d.Get(b, int(used))))
}

// A guest that does not read costs the host a buffer's worth, not more.
func TestConsole_T82_InputBackPressure(t *testing.T) {
	var read atomic.Int64
	c := virtio.NewConsole(&endless{&read}, nil, virtio.ConsoleOptions{})
	defer c.Close()
	d := vt.New(t, c, vt.Config{})
	d.Start()
	last := int64(-1)
	wait(t, func() bool {
		n := read.Load()
		stalled := n == last && n > 0
		last = n
		time.Sleep(10 * time.Millisecond)
		return stalled
	})
	require.Less(t, read.Load(), int64(100<<10))

	// And when it reads again, it goes on, in order and without a gap.
	r := d.Ring(rx)
	var got []byte
	for len(got) < 300<<10 {
		a := d.Alloc(4096, 8)
		r.Add(vt.Buf{Addr: a, Len: 4096, Write: true})
		r.Kick()
		_, used := r.Wait()
		got = append(got, d.Get(a, int(used))...)
	}
	for i := range len(got) / 8 {
		require.EqualValues(t, i, binary.LittleEndian.Uint64(got[i*8:]))
	}
}

// endless gives 0, 1, 2, … in eight bytes each.
type endless struct{ n *atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	for i := range len(p) / 8 {
		binary.LittleEndian.PutUint64(p[i*8:], uint64(e.n.Load()/8))
		e.n.Add(8)
	}
	return len(p) / 8 * 8, nil
}

// A host that does not take the output stops the guest's output, but neither a
// reset nor Close.
func TestConsole_T82_StuckOutput(t *testing.T) {
	release := make(chan struct{})
	var out lockedBuffer
	c := virtio.NewConsole(nil, writerFunc(func(p []byte) (int, error) { <-release; return out.Write(p) }), virtio.ConsoleOptions{})
	d := vt.New(t, c, vt.Config{})
	d.Start()
	r := d.Ring(tx)
	a := d.Put(bytes.Repeat([]byte{'x'}, 16<<10))
	for range 20 {
		r.Add(vt.Buf{Addr: a, Len: 16 << 10})
	}
	r.Kick()
	time.Sleep(50 * time.Millisecond)
	require.Less(t, int(r.DeviceUsedIdx()), 8, "buffered without a bound")
	start := time.Now()
	d.Reset()
	d.Start()
	d.Ring(tx).Add(vt.Buf{Addr: a, Len: 16 << 10})
	d.Ring(tx).Kick()
	require.NoError(t, d.MMIO.Close())
	require.NoError(t, c.Close())
	require.Less(t, time.Since(start), vt.Timeout)
	close(release)
	<-c.Drained()
	require.LessOrEqual(t, len(out.String()), 100<<10)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestConsole_T82_OutputRate(t *testing.T) {
	const rate = 200 << 10
	var out lockedBuffer
	c := virtio.NewConsole(nil, &out, virtio.ConsoleOptions{Rate: rate})
	defer c.Close()
	d := vt.New(t, c, vt.Config{})
	d.Start()
	p := make([]byte, 20<<10)
	start := time.Now()
	for range 15 { // 300 KiB: half a second beyond the burst
		d.Ring(tx).Do(p, 0)
	}
	require.Greater(t, time.Since(start), 300*time.Millisecond)
}

// The host's reader and writer panic in goroutines of the console's: the guest
// does not notice, and neither does the monitor.
func TestConsole_T45_HostPanics(t *testing.T) {
	var n atomic.Int32
	out := writerFunc(func(p []byte) (int, error) {
		if n.Add(1) == 1 {
			panic("injected")
		}
		return len(p), nil
	})
	c := virtio.NewConsole(readerFunc(func([]byte) (int, error) { panic("injected") }), out, virtio.ConsoleOptions{})
	d := vt.New(t, c, vt.Config{})
	d.Start()
	for i := range int32(3) {
		d.Ring(tx).Do([]byte("text"), 0)
		wait(t, func() bool { return n.Load() > i })
	}
	require.False(t, d.NeedsReset())
	require.NoError(t, d.MMIO.Close())
	require.NoError(t, c.Close())
	<-c.Drained()
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestConsole_Resize(t *testing.T) {
	c := virtio.NewConsole(nil, nil, virtio.ConsoleOptions{Cols: 80, Rows: 24})
	defer c.Close()
	d := vt.New(t, c, vt.Config{})
	size := func() [2]uint16 {
		p := d.Load(vt.ConfigSpace, 4)
		return [2]uint16{binary.LittleEndian.Uint16(p), binary.LittleEndian.Uint16(p[2:])}
	}
	require.Equal(t, [2]uint16{80, 24}, size())
	gen := d.Load32(vt.ConfigGeneration)
	c.Resize(100, 30) // before there is a driver
	require.Equal(t, [2]uint16{100, 30}, size())
	require.NotEqual(t, gen, d.Load32(vt.ConfigGeneration))
	require.Zero(t, d.IRQ.Count())

	d.Start()
	gen = d.Load32(vt.ConfigGeneration)
	c.Resize(100, 30)
	require.Equal(t, gen, d.Load32(vt.ConfigGeneration))
	require.Zero(t, d.IRQ.Count())
	c.Resize(120, 40)
	require.Equal(t, 1, d.IRQ.Count())
	require.EqualValues(t, virtio.InterruptConfig, d.Load32(vt.InterruptStatus))
	require.Equal(t, [2]uint16{120, 40}, size())
	require.NotEqual(t, gen, d.Load32(vt.ConfigGeneration))
	d.Store(vt.ConfigSpace, []byte{1, 1, 1, 1})
	require.Equal(t, [2]uint16{120, 40}, size())

	// A driver that does not know about sizes is left alone.
	plain := vt.New(t, c, vt.Config{Without: 1})
	plain.Start()
	c.Resize(1, 2)
	require.Zero(t, plain.IRQ.Count())
}

func TestConsole_CloseUnused(t *testing.T) {
	c := virtio.NewConsole(nil, nil, virtio.ConsoleOptions{})
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	<-c.Drained()
}

func TestGuestConfigs(t *testing.T) {
	all := virtio.GuestConfigs()
	for _, dev := range []interface{ GuestConfigs() []string }{&virtio.Blk{}, &virtio.RNG{}, &virtio.Console{}} {
		require.Subset(t, all, dev.GuestConfigs())
	}
	for _, c := range all {
		require.Regexp(t, `^CONFIG_[A-Z0-9_]+$`, c)
	}
}
