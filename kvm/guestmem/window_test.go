package guestmem_test

import (
	"encoding/binary"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

func TestAtomics(t *testing.T) {
	backings(t, func(t *testing.T, m *guestmem.Memory) {
		require.NoError(t, m.StoreUint64(high, 0x8877665544332211))
		b, err := m.Bytes(high, 8)
		require.NoError(t, err)
		require.Equal(t, []byte{0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88}, b, "little-endian")

		for off := guestmem.GPA(0); off < 8; off += 2 {
			v, err := m.LoadUint16(high + off)
			require.NoError(t, err)
			require.Equal(t, binary.LittleEndian.Uint16(b[off:]), v)
		}
		v32, err := m.LoadUint32(high + 4)
		require.NoError(t, err)
		require.EqualValues(t, 0x88776655, v32)
		v64, err := m.LoadUint64(high)
		require.NoError(t, err)
		require.EqualValues(t, uint64(0x8877665544332211), v64)

		require.NoError(t, m.StoreUint16(high+2, 0xbeef))
		require.NoError(t, m.StoreUint32(high+4, 0xcafef00d))
		require.Equal(t, []byte{0x11, 0x22, 0xef, 0xbe, 0x0d, 0xf0, 0xfe, 0xca}, b, "neighbours are untouched")
	})
}

func TestAtomics_Refuse(t *testing.T) {
	backings(t, func(t *testing.T, m *guestmem.Memory) {
		ops := map[uint64][]func(guestmem.GPA) error{
			2: {
				func(a guestmem.GPA) error { _, err := m.LoadUint16(a); return err },
				func(a guestmem.GPA) error { return m.StoreUint16(a, 1) },
			},
			4: {
				func(a guestmem.GPA) error { _, err := m.LoadUint32(a); return err },
				func(a guestmem.GPA) error { return m.StoreUint32(a, 1) },
			},
			8: {
				func(a guestmem.GPA) error { _, err := m.LoadUint64(a); return err },
				func(a guestmem.GPA) error { return m.StoreUint64(a, 1) },
			},
		}
		for width, fs := range ops {
			for _, f := range fs {
				require.NoError(t, f(0))
				require.NoError(t, f(lowEnd-guestmem.GPA(width)), "the last word")
				require.ErrorIs(t, f(1), guestmem.ErrUnaligned)
				require.ErrorIs(t, f(guestmem.GPA(width/2)), guestmem.ErrUnaligned)
				require.ErrorIs(t, f(lowEnd), guestmem.ErrOutOfRange)
				require.ErrorIs(t, f(-guestmem.GPA(width)), guestmem.ErrOutOfRange)
			}
		}
	})
}

func TestWindow(t *testing.T) {
	backings(t, func(t *testing.T, m *guestmem.Memory) {
		// An avail ring is aligned to two bytes only, so the word around
		// its first field may begin outside the window.
		w, err := m.Window(page+2, 6)
		require.NoError(t, err)
		w.StoreUint16(0, 0x1111)
		w.StoreUint16(2, 0x2222)
		w.StoreUint16(4, 0x3333)
		require.Equal(t, []byte{0x11, 0x11, 0x22, 0x22, 0x33, 0x33}, w.Bytes())
		require.EqualValues(t, 0x1111, w.LoadUint16(0))
		w.StoreUint32(2, 0x44556677)
		require.EqualValues(t, 0x44556677, w.LoadUint32(2))
		require.EqualValues(t, 0x4455, w.LoadUint16(4))
		before, err := m.LoadUint16(page)
		require.NoError(t, err)
		require.Zero(t, before)

		require.Panics(t, func() { w.LoadUint16(5) }, "past the end")
		require.Panics(t, func() { w.LoadUint16(1) }, "not aligned")
		require.Panics(t, func() { w.LoadUint32(0) }, "not aligned in guest memory")
		require.Panics(t, func() { w.LoadUint64(0) })
		require.Panics(t, func() { w.StoreUint16(1<<63, 0) })
		require.Panics(t, func() { w.StoreUint16(^uint64(0), 0) })

		end, err := m.Window(lowEnd-8, 8)
		require.NoError(t, err)
		end.StoreUint64(0, 1)
		end.StoreUint16(6, 0xffff)
		require.EqualValues(t, uint64(0xffff)<<48|1, end.LoadUint64(0))
	})
}

// Both halves of one word are counted up by different goroutines, as a guest's
// and a device's 16-bit fields are. Under -race this also shows that the
// detector accepts the accesses as synchronisation.
func TestStoreUint16_NoLostUpdate(t *testing.T) {
	backings(t, func(t *testing.T, m *guestmem.Memory) {
		w, err := m.Window(page, 4)
		require.NoError(t, err)
		const n = 20_000
		payload := [2]int{}
		var wg sync.WaitGroup
		for half := range 2 {
			off := uint64(half) * 2
			wg.Go(func() {
				for i := uint16(1); i <= n; i++ {
					payload[half]++
					w.StoreUint16(off, i)
					if got := w.LoadUint16(off); got != i {
						t.Errorf("half %d: stored %d, loaded %d", half, i, got)
						return
					}
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, n, w.LoadUint16(0))
		require.EqualValues(t, n, w.LoadUint16(2))
	})
}

// A store publishes what was written before it: the shape of a used ring.
func TestStoreUint16_Publishes(t *testing.T) {
	m, err := guestmem.NewHeap(guestmem.Range{Size: page})
	require.NoError(t, err)
	w, err := m.Window(0, 16)
	require.NoError(t, err)
	data := w.Bytes()[8:16]
	const n = 2000
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := uint16(1); i <= n; i++ {
			for w.LoadUint16(4) != i-1 {
			}
			binary.LittleEndian.PutUint16(data, i)
			w.StoreUint16(2, i)
		}
	})
	for i := uint16(1); i <= n; i++ {
		for w.LoadUint16(2) != i {
		}
		require.Equal(t, i, binary.LittleEndian.Uint16(data))
		w.StoreUint16(4, i)
	}
	wg.Wait()
}

// FuzzAccess checks every accessor against plain arithmetic on the ranges.
func FuzzAccess(f *testing.F) {
	for _, c := range bounds {
		f.Add(uint64(c.a), c.n, []byte{1, 2, 3, 4, 5, 6, 7, 8})
	}
	m, err := guestmem.NewHeap(guestmem.Range{Size: lowEnd}, guestmem.Range{Base: high, Size: 2 * page})
	require.NoError(f, err)
	inside := func(a, n uint64) bool {
		for _, r := range m.Regions() {
			if base, end := uint64(r.Base), uint64(r.End()); a >= base && a < end {
				return n <= end-a
			}
		}
		return false
	}
	f.Fuzz(func(t *testing.T, addr, n uint64, p []byte) {
		a := guestmem.GPA(addr)
		b, err := m.Bytes(a, n)
		require.Equal(t, inside(addr, n), err == nil)
		if err == nil {
			require.EqualValues(t, n, len(b))
		}
		err = m.WriteAt(p, a)
		require.Equal(t, inside(addr, uint64(len(p))), err == nil)
		if err == nil {
			got := make([]byte, len(p))
			require.NoError(t, m.ReadAt(got, a))
			require.Equal(t, p, got)
		}
		v := uint16(n)
		err = m.StoreUint16(a, v)
		require.Equal(t, addr%2 == 0 && inside(addr, 2), err == nil)
		if err == nil {
			got, err := m.LoadUint16(a)
			require.NoError(t, err)
			require.Equal(t, v, got)
		}
		_, err = m.LoadUint32(a)
		require.Equal(t, addr%4 == 0 && inside(addr, 4), err == nil)
		_, err = m.LoadUint64(a)
		require.Equal(t, addr%8 == 0 && inside(addr, 8), err == nil)
		err = m.Discard(guestmem.Range{Base: a, Size: n})
		require.Equal(t, addr%page == 0 && n%page == 0 && inside(addr, n), err == nil)
	})
}

func BenchmarkWindow(b *testing.B) {
	m, err := guestmem.NewMemfd("bench", guestmem.Range{Size: page})
	require.NoError(b, err)
	defer m.Close()
	w, err := m.Window(0, page)
	require.NoError(b, err)
	b.Run("LoadUint16", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.LoadUint16(2)
		}
	})
	b.Run("StoreUint16", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.StoreUint16(2, 7)
		}
	})
	b.Run("Bytes", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = m.Bytes(128, 64)
		}
	})
}
