package virtio_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
	"github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

type desc = virtiotest.Desc

const (
	next     = virtiotest.Next
	write    = virtiotest.Write
	indirect = virtiotest.Indirect
)

// offer writes descriptors from index 0 on and offers head 0.
func offer(r *virtiotest.Ring, descs ...desc) {
	for i, e := range descs {
		r.SetDesc(uint16(i), e)
	}
	r.Offer(0)
}

func TestChain_ReadWrite(t *testing.T) {
	d, r, q := manual(t, virtiotest.Config{})
	a, b := d.Put([]byte("hello ")), d.Put([]byte("world"))
	x, y := d.Alloc(3, 1), d.Alloc(10, 1)
	r.Add(virtiotest.Buf{Addr: a, Len: 6}, virtiotest.Buf{Addr: b, Len: 5},
		virtiotest.Buf{Addr: x, Len: 3, Write: true}, virtiotest.Buf{Addr: y, Len: 10, Write: true})
	c := pop(t, q)

	head := make([]byte, 8)
	require.ErrorIs(t, c.ReadFull(make([]byte, 12)), virtio.ErrShortChain)
	require.NoError(t, c.ReadFull(head))
	require.Equal(t, "hello wo", string(head))
	require.Equal(t, 3, c.ReadableLen())
	require.Len(t, c.Readable(), 1)
	rest, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "rld", string(rest))

	status := c.TakeLastByte()
	require.Len(t, status, 1)
	n, err := c.Write([]byte("abcd"))
	require.NoError(t, err)
	require.Equal(t, 4, n)
	require.EqualValues(t, 4, c.Written())
	status[0] = '!'
	c.WroteLast()
	require.EqualValues(t, 4, c.Written(), "bytes before the last are missing")
	n, err = c.Write([]byte("efghijklmnop"))
	require.ErrorIs(t, err, virtio.ErrShortChain)
	require.Equal(t, 8, n)
	c.WroteLast()
	require.EqualValues(t, 13, c.Written())
	require.Equal(t, "abc", string(d.Get(x, 3)))
	require.Equal(t, "defghijkl!", string(d.Get(y, 10)))
	require.Nil(t, c.TakeLastByte())
}

func TestChain_T16_Next(t *testing.T) {
	for _, n := range []uint16{16, 17, 0xffff} {
		_, r, q := manual(t, virtiotest.Config{QueueSize: 16})
		offer(r, desc{Addr: 0x100, Len: 4, Flags: next, Next: n})
		popError(t, q, virtio.ErrNext)
	}
	for _, n := range []uint16{2, 0xffff} {
		_, r, q := manual(t, virtiotest.Config{QueueSize: 16})
		offer(r, r.Table(desc{Addr: 0x100, Len: 4, Flags: next, Next: n}, desc{}))
		popError(t, q, virtio.ErrNext)
	}
}

func TestChain_T17_Loops(t *testing.T) {
	t.Run("self", func(t *testing.T) {
		_, r, q := manual(t, virtiotest.Config{QueueSize: 16})
		offer(r, desc{Addr: 0x100, Len: 4, Flags: next, Next: 0})
		popError(t, q, virtio.ErrChainLength)
	})
	t.Run("zero length", func(t *testing.T) {
		_, r, q := manual(t, virtiotest.Config{QueueSize: 16})
		offer(r, desc{Flags: next, Next: 1}, desc{Flags: next, Next: 0})
		popError(t, q, virtio.ErrChainLength)
	})
	t.Run("in a table", func(t *testing.T) {
		_, r, q := manual(t, virtiotest.Config{QueueSize: 16})
		offer(r, r.Table(desc{Flags: next, Next: 1}, desc{Flags: next, Next: 1}))
		popError(t, q, virtio.ErrChainLength)
	})
	t.Run("as long as the queue", func(t *testing.T) {
		_, r, q := manual(t, virtiotest.Config{QueueSize: 16})
		for i := range uint16(16) {
			e := desc{Addr: 0x100, Len: 4, Flags: next, Next: i + 1}
			if i == 15 {
				e.Flags = 0
			}
			r.SetDesc(i, e)
		}
		r.Offer(0)
		require.Equal(t, 64, pop(t, q).ReadableLen())
	})
}

