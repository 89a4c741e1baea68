package guestmem_test

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

const (
	page   = guestmem.PageSize
	lowEnd = 4 * page
	high   = guestmem.GPA(4 << 30)
)

// backings runs f on both kinds of memory: [0, 16K) and [4G, 4G+8K).
func backings(t *testing.T, f func(t *testing.T, m *guestmem.Memory)) {
	ranges := []guestmem.Range{{Base: high, Size: 2 * page}, {Base: 0, Size: lowEnd}}
	t.Run("heap", func(t *testing.T) {
		m, err := guestmem.NewHeap(ranges...)
		require.NoError(t, err)
		defer func() { require.NoError(t, m.Close()) }()
		f(t, m)
	})
	t.Run("memfd", func(t *testing.T) {
		m, err := guestmem.NewMemfd("test", ranges...)
		require.NoError(t, err)
		defer func() { require.NoError(t, m.Close()) }()
		f(t, m)
	})
}

func TestRegions(t *testing.T) {
	backings(t, func(t *testing.T, m *guestmem.Memory) {
		rs := m.Regions()
		require.Len(t, rs, 2)
		require.Equal(t, guestmem.Range{Base: 0, Size: lowEnd}, rs[0].Range)
		require.Equal(t, guestmem.Range{Base: high, Size: 2 * page}, rs[1].Range)
		require.EqualValues(t, 6*page, m.Size())
		for _, r := range rs {
			require.Len(t, r.Bytes(), int(r.Size))
			require.NotZero(t, r.HVA())
			require.Zero(t, r.HVA()%page, "KVM wants page-aligned memory")
		}
		if m.File() != nil {
			require.Zero(t, rs[0].FileOffset)
			require.EqualValues(t, lowEnd, rs[1].FileOffset)
		}
	})
}

func TestNew_Refuses(t *testing.T) {
	for name, rs := range map[string][]guestmem.Range{
		"nothing":        nil,
		"empty":          {{Base: 0, Size: 0}},
		"base unaligned": {{Base: 1, Size: page}},
		"size unaligned": {{Base: 0, Size: page + 1}},
		"overlap":        {{Base: page, Size: 2 * page}, {Base: 2 * page, Size: page}},
		"twice":          {{Base: 0, Size: page}, {Base: 0, Size: page}},
		"wraps":          {{Base: math.MaxUint64 - page + 1, Size: 2 * page}},
		"past 52 bits":   {{Base: 1<<52 - page, Size: 2 * page}},
		"huge":           {{Base: 0, Size: math.MaxUint64 - page + 1}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, f := range []func(...guestmem.Range) (*guestmem.Memory, error){
				guestmem.NewHeap,
				func(rs ...guestmem.Range) (*guestmem.Memory, error) { return guestmem.NewMemfd("x", rs...) },
			} {
				_, err := f(rs...)
				var e *guestmem.Error
				require.ErrorAs(t, err, &e)
			}
		})
	}
}

// bounds lists accesses around the edges of backings' regions.
var bounds = []struct {
	a  guestmem.GPA
	n  uint64
	ok bool
}{
	{0, 0, true}, {0, 1, true}, {0, lowEnd, true}, {0, lowEnd + 1, false},
	{lowEnd - 1, 1, true}, {lowEnd - 1, 2, false}, {lowEnd - 1, 0, true},
	{lowEnd, 0, false}, {lowEnd, 1, false},
	{high - 1, 0, false}, {high - 1, 2, false}, {high, 2 * page, true}, {high, 2*page + 1, false},
	{high + 2*page, 0, false},
	{0, math.MaxUint64, false}, {1, math.MaxUint64, false}, {8, math.MaxUint64 - 7, false},
	{high, math.MaxUint64, false}, {high + 1, math.MaxUint64 - uint64(high), false},
	{math.MaxUint64, 0, false}, {math.MaxUint64, 1, false}, {math.MaxUint64, 2, false},
	{math.MaxUint64 - 7, 16, false}, {math.MaxUint64, math.MaxUint64, false},
}

func TestBounds_T19_AddrLenWrap(t *testing.T) {
	backings(t, func(t *testing.T, m *guestmem.Memory) {
		for _, c := range bounds {
			t.Run(fmt.Sprintf("%#x+%#x", uint64(c.a), c.n), func(t *testing.T) {
				b, err := m.Bytes(c.a, c.n)
				w, werr := m.Window(c.a, c.n)
				if c.ok {
					require.NoError(t, err)
					require.NoError(t, werr)
					require.EqualValues(t, c.n, len(b))
					require.EqualValues(t, c.n, cap(b), "no growing past the end")
					require.Equal(t, c.n, w.Len())
					return
				}
				for _, err := range []error{err, werr} {
					require.ErrorIs(t, err, guestmem.ErrOutOfRange)
					var e *guestmem.Error
					require.ErrorAs(t, err, &e)
					require.Equal(t, guestmem.Range{Base: c.a, Size: c.n}, e.Range)
				}
				require.Nil(t, b)
				require.Zero(t, w.Len())
			})
		}
	})
}

