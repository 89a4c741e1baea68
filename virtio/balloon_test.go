package virtio_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// Queues and features of a balloon, virtio 1.2 §5.5.2 and §5.5.3.
const (
	inflateQueue = 0
	deflateQueue = 1
	statsQueue   = 2
	reportQueue  = 4

	balloonStats     = 1 << 1
	balloonOnOOM     = 1 << 2
	balloonReporting = 1 << 5

	pageSize = guestmem.PageSize
)

// pfns is the array that a driver inflates or deflates with.
func pfns(addrs ...guestmem.GPA) []byte {
	var b []byte
	for _, a := range addrs {
		b = binary.LittleEndian.AppendUint32(b, uint32(a/pageSize))
	}
	return b
}

// pages returns n whole pages of the driver's, full of a pattern.
func pages(t *testing.T, d *vt.Driver, n int) []guestmem.GPA {
	t.Helper()
	start := d.Alloc(uint64(n)*pageSize, pageSize)
	var all []guestmem.GPA
	for i := range n {
		a := start + guestmem.GPA(i)*pageSize
		require.NoError(t, d.Mem.WriteAt(bytes.Repeat([]byte{0xa5}, pageSize), a))
		all = append(all, a)
	}
	return all
}

// gone reports whether a page is zeros, as it is when next touched.
func gone(d *vt.Driver, a guestmem.GPA) bool {
	return bytes.Equal(d.Get(a, pageSize), make([]byte, pageSize))
}

// report sends ranges as the free page reporting queue gets them.
func report(r *vt.Ring, bufs ...vt.Buf) {
	for i := range bufs {
		bufs[i].Write = true
	}
	r.Add(bufs...)
	r.Kick()
	r.Wait()
}

func startBalloon(t *testing.T, c virtio.BalloonConfig, cfg vt.Config) (*vt.Driver, *virtio.Balloon) {
	t.Helper()
	b := virtio.NewBalloon(c)
	d := vt.New(t, b, cfg)
	d.Start()
	return d, b
}

func TestBalloon_Target(t *testing.T) {
	d, b := startBalloon(t, virtio.BalloonConfig{}, vt.Config{})
	require.Zero(t, d.Load32(vt.ConfigSpace))
	generation := d.Load32(vt.ConfigGeneration)
	b.SetTarget(10*pageSize + 1)
	require.EqualValues(t, 10, d.Load32(vt.ConfigSpace))
	require.Equal(t, 1, d.IRQ.Count())
	require.EqualValues(t, virtio.InterruptConfig, d.Load32(vt.InterruptStatus))
	require.NotEqual(t, generation, d.Load32(vt.ConfigGeneration))
	b.SetTarget(10 * pageSize)
	require.Equal(t, 1, d.IRQ.Count(), "nothing changed")

	require.Zero(t, b.Size())
	d.Store32(vt.ConfigSpace+4, 7)
	require.EqualValues(t, 7*pageSize, b.Size())
	require.EqualValues(t, 7, d.Load32(vt.ConfigSpace+4))
	d.Store32(vt.ConfigSpace, 99) // not the driver's
	require.EqualValues(t, 10, d.Load32(vt.ConfigSpace))

	d.Start() // after a reset the target is still there, what the driver said is not
	require.EqualValues(t, 10, d.Load32(vt.ConfigSpace))
	require.Zero(t, b.Size())
	b.SetTarget(math.MaxUint64)
	require.EqualValues(t, math.MaxUint32, d.Load32(vt.ConfigSpace))
	told := d.IRQ.Count()
	d.Reset()
	b.SetTarget(0) // nobody to tell
	require.Equal(t, told, d.IRQ.Count())
}

func TestBalloon_Inflate(t *testing.T) {
	for _, cfg := range []vt.Config{{}, {Memfd: true}} {
		d, b := startBalloon(t, virtio.BalloonConfig{}, cfg)
		p := pages(t, d, 10)
		ring := d.Ring(inflateQueue)
		// Ascending, descending, twice, alone, and in pieces.
		given := []guestmem.GPA{p[0], p[1], p[2], p[6], p[5], p[5], p[8]}
		arr := pfns(given...)
		require.Zero(t, ring.DoSplit([][]byte{arr[:6], arr[6:7], arr[7:]}).Used)
		for i, a := range p {
			require.Equal(t, slices.Contains(given, a), gone(d, a), "page %d", i)
		}
		require.Equal(t, virtio.BalloonCounters{Inflated: 7 * pageSize}, b.Counters())
		require.Zero(t, d.Ring(deflateQueue).Do(pfns(p[0], p[1]), 0).Used)
		require.EqualValues(t, 2*pageSize, b.Counters().Deflated)
		require.NoError(t, d.Mem.WriteAt([]byte("used again"), p[0]))
		require.Equal(t, "used again", string(d.Get(p[0], 10)))
	}
}