func TestChain_T18_ZeroLength(t *testing.T) {
	_, r, q := manual(t, virtiotest.Config{})
	offer(r,
		desc{Addr: ^guestmem.GPA(0), Len: 0, Flags: next, Next: 1}, // anywhere
		desc{Addr: 0x100, Len: 4, Flags: next, Next: 2},
		desc{Addr: 0x200, Len: 0, Flags: next | write, Next: 3},
		desc{Addr: 0x300, Len: 8, Flags: write})
	c := pop(t, q)
	require.Len(t, c.Readable(), 1)
	require.Len(t, c.Writable(), 1)

	_, r, q = manual(t, virtiotest.Config{})
	offer(r, desc{})
	c = pop(t, q)
	require.Zero(t, c.ReadableLen()+c.WritableLen())
	require.Nil(t, c.TakeLastByte())
}

func TestChain_T19_Bounds(t *testing.T) {
	const end = virtiotest.LowSize
	for _, e := range []desc{
		{Addr: end - 4, Len: 5},                 // over the end of a region
		{Addr: end, Len: 1},                     // in the hole
		{Addr: end - 4, Len: 0xffffffff},        // across everything
		{Addr: virtiotest.HighBase - 1, Len: 2}, // from the hole into RAM
		{Addr: ^guestmem.GPA(0), Len: 1},        // the last byte there is
		{Addr: ^guestmem.GPA(0) - 3, Len: 8},    // wraps to zero
		{Addr: 1 << 63, Len: 1},                 // negative, were it signed
		{Addr: 0xd0000000, Len: 4},              // where devices are
		{Addr: 0x100, Len: 0xffffffff},          // as long as can be
		{Addr: ^guestmem.GPA(0) - 0xffff, Len: 0x20000},
	} {
		for _, flags := range []uint16{0, write} {
			e.Flags = flags
			t.Run(fmt.Sprintf("%#x+%#x", uint64(e.Addr), e.Len), func(t *testing.T) {
				_, r, q := manual(t, virtiotest.Config{})
				offer(r, e)
				popError(t, q, virtio.ErrBuffer)
				_, r, q = manual(t, virtiotest.Config{})
				offer(r, r.Table(e))
				popError(t, q, virtio.ErrBuffer)
			})
		}
	}
	_, r, q := manual(t, virtiotest.Config{})
	offer(r, desc{Addr: end - 4, Len: 4})
	require.Equal(t, 4, pop(t, q).ReadableLen())
}

func TestChain_T20_TotalBytes(t *testing.T) {
	_, r, q := manual(t, virtiotest.Config{MemSize: 8 << 20})
	const half = virtio.MaxChainBytes / 2
	ok := []desc{
		{Addr: virtiotest.HighBase, Len: half, Flags: next, Next: 1},
		{Addr: virtiotest.HighBase, Len: half, Flags: write},
	}
	offer(r, ok...)
	c := pop(t, q)
	require.Equal(t, virtio.MaxChainBytes, c.ReadableLen()+c.WritableLen())
	q.Push(c.Head(), 0)
	ok[1].Len++
	offer(r, ok...)
	popError(t, q, virtio.ErrChainBytes)
}

func TestChain_T21_Order(t *testing.T) {
	_, r, q := manual(t, virtiotest.Config{})
	offer(r,
		desc{Addr: 0x100, Len: 4, Flags: write | next, Next: 1},
		desc{Addr: 0x100, Len: 4})
	popError(t, q, virtio.ErrOrder)
}

func TestChain_T22_ReadableStaysUntouched(t *testing.T) {
	d, _ := serving(t, func(c *virtio.Chain) error {
		c.Write(bytes.Repeat([]byte{0xee}, 1000))
		c.Wrote(1000)
		return nil
	}, virtiotest.Config{})
	r := d.Ring(0)
	in := d.Put([]byte("do not write here"))
	out := d.Alloc(4, 1)
	guard := d.Put([]byte("nor here"))
	r.Add(virtiotest.Buf{Addr: in, Len: 17}, virtiotest.Buf{Addr: out, Len: 4, Write: true})
	table := d.Get(r.Desc, 16*int(r.Size))
	r.Kick()
	_, used := r.Wait()
	require.EqualValues(t, 4, used)
	require.Equal(t, "do not write here", string(d.Get(in, 17)))
	require.Equal(t, "nor here", string(d.Get(guard, 8)))
	require.Equal(t, table, d.Get(r.Desc, 16*int(r.Size)))
}

// What the driver does to a descriptor after the device has taken the chain has
// no effect (T23, T36).
func TestChain_T23_T36_ReadOnce(t *testing.T) {
	d, r, q := manual(t, virtiotest.Config{})
	a := d.Put([]byte("first"))
	table := r.Table(desc{Addr: a, Len: 5})
	offer(r, table)
	c := pop(t, q)
	require.NoError(t, d.Mem.WriteAt(bytes.Repeat([]byte{0xff}, 16), table.Addr))
	r.SetDesc(0, desc{Addr: ^guestmem.GPA(0), Len: 0xffffffff, Flags: 0xffff, Next: 0xffff})
	require.Equal(t, 5, c.ReadableLen())
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "first", string(got))
	q.Push(c.Head(), 0)
}

