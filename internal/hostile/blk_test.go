package hostile

import (
	"bytes"
	"encoding/binary"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// request makes a block request and returns its status.
func (a *attack) request(d *vt.Driver, kind uint32, sector uint64, data []byte, room int) byte {
	a.Helper()
	in := [][]byte{blkHeader(kind, sector)}
	if len(data) > 0 {
		in = append(in, data)
	}
	r := d.Ring(0).DoSplit(in, room, 1)
	return r.Data[len(r.Data)-1]
}

func ranges(r ...uint64) (b []byte) { // sector, sectors, flags, …
	for ; len(r) >= 3; r = r[3:] {
		b = binary.LittleEndian.AppendUint64(b, r[0])
		b = binary.LittleEndian.AppendUint32(b, uint32(r[1]))
		b = binary.LittleEndian.AppendUint32(b, uint32(r[2]))
	}
	return b
}

var onlyBlk = []string{"blk"}

// Attacks by block requests.
var blkAttacks = []listed{
	{name: "T46_Framing", devices: onlyBlk, run: func(a *attack) {
		d := a.start(vt.Config{QueueSize: 64})
		h := blkHeader(blkIn, 3)
		var bytewise [][]byte
		for i := range h {
			bytewise = append(bytewise, h[i:i+1])
		}
		for _, r := range []vt.Reply{
			d.Ring(0).DoSplit([][]byte{h[:7], h[7:]}, 512, 1),
			d.Ring(0).DoSplit(bytewise, 513),
			d.Ring(0).DoSplit([][]byte{h}, 1, 510, 2),
		} {
			a.answered(r)
		}
		for _, n := range []int{0, 1, 15} { // no header, or not all of one
			r := d.Ring(0).DoSplit([][]byte{h[:n]}, 512, 1)
			require.EqualValues(a, blkIOErr, r.Data[512])
		}
		require.Zero(a, d.Ring(0).Do(h, 0).Used, "nowhere to answer")
		require.False(a, d.NeedsReset())
	}},
	{name: "T47_T48_Bounds", devices: onlyBlk, run: func(a *attack) {
		d := a.start(vt.Config{})
		before := a.s.disk.snapshot()
		for _, c := range []struct {
			sector uint64
			n      int
		}{
			{256, 512}, {255, 1024}, {257, 0}, {1 << 55, 512}, {1<<55 - 1, 512}, {1 << 63, 512},
			{^uint64(0), 512}, {^uint64(0), 1024}, {0, 1}, {0, 511}, {0, 513},
		} {
			require.EqualValues(a, blkIOErr, a.request(d, blkIn, c.sector, nil, c.n), "%v", c)
			require.EqualValues(a, blkIOErr, a.request(d, blkOut, c.sector, bytes.Repeat([]byte{1}, c.n), 0), "%v", c)
		}
		require.True(a, bytes.Equal(before, a.s.disk.snapshot()))
	}},
	{name: "T49_ReadOnly", devices: []string{"blk-ro"}, run: func(a *attack) {
		// Read-only is the host's decision, whatever was negotiated.
		before := a.s.disk.snapshot()
		for _, without := range []uint64{0, 1 << 5, 1<<5 | 1<<9} {
			d := a.start(vt.Config{Without: without})
			for _, n := range []int{0, 512, 4096} {
				require.EqualValues(a, blkIOErr, a.request(d, blkOut, 0, bytes.Repeat([]byte{1}, n), 0))
			}
			require.EqualValues(a, blkUnsupp, a.request(d, blkDiscard, 0, ranges(0, 1, 0), 0))
			require.EqualValues(a, blkUnsupp, a.request(d, blkWriteZeroes, 0, ranges(0, 1, 0), 0))
			a.serve(d)
		}
		d := a.driver(vt.Config{})
		require.False(a, d.Negotiate(d.Offered()|1<<13|1<<14), "DISCARD, WRITE_ZEROES")
		require.True(a, bytes.Equal(before, a.s.disk.snapshot()))
	}},
	{name: "T50_UnknownRequests", devices: onlyBlk, run: func(a *attack) {
		d := a.start(vt.Config{})
		for _, kind := range []uint32{2, 3, 5, 7, 9, 10, 12, 14, 16, 0x80000000, 0xffffffff} {
			require.EqualValues(a, blkUnsupp, a.request(d, kind, 0, make([]byte, 64), 64), "type %d", kind)
		}
		for n := range 20 {
			require.EqualValues(a, blkIOErr, a.request(d, blkGetID, 0, nil, n))
		}
		require.EqualValues(a, blkOK, a.request(d, blkGetID, 0, nil, 20))
	}},
	{name: "T51_Ranges", devices: onlyBlk, run: func(a *attack) {
		d := a.start(vt.Config{})
		before := a.s.disk.snapshot()
		for _, kind := range []uint32{blkDiscard, blkWriteZeroes} {
			for _, list := range [][]byte{
				nil, make([]byte, 15), make([]byte, 17), make([]byte, 17*16), ranges(256, 1, 0), ranges(255, 2, 0),
				ranges(0, 0xffffffff, 0), ranges(1<<63, 1, 0), ranges(^uint64(0), 2, 0), ranges(0, 1, 2), ranges(0, 1, 1<<31),
			} {
				require.NotEqualValues(a, blkOK, a.request(d, kind, 0, list, 0), "type %d, %x", kind, list)
			}
		}
		require.True(a, bytes.Equal(before, a.s.disk.snapshot()))
	}},
	{name: "T52_HostErrors", devices: onlyBlk, run: func(a *attack) {
		d := a.start(vt.Config{})
		defer a.s.disk.fail(nil)
		for _, err := range []error{unix.EIO, unix.ENOSPC, unix.EINTR, unix.EAGAIN} {
			a.s.disk.fail(err)
			require.EqualValues(a, blkIOErr, a.request(d, blkIn, 0, nil, 512))
			require.EqualValues(a, blkIOErr, a.request(d, blkOut, 0, make([]byte, 512), 0))
			require.EqualValues(a, blkIOErr, a.request(d, blkFlush, 0, nil, 0))
			a.s.disk.fail(nil)
			a.serve(d)
		}
		require.False(a, d.NeedsReset())
	}},
	{name: "T45_BackendPanics", devices: onlyBlk, run: func(a *attack) {
		d := a.start(vt.Config{})
		a.s.disk.panics.Store(true)
		defer a.s.disk.panics.Store(false)
		r := d.Ring(0)
		r.Add(a.goodChain(d.Put(a.s.request), d.Alloc(1024, 16))...)
		r.Kick()
		a.breaks(d)
		a.otherServes()
	}},
}