// Two regions that touch are still two: they are not contiguous in this process.
func TestBounds_T19_AdjacentRegions(t *testing.T) {
	m, err := guestmem.NewHeap(guestmem.Range{Base: 0, Size: page}, guestmem.Range{Base: page, Size: page})
	require.NoError(t, err)
	_, err = m.Bytes(page-1, 2)
	require.ErrorIs(t, err, guestmem.ErrOutOfRange)
	_, err = m.Bytes(page, page)
	require.NoError(t, err)
}

func TestReadWrite(t *testing.T) {
	backings(t, func(t *testing.T, m *guestmem.Memory) {
		in := []byte("sandpit")
		require.NoError(t, m.WriteAt(in, high+5))
		out := make([]byte, len(in))
		require.NoError(t, m.ReadAt(out, high+5))
		require.Equal(t, in, out)

		alias, err := m.Bytes(high+5, 1)
		require.NoError(t, err)
		alias[0] = 'S'
		require.NoError(t, m.ReadAt(out, high+5))
		require.Equal(t, "Sandpit", string(out))

		require.ErrorIs(t, m.WriteAt(in, lowEnd-3), guestmem.ErrOutOfRange)
		require.NoError(t, m.ReadAt(out[:3], lowEnd-3))
		require.Equal(t, []byte{0, 0, 0}, out[:3], "all of it or nothing")
		require.ErrorIs(t, m.ReadAt(out, lowEnd-3), guestmem.ErrOutOfRange)
	})
}

func TestClose(t *testing.T) {
	for _, f := range []func(...guestmem.Range) (*guestmem.Memory, error){
		guestmem.NewHeap,
		func(rs ...guestmem.Range) (*guestmem.Memory, error) { return guestmem.NewMemfd("x", rs...) },
	} {
		m, err := f(guestmem.Range{Size: page})
		require.NoError(t, err)
		require.NoError(t, m.Close())
		require.NoError(t, m.Close(), "closing twice is harmless")
		_, err = m.Bytes(0, 1)
		require.ErrorIs(t, err, guestmem.ErrOutOfRange)
		require.ErrorIs(t, m.Discard(guestmem.Range{Size: page}), guestmem.ErrOutOfRange)
	}
}

func TestMemfd_T53_SizeIsSealed(t *testing.T) {
	m, err := guestmem.NewMemfd("sealed", guestmem.Range{Size: 2 * page})
	require.NoError(t, err)
	defer m.Close()
	require.ErrorIs(t, m.File().Truncate(page), unix.EPERM)
	require.ErrorIs(t, m.File().Truncate(3*page), unix.EPERM)
	flags, err := unix.FcntlInt(m.File().Fd(), unix.F_GETFD, 0)
	require.NoError(t, err)
	require.NotZero(t, flags&unix.FD_CLOEXEC, "a child must not inherit guest memory by accident")

	b := []byte{1}
	require.NoError(t, m.WriteAt(b, page))
	_, err = m.File().ReadAt(b, page)
	require.NoError(t, err)
	require.Equal(t, byte(1), b[0], "file offset follows address")
}

func TestMemfd_Lazy(t *testing.T) {
	m, err := guestmem.NewMemfd("lazy", guestmem.Range{Size: 1 << 40})
	require.NoError(t, err, "1 TiB is only address space")
	defer m.Close()
	require.NoError(t, m.WriteAt([]byte{1}, 1<<39))
	require.LessOrEqual(t, blocks(t, m.File()), int64(2<<20)/512)
}

func blocks(t *testing.T, f *os.File) int64 {
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(int(f.Fd()), &st))
	return st.Blocks
}

func TestDiscard(t *testing.T) {
	backings(t, func(t *testing.T, m *guestmem.Memory) {
		for _, r := range m.Regions() {
			for i := range r.Bytes() {
				r.Bytes()[i] = 0xa5
			}
		}
		r := guestmem.Range{Base: high + page, Size: page}
		require.NoError(t, m.Discard(r))
		b, err := m.Bytes(high, 2*page)
		require.NoError(t, err)
		require.Equal(t, byte(0xa5), b[page-1])
		require.Equal(t, make([]byte, page), b[page:])
		low, err := m.Bytes(0, lowEnd)
		require.NoError(t, err)
		require.Equal(t, byte(0xa5), low[lowEnd-1], "the other region is untouched")
		require.NoError(t, m.WriteAt([]byte{7}, high+page), "and the guest may use it again")

		require.NoError(t, m.Discard(guestmem.Range{Base: 0, Size: 0}))
		require.ErrorIs(t, m.Discard(guestmem.Range{Base: 1, Size: page}), guestmem.ErrUnaligned)
		require.ErrorIs(t, m.Discard(guestmem.Range{Base: 0, Size: 1}), guestmem.ErrUnaligned)
	})
}