func TestChain_T30_IndirectNotNegotiated(t *testing.T) {
	_, r, q := manual(t, virtiotest.Config{Without: virtio.FeatureIndirectDesc})
	offer(r, r.Table(desc{Addr: 0x100, Len: 4}))
	popError(t, q, virtio.ErrIndirect)
}

func TestChain_T31_TableLength(t *testing.T) {
	for _, n := range []uint32{0, 1, 15, 17, 31, 16*1024 + 16, 0xfffffff0, 0xffffffff} {
		_, r, q := manual(t, virtiotest.Config{})
		table := r.Table(desc{Addr: 0x100, Len: 4})
		table.Len = n
		offer(r, table)
		popError(t, q, virtio.ErrIndirect)
	}
	for _, a := range []guestmem.GPA{virtiotest.LowSize - 8, virtiotest.LowSize, ^guestmem.GPA(0), ^guestmem.GPA(15)} {
		_, r, q := manual(t, virtiotest.Config{})
		offer(r, desc{Addr: a, Len: 16, Flags: indirect})
		popError(t, q, virtio.ErrIndirect)
	}
	// Longer than the queue is fine, up to the cap, and so is any alignment.
	_, r, q := manual(t, virtiotest.Config{QueueSize: 2})
	var entries []desc
	for i := range uint16(1024) {
		entries = append(entries, desc{Addr: 0x100, Len: 1, Flags: next, Next: i + 1})
	}
	entries[1023].Flags = 0
	table := r.Table(entries...)
	offer(r, table)
	c := pop(t, q)
	require.Equal(t, 1024, c.ReadableLen())
	q.Push(c.Head(), 0)
	table.Addr += 16*1024 - 16
	table.Len = 16
	offer(r, table)
	require.Equal(t, 1, pop(t, q).ReadableLen())
}

func TestChain_T32_T33_T34_IndirectFlags(t *testing.T) {
	t.Run("T32 nested", func(t *testing.T) {
		_, r, q := manual(t, virtiotest.Config{})
		offer(r, r.Table(r.Table(desc{Addr: 0x100, Len: 4})))
		popError(t, q, virtio.ErrIndirect)
	})
	t.Run("T33 with NEXT", func(t *testing.T) {
		_, r, q := manual(t, virtiotest.Config{})
		table := r.Table(desc{Addr: 0x100, Len: 4})
		table.Flags |= next
		offer(r, table, desc{Addr: 0x100, Len: 4})
		popError(t, q, virtio.ErrIndirect)
	})
	t.Run("T34 WRITE is ignored, 2.7.5.3.2", func(t *testing.T) {
		_, r, q := manual(t, virtiotest.Config{})
		table := r.Table(desc{Addr: 0x100, Len: 4}, desc{})
		table.Flags |= write
		offer(r, table)
		require.Equal(t, 4, pop(t, q).ReadableLen())
	})
}

// virtio 1.2 §2.7.5.3.2: direct descriptors, then one indirect.
func TestChain_T35_DirectThenIndirect(t *testing.T) {
	_, r, q := manual(t, virtiotest.Config{})
	offer(r,
		desc{Addr: 0x100, Len: 1, Flags: next, Next: 1},
		desc{Addr: 0x100, Len: 2, Flags: next, Next: 2},
		r.Table(desc{Addr: 0x100, Len: 4, Flags: next, Next: 1}, desc{Addr: 0x100, Len: 8, Flags: write}))
	c := pop(t, q)
	require.Equal(t, 7, c.ReadableLen())
	require.Equal(t, 8, c.WritableLen())
	require.Len(t, c.Readable(), 3)

	// The cap counts both.
	_, r, q = manual(t, virtiotest.Config{})
	long := make([]desc, 1024)
	for i := range long {
		long[i] = desc{Addr: 0x100, Len: 1, Flags: next, Next: uint16(i + 1)}
	}
	long[1023].Flags = 0
	offer(r, desc{Addr: 0x100, Len: 1, Flags: next, Next: 1}, r.Table(long...))
	popError(t, q, virtio.ErrChainLength)

	// Order holds across the border.
	_, r, q = manual(t, virtiotest.Config{})
	offer(r, desc{Addr: 0x100, Len: 1, Flags: next | write, Next: 1}, r.Table(desc{Addr: 0x100, Len: 4}))
	popError(t, q, virtio.ErrOrder)
}