func TestBalloon_Report(t *testing.T) {
	d, b := startBalloon(t, virtio.BalloonConfig{}, vt.Config{})
	p := pages(t, d, 8)
	report(d.Ring(reportQueue), vt.Buf{Addr: p[0], Len: 2 * pageSize}, vt.Buf{Addr: p[4], Len: pageSize})
	for i, a := range p {
		require.Equal(t, i == 0 || i == 1 || i == 4, gone(d, a), "page %d", i)
	}
	require.Equal(t, virtio.BalloonCounters{Reported: 3 * pageSize}, b.Counters())
}

// Linux numbers the queues that exist one after the other; the specification
// leaves gaps. A driver of either kind reports.
func TestBalloon_ReportingQueueByEitherCount(t *testing.T) {
	for _, tt := range []struct {
		config  virtio.BalloonConfig
		without uint64
		queue   int
	}{
		{virtio.BalloonConfig{}, 0, 2},
		{virtio.BalloonConfig{}, 0, 4},
		{virtio.BalloonConfig{Stats: true}, 0, 3},
		{virtio.BalloonConfig{Stats: true}, 0, 4},
		{virtio.BalloonConfig{Stats: true}, balloonStats, 2},
	} {
		d, _ := startBalloon(t, tt.config, vt.Config{Without: tt.without})
		p := pages(t, d, 2)
		report(d.Ring(tt.queue), vt.Buf{Addr: p[0], Len: pageSize})
		require.True(t, gone(d, p[0]), "%+v", tt)
		require.False(t, gone(d, p[1]))
	}
}

func TestBalloon_WithoutReporting(t *testing.T) {
	for _, d := range []*vt.Driver{
		func() *vt.Driver {
			d, _ := startBalloon(t, virtio.BalloonConfig{NoReporting: true, NoDeflateOnOOM: true}, vt.Config{})
			require.Zero(t, d.Offered()&(balloonReporting|balloonOnOOM|balloonStats))
			return d
		}(),
		func() *vt.Driver {
			d, _ := startBalloon(t, virtio.BalloonConfig{}, vt.Config{Without: balloonReporting})
			require.NotZero(t, d.Offered()&balloonReporting)
			return d
		}(),
	} {
		p := pages(t, d, 1)
		report(d.Ring(reportQueue), vt.Buf{Addr: p[0], Len: pageSize})
		require.False(t, gone(d, p[0]))
	}
}

// All of memory may be free at once: more than other queues' chains may have.
func TestBalloon_ReportsAreLong(t *testing.T) {
	d, b := startBalloon(t, virtio.BalloonConfig{}, vt.Config{MemSize: 32 << 20})
	a := d.Alloc(16<<20, 2<<20)
	var bufs []vt.Buf
	for i := range 8 {
		bufs = append(bufs, vt.Buf{Addr: a + guestmem.GPA(i)<<21, Len: 2 << 20})
	}
	report(d.Ring(reportQueue), bufs...)
	require.EqualValues(t, 16<<20, b.Counters().Reported)
	// But not more than there is: who says so counts something twice.
	bufs = append(append(bufs, bufs...), bufs...)
	for i := range bufs {
		bufs[i].Write = true
	}
	d.Ring(reportQueue).Add(bufs...)
	d.Ring(reportQueue).Kick()
	d.WaitNeedsReset()
	d.CheckAlive()
}

func TestBalloon_T78_PageNumbersOutsideRAM(t *testing.T) {
	d, b := startBalloon(t, virtio.BalloonConfig{}, vt.Config{})
	p := pages(t, d, 3)
	regions := d.Mem.Regions()
	last := regions[len(regions)-1].End()
	arr := pfns(p[0], vt.LowSize, last, last+pageSize, p[2], 0xffffffff*pageSize)
	require.Zero(t, d.Ring(inflateQueue).Do(append(arr, 1, 2, 3), 64).Used, "nothing is written, and a part of a number is none")
	require.True(t, gone(d, p[0]))
	require.False(t, gone(d, p[1]))
	require.True(t, gone(d, p[2]))
	require.Equal(t, virtio.BalloonCounters{Inflated: 2 * pageSize, Ignored: 4*pageSize + 3}, b.Counters())
	for _, empty := range [][]byte{nil, {1}, {1, 2, 3}} {
		require.Zero(t, d.Ring(inflateQueue).Do(empty, 1).Used)
	}
	require.False(t, d.NeedsReset())
}

