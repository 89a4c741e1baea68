package devices

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// recorder answers reads with its offset and keeps the last write.
type recorder struct {
	off  uint64
	data []byte
}

func (r *recorder) Read(off uint64, p []byte) {
	for i := range p {
		p[i] = byte(off) + byte(i)
	}
}

func (r *recorder) Write(off uint64, p []byte) { r.off, r.data = off, append([]byte(nil), p...) }

func TestBus(t *testing.T) {
	b := NewBus()
	var low, high, top recorder
	require.NoError(t, b.Map("high", 0x3f8, 8, &high))
	require.NoError(t, b.Map("low", 0x60, 5, &low))
	require.NoError(t, b.Map("top", math.MaxUint64-3, 4, &top))

	p := make([]byte, 2)
	require.True(t, b.Read(0x3fa, p))
	require.Equal(t, []byte{2, 3}, p)
	require.True(t, b.Write(0x64, []byte{0xfe}))
	require.Equal(t, recorder{4, []byte{0xfe}}, low)
	require.True(t, b.Write(math.MaxUint64, []byte{1}))
	require.Equal(t, uint64(3), top.off)

	name, off, ok := b.Lookup(0x3ff)
	require.True(t, ok)
	require.Equal(t, "high", name)
	require.Equal(t, uint64(7), off)
	for _, a := range []uint64{0, 0x5f, 0x65, 0x3f7, 0x400, math.MaxUint64 - 4} {
		_, _, ok := b.Lookup(a)
		require.False(t, ok, "%#x", a)
	}
}

// Nobody answers: all ones, and the caller learns it.
func TestBus_Unmapped(t *testing.T) {
	b := NewBus()
	p := []byte{1, 2, 3, 4}
	require.False(t, b.Read(0x80, p))
	require.Equal(t, []byte{0xff, 0xff, 0xff, 0xff}, p)
	require.False(t, b.Write(0x80, p))
	_, _, ok := b.Lookup(0x80)
	require.False(t, ok)
}

// An access that crosses a window's end, or that no processor makes, reaches no
// device, not even one that begins where the first one ends.
func TestBus_T84_WidthAndEdge(t *testing.T) {
	b := NewBus()
	var first, second recorder
	require.NoError(t, b.Map("first", 0x100, 4, &first))
	require.NoError(t, b.Map("second", 0x104, 16, &second))
	for size := 0; size <= 17; size++ {
		for addr := uint64(0xfe); addr < 0x118; addr++ {
			p := make([]byte, size)
			inFirst := addr >= 0x100 && addr+uint64(size) <= 0x104
			inSecond := addr >= 0x104 && addr+uint64(size) <= 0x114
			want := size >= 1 && size <= 8 && (inFirst || inSecond)
			require.Equal(t, want, b.Read(addr, p), "%d bytes at %#x", size, addr)
			require.Equal(t, want, b.Write(addr, p), "%d bytes at %#x", size, addr)
			if !want {
				for _, v := range p {
					require.Equal(t, byte(0xff), v)
				}
			}
		}
	}
}

func TestBus_Map(t *testing.T) {
	for _, c := range []struct {
		base, size uint64
		err        error
	}{
		{0x100, 0x10, ErrOverlap}, {0xff, 2, ErrOverlap}, {0x10f, 1, ErrOverlap}, {0, math.MaxUint64, ErrOverlap},
		{0x100, 0, ErrWindow}, {math.MaxUint64, 2, ErrWindow}, {1, math.MaxUint64, ErrOverlap},
		{0x110, 1, nil}, {0xff, 1, nil}, {math.MaxUint64, 1, nil},
	} {
		b := NewBus()
		require.NoError(t, b.Map("there", 0x100, 0x10, &recorder{}))
		err := b.Map("new", c.base, c.size, &recorder{})
		if c.err == nil {
			require.NoError(t, err, "%#x+%#x", c.base, c.size)
			continue
		}
		require.ErrorIs(t, err, c.err, "%#x+%#x", c.base, c.size)
		var e *Error
		require.ErrorAs(t, err, &e)
		require.Contains(t, err.Error(), fmt.Sprintf("map new at %#x", c.base))
		_, _, ok := b.Lookup(0x100)
		require.True(t, ok, "the first window is still there")
	}
	require.ErrorIs(t, NewBus().Map("nil", 0, 1, nil), ErrWindow)
}