func TestDiscard_FreesHostMemory(t *testing.T) {
	const size = 16 << 20
	m, err := guestmem.NewMemfd("discard", guestmem.Range{Size: size})
	require.NoError(t, err)
	defer m.Close()
	b, err := m.Bytes(0, size)
	require.NoError(t, err)
	for i := 0; i < size; i += page {
		b[i] = 1
	}
	require.EqualValues(t, size/512, blocks(t, m.File()))
	require.NoError(t, m.Discard(guestmem.Range{Base: size / 2, Size: size / 2}))
	require.EqualValues(t, size/2/512, blocks(t, m.File()))
	require.Zero(t, b[size/2])
}

func TestDiscard_T79_OutsideRAM(t *testing.T) {
	backings(t, func(t *testing.T, m *guestmem.Memory) {
		for _, r := range []guestmem.Range{
			{Base: lowEnd, Size: page}, {Base: lowEnd - page, Size: 2 * page},
			{Base: high - page, Size: 2 * page}, {Base: page, Size: math.MaxUint64 - page + 1},
		} {
			require.ErrorIs(t, m.Discard(r), guestmem.ErrOutOfRange)
		}
	})
}

func TestAdviseHugePages(t *testing.T) {
	m, err := guestmem.NewMemfd("huge", guestmem.Range{Size: 4 << 20})
	require.NoError(t, err)
	defer m.Close()
	if err := m.AdviseHugePages(); err != nil {
		require.ErrorIs(t, err, unix.EINVAL, "only a kernel without huge pages may refuse")
	}
}

// The heap does not move under a running collector, and HVA stays what it was.
func TestHeap_Stays(t *testing.T) {
	m, err := guestmem.NewHeap(guestmem.Range{Size: 16 * page})
	require.NoError(t, err)
	hva := m.Regions()[0].HVA()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { _ = make([]byte, 1<<20); runtime.GC() })
	}
	wg.Wait()
	require.Equal(t, hva, m.Regions()[0].HVA())
}

func TestAnonymous(t *testing.T) {
	const mib = 1 << 20
	m, err := guestmem.NewAnonymous(guestmem.Range{Base: 0, Size: 4 * mib}, guestmem.Range{Base: 4 << 30, Size: 3 * mib})
	require.NoError(t, err)
	require.Nil(t, m.File())
	require.Equal(t, uint64(7*mib), m.Size())
	for _, r := range m.Regions() {
		require.Zero(t, r.HVA()%(2*mib), "aligned, so that huge pages fit")
		require.Len(t, r.Bytes(), int(r.Size))
	}
	require.NoError(t, m.WriteAt([]byte("kept"), 4096-4))
	require.NoError(t, m.WriteAt([]byte("given back"), 4096))
	require.NoError(t, m.WriteAt([]byte("high"), 4<<30))
	require.NoError(t, m.Discard(guestmem.Range{Base: 4096, Size: 4096}))
	p := make([]byte, 10)
	require.NoError(t, m.ReadAt(p, 4096))
	require.Equal(t, make([]byte, 10), p)
	require.NoError(t, m.ReadAt(p[:4], 4096-4))
	require.Equal(t, "kept", string(p[:4]))
	require.ErrorIs(t, m.WriteAt([]byte("xx"), 4*mib-1), guestmem.ErrOutOfRange)
	require.NoError(t, m.Close())
	require.NoError(t, m.Close())
	require.ErrorIs(t, m.ReadAt(p, 0), guestmem.ErrOutOfRange)

	_, err = guestmem.NewAnonymous(guestmem.Range{Size: 1 << 50})
	require.Error(t, err, "more than can be mapped")
}

// rust-vmm's vm-memory took a slice that was shorter than what was asked for.
// Here it is all or nothing: at every edge, no access is shortened.
func TestAdvisory_RUSTSEC_2023_0056(t *testing.T) {
	m, err := guestmem.NewHeap(guestmem.Range{Size: 0x2000}, guestmem.Range{Base: 0x2000, Size: 0x1000}, guestmem.Range{Base: 0x10000, Size: 0x1000})
	require.NoError(t, err)
	for _, edge := range []guestmem.GPA{0x2000, 0x3000, 0x11000} {
		for before := range guestmem.GPA(20) {
			for n := range 40 {
				a := edge - before
				inside := slices.ContainsFunc(m.Regions(), func(r guestmem.Region) bool { return r.Contains(a, uint64(n)) })
				p := bytes.Repeat([]byte{0xaa}, n)
				b, err := m.Bytes(a, uint64(n))
				require.Equal(t, inside, err == nil)
				require.True(t, !inside || len(b) == n)
				require.Equal(t, inside, m.WriteAt(p, a) == nil)
				got := bytes.Repeat([]byte{0xbb}, n)
				err = m.ReadAt(got, a)
				require.Equal(t, inside, err == nil)
				if inside {
					require.Equal(t, p, got)
				} else {
					require.Equal(t, bytes.Repeat([]byte{0xbb}, n), got, "read in part")
				}
				_, err = m.Window(a, uint64(n))
				require.Equal(t, inside, err == nil)
			}
		}
	}
}