func TestBalloon_T78_ActualSaturates(t *testing.T) {
	d, b := startBalloon(t, virtio.BalloonConfig{}, vt.Config{})
	d.Store32(vt.ConfigSpace+4, math.MaxUint32)
	require.Equal(t, d.Mem.Size(), b.Size())
	// In bytes, across the field's edges, and beyond the space.
	d.Store32(vt.ConfigSpace+4, 0)
	d.Store(vt.ConfigSpace+3, []byte{9, 5})
	require.EqualValues(t, 5*pageSize, b.Size())
	d.Store(vt.ConfigSpace+7, []byte{1, 9, 9, 9, 9, 9, 9, 9})
	require.Equal(t, d.Mem.Size(), b.Size())
	d.Store(virtio.WindowSize-1, []byte{1, 2, 3, 4})
	require.Equal(t, make([]byte, 4), d.Load(vt.ConfigSpace, 4))
	require.Equal(t, make([]byte, 8), d.Load(vt.ConfigSpace+8, 8))
}

func TestBalloon_T79_PartsOfPages(t *testing.T) {
	d, b := startBalloon(t, virtio.BalloonConfig{}, vt.Config{})
	p := pages(t, d, 4)
	r := d.Ring(reportQueue)
	report(r, vt.Buf{Addr: p[0] + 1, Len: 2*pageSize - 2})
	require.Equal(t, virtio.BalloonCounters{Ignored: 2*pageSize - 2}, b.Counters())
	report(r, vt.Buf{Addr: p[0] + 8, Len: 2*pageSize + 8}) // the second, whole
	require.EqualValues(t, pageSize, b.Counters().Reported)
	require.False(t, gone(d, p[0]))
	require.True(t, gone(d, p[1]))
	require.False(t, gone(d, p[2]))
	require.Equal(t, byte(0xa5), d.Get(p[2], 1)[0], "its first bytes neither")
	require.Zero(t, r.Do([]byte("readable buffers say nothing"), 0).Used)
	require.False(t, d.NeedsReset())
}

func TestBalloon_T79_OutsideRAM(t *testing.T) {
	for _, a := range []guestmem.GPA{vt.LowSize, vt.HighBase - pageSize, 1 << 40, math.MaxUint64 - pageSize + 1} {
		d, b := startBalloon(t, virtio.BalloonConfig{}, vt.Config{})
		d.Ring(reportQueue).Add(vt.Buf{Addr: a, Len: 2 * pageSize, Write: true})
		d.Ring(reportQueue).Kick()
		d.WaitNeedsReset()
		require.Zero(t, b.Counters().Reported)
		d.CheckAlive()
	}
}

// A driver that gives everything away, its rings included, has itself to blame:
// the device wants a reset at worst.
func TestBalloon_T80_InflateAllThenTouch(t *testing.T) {
	d, b := startBalloon(t, virtio.BalloonConfig{}, vt.Config{Memfd: true})
	var all []guestmem.GPA
	for _, r := range d.Mem.Regions() {
		for a := r.Base; a < r.End(); a += pageSize {
			all = append(all, a)
		}
	}
	a := d.Put(pfns(all...))
	d.Ring(inflateQueue).Add(vt.Buf{Addr: a, Len: uint32(4 * len(all))})
	d.Ring(inflateQueue).Kick()
	require.Eventually(t, func() bool { return b.Counters().Inflated+b.Counters().Ignored > 0 }, vt.Timeout, time.Millisecond)
	for _, r := range d.Mem.Regions() {
		for i := range r.Bytes() {
			r.Bytes()[i] = 1
		}
	}
	d.CheckAlive()
	p := pages(t, d, 1)
	require.Zero(t, d.Ring(inflateQueue).Do(pfns(p[0]), 0).Used)
	require.True(t, gone(d, p[0]))
}

func TestBalloon_T80_DeflateStorm(t *testing.T) {
	d, b := startBalloon(t, virtio.BalloonConfig{}, vt.Config{})
	p := pages(t, d, 1)
	arr := bytes.Repeat(pfns(p[0]), 1000)
	before := b.Counters()
	for range 200 {
		d.Ring(deflateQueue).Do(arr, 0)
	}
	require.EqualValues(t, 200*1000*pageSize, b.Counters().Deflated-before.Deflated)
	require.False(t, gone(d, p[0]), "deflating changes no page")
	allocs := testing.AllocsPerRun(100, func() { b.Counters() })
	require.Zero(t, allocs)
}