// Map while others look up: readers see the old list or the new one.
func TestBus_MapWhileReading(t *testing.T) {
	b := NewBus()
	require.NoError(t, b.Map("first", 0, 8, &recorder{}))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			p := make([]byte, 1)
			for range 2000 {
				require.True(t, b.Read(3, p))
				b.Read(8*77, p)
			}
		})
	}
	for i := uint64(1); i < 200; i++ {
		require.NoError(t, b.Map("more", i*8, 8, &recorder{}))
	}
	wg.Wait()
}

func TestBus_NoAllocation(t *testing.T) {
	b := NewBus()
	for i := uint64(0); i < 20; i++ {
		require.NoError(t, b.Map("x", i*0x1000, 0x1000, NewExit(func(uint8) {})))
	}
	p := make([]byte, 4)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		b.Read(0x5010, p)
		b.Write(0x7010, p)
		b.Lookup(0x9000)
	}))
}

func BenchmarkBus(b *testing.B) {
	bus := NewBus()
	for i := range uint64(20) {
		_ = bus.Map("x", i*0x1000, 0x1000, NewExit(func(uint8) {}))
	}
	p := make([]byte, 4)
	for b.Loop() {
		bus.Read(0x5010, p)
	}
}

// faulty panics with a lock held, as a device with a bug would.
type faulty struct{ mu sync.Mutex }

func (f *faulty) Read(uint64, []byte)  { f.mu.Lock(); panic("injected") }
func (f *faulty) Write(uint64, []byte) { f.mu.Lock(); panic("injected") }

// A panic in any device on a bus ends that device; the others serve on.
func TestBus_T45_Panics(t *testing.T) {
	for _, write := range []bool{false, true} {
		b := NewBus()
		var told []string
		b.OnPanic = func(name string, v any) { told = append(told, name+": "+v.(string)) }
		require.NoError(t, b.Map("faulty", 0x100, 8, &faulty{}))
		require.NoError(t, b.Map("exit", 0x108, 1, NewExit(func(uint8) {})))
		p := []byte{1}
		for range 3 { // the second time its lock would be held for ever
			if write {
				require.False(t, b.Write(0x100, p))
			} else {
				require.False(t, b.Read(0x100, p))
				require.Equal(t, []byte{0xff}, p)
			}
			require.True(t, b.Read(0x108, p))
		}
		require.NoError(t, b.Map("late", 0x200, 1, NewExit(func(uint8) {}))) // copies the windows
		require.False(t, b.Read(0x100, p))
		require.True(t, b.Read(0x200, p))
		require.Equal(t, []string{"faulty: injected"}, told)
	}
}

// Each device of the platform, with a panic in what it calls: the host's writer,
// interrupt, clock, reset line and exit.
func TestBus_T45_EachDevicePanics(t *testing.T) {
	boom := func() { panic("injected") }
	for name, h := range map[string]Handler{
		"serial": NewSerial(panicWriter{}, new(edges)),
		"rtc":    NewRTC(func() time.Time { boom(); return time.Time{} }),
		"i8042":  NewI8042(boom),
		"exit":   NewExit(func(uint8) { boom() }),
	} {
		t.Run(name, func(t *testing.T) {
			b := NewBus()
			panics := 0
			b.OnPanic = func(string, any) { panics++ }
			require.NoError(t, b.Map(name, 0x100, 5, h))
			require.NoError(t, b.Map("other", 0x110, 1, NewExit(func(uint8) {})))
			for off := range uint64(5) {
				for _, v := range []byte{0, 0xfe, 'x'} {
					b.Write(0x100+off, []byte{v})
					b.Read(0x100+off, make([]byte, 1))
				}
			}
			require.Equal(t, 1, panics)
			require.True(t, b.Read(0x110, make([]byte, 1)))
		})
	}
}

type panicWriter struct{}

func (panicWriter) Write([]byte) (int, error) { panic("injected") }