// A long array does not delay a reset by more than a moment.
func TestBalloon_T80_ResetDuringInflate(t *testing.T) {
	d, _ := startBalloon(t, virtio.BalloonConfig{}, vt.Config{Memfd: true, MemSize: 16 << 20})
	p := pages(t, d, 3)
	a := d.Put(bytes.Repeat(pfns(p[0], p[2]), 300_000)) // no two neighbours
	d.Ring(inflateQueue).Add(vt.Buf{Addr: a, Len: 2_400_000})
	d.Ring(inflateQueue).Kick()
	start := time.Now()
	d.Reset()
	require.Less(t, time.Since(start), time.Second)
	d.CheckAlive()
}

func stat(tag uint16, v uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint16(nil, tag), v)
}

func TestBalloon_T80_Stats(t *testing.T) {
	d, b := startBalloon(t, virtio.BalloonConfig{Stats: true}, vt.Config{})
	ctx, cancel := context.WithTimeout(context.Background(), vt.Timeout)
	defer cancel()
	r := d.Ring(statsQueue)
	r.Add(vt.Buf{Addr: d.Put(stat(4, 1)), Len: 10})
	r.Kick()

	type answer struct {
		stats virtio.BalloonStats
		err   error
	}
	answers := make(chan answer, 1)
	ask := func() {
		go func() {
			s, err := b.Stats(ctx)
			for err == virtio.ErrNoStats && ctx.Err() == nil { // the driver has not been heard yet
				time.Sleep(time.Millisecond)
				s, err = b.Stats(ctx)
			}
			answers <- answer{s, err}
		}()
		r.Wait()
	}
	// Any order; unknown tags, and half an entry at the end, are ignored.
	ask()
	fresh := slices.Concat(stat(6, 66), stat(0xffff, 9), stat(10, 9), stat(0, 11), stat(4, 44), stat(9, 99), []byte{5, 0, 1})
	r.Add(vt.Buf{Addr: d.Put(fresh), Len: uint32(len(fresh))})
	r.Kick()
	require.Equal(t, answer{virtio.BalloonStats{Available: 66, SwapIn: 11, Free: 44, HugeFailed: 99}, nil}, <-answers)

	// A driver that never answers holds up nobody who does not want to wait.
	short, cancelShort := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancelShort()
	_, err := b.Stats(short)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	go func() {
		s, err := b.Stats(ctx)
		answers <- answer{s, err}
	}()
	time.Sleep(10 * time.Millisecond)
	d.Reset()
	require.Equal(t, answer{err: virtio.ErrNoStats}, <-answers)
	_, err = b.Stats(ctx)
	require.ErrorIs(t, err, virtio.ErrNoStats)
}

func TestBalloon_T80_StatsWithoutEnd(t *testing.T) {
	d, b := startBalloon(t, virtio.BalloonConfig{Stats: true}, vt.Config{})
	ctx, cancel := context.WithTimeout(context.Background(), vt.Timeout)
	defer cancel()
	long := bytes.Repeat(stat(4, 4), 100_000)
	r := d.Ring(statsQueue)
	for range 8 { // more buffers than it may leave
		r.Add(vt.Buf{Addr: d.Put(long[:1000]), Len: 1000})
	}
	r.Add(vt.Buf{Addr: d.Put(long), Len: uint32(len(long))})
	r.Kick()
	var err error
	require.Eventually(t, func() bool {
		_, err = b.Stats(ctx)
		return err == nil
	}, vt.Timeout, time.Millisecond)
	for range 7 {
		s, err := b.Stats(ctx)
		require.NoError(t, err)
		require.Equal(t, virtio.BalloonStats{Free: 4}, s)
	}
	d.CheckAlive()
}

func FuzzBalloon(f *testing.F) {
	seeds(f, pfns(0x1000, 0x2000, 0x3000), 4096)
	seeds(f, stat(4, 4), 64)
	f.Fuzz(func(t *testing.T, input []byte) {
		b := virtio.NewBalloon(virtio.BalloonConfig{Stats: true})
		d := vt.New(t, b, fuzzConfig)
		d.Run(input)
		b.SetTarget(1 << 20)
		require.LessOrEqual(t, b.Size(), d.Mem.Size())
		d.CheckAlive()
		p := d.Alloc(2*pageSize, pageSize)
		require.NoError(t, d.Mem.WriteAt([]byte("gone"), p))
		require.NoError(t, d.Mem.WriteAt([]byte("kept"), p+pageSize))
		require.Zero(t, d.Ring(inflateQueue).Do(pfns(p), 0).Used)
		require.True(t, gone(d, p))
		require.Equal(t, "kept", string(d.Get(p+pageSize, 4)))
	})
}
