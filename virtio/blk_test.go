package virtio_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

// Request types and feature bits, as a driver knows them (virtio 1.2 §5.2).
const (
	blkIn, blkOut, blkFlush, blkGetID, blkDiscard, blkWriteZeroes = 0, 1, 4, 8, 11, 13
	blkOK, blkIOErr, blkUnsupp                                    = 0, 1, 2

	blkRO, blkFlushBit, blkDiscardBit, blkZeroesBit = 1 << 5, 1 << 9, 1 << 13, 1 << 14
)

// memDisk is a backend in memory with faults to order.
type memDisk struct {
	data                    []byte
	readErr, writeErr, sync error
	short                   int // transfer only so many bytes before the error
	syncs                   int
	discards, zeroes        []string
}

func (m *memDisk) Size() int64 { return int64(len(m.data)) }

func (m *memDisk) PreadV(bufs [][]byte, off int64) (n int, err error) {
	for _, b := range bufs {
		if m.readErr != nil {
			b = b[:min(len(b), m.short-n)]
		}
		n += copy(b, m.data[off+int64(n):])
	}
	return n, m.readErr
}

func (m *memDisk) PwriteV(bufs [][]byte, off int64) (n int, err error) {
	if m.writeErr != nil {
		return 0, m.writeErr
	}
	for _, b := range bufs {
		n += copy(m.data[off+int64(n):], b)
	}
	return n, nil
}

func (m *memDisk) Sync() error { m.syncs++; return m.sync }

func (m *memDisk) Discard(off, n int64) error {
	m.discards = append(m.discards, fmt.Sprintf("%d+%d", off, n))
	return m.writeErr
}

func (m *memDisk) WriteZeroes(off, n int64, unmap bool) error {
	m.zeroes = append(m.zeroes, fmt.Sprintf("%d+%d %v", off, n, unmap))
	clear(m.data[off : off+n])
	return m.writeErr
}

// hugeDisk says that it is of a size that it is not.
type hugeDisk struct{ memDisk }

func (*hugeDisk) Size() int64 { return 1 << 60 }

func header(kind uint32, sector uint64) []byte {
	h := make([]byte, 16)
	binary.LittleEndian.PutUint32(h, kind)
	binary.LittleEndian.PutUint64(h[8:], sector)
	return h
}

func ranges(r ...uint64) []byte { // sector, sectors, flags, …
	var b []byte
	for ; len(r) >= 3; r = r[3:] {
		b = binary.LittleEndian.AppendUint64(b, r[0])
		b = binary.LittleEndian.AppendUint32(b, uint32(r[1]))
		b = binary.LittleEndian.AppendUint32(b, uint32(r[2]))
	}
	return b
}

type disk struct {
	*vt.Driver
	blk  *virtio.Blk
	back *memDisk
}

func newDisk(t testing.TB, sectors int, cfg virtio.BlkConfig, dc vt.Config) *disk {
	back := &memDisk{data: make([]byte, sectors*512)}
	for i := range back.data {
		back.data[i] = byte(i/512 + i)
	}
	cfg.Backend = back
	b := virtio.NewBlk(cfg)
	d := vt.New(t, b, dc)
	d.Start()
	return &disk{d, b, back}
}

// do sends a request in the usual shape and returns the data and the status.
func (d *disk) do(kind uint32, sector uint64, data []byte, room int) (vt.Reply, byte) {
	d.TB.Helper()
	req := [][]byte{header(kind, sector)}
	if len(data) > 0 {
		req = append(req, data)
	}
	r := d.Ring(0).DoSplit(req, room, 1)
	return r, r.Data[len(r.Data)-1]
}

func TestBlk_ReadWriteFlushID(t *testing.T) {
	d := newDisk(t, 64, virtio.BlkConfig{ID: "root"}, vt.Config{})
	r, st := d.do(blkIn, 3, nil, 1024)
	require.EqualValues(t, blkOK, st)
	require.EqualValues(t, 1025, r.Used)
	require.Equal(t, d.back.data[3*512:5*512], r.Data[:1024])

	data := bytes.Repeat([]byte("sandpit!"), 128)
	r, st = d.do(blkOut, 10, data, 0)
	require.EqualValues(t, blkOK, st)
	require.EqualValues(t, 1, r.Used)
	require.Equal(t, data, d.back.data[10*512:12*512])
	require.Zero(t, d.back.syncs)

	_, st = d.do(blkFlush, 0, nil, 0)
	require.EqualValues(t, blkOK, st)
	require.Equal(t, 1, d.back.syncs)

	r, st = d.do(blkGetID, 0, nil, 20)
	require.EqualValues(t, blkOK, st)
	require.EqualValues(t, 21, r.Used)
	require.Equal(t, "root"+string(make([]byte, 16)), string(r.Data[:20]))

	require.Equal(t, virtio.BlkStats{ReadBytes: 1024, WrittenBytes: 1024, Reads: 1, Writes: 1, Flushes: 1, Requests: 4}, d.blk.Stats())
}

func TestBlk_Spec5_2_4_Config(t *testing.T) {
	d := newDisk(t, 64, virtio.BlkConfig{}, vt.Config{})
	le := binary.LittleEndian
	c := d.Load(vt.ConfigSpace, 72)
	require.EqualValues(t, 64, le.Uint64(c))
	sizeMax, segMax := le.Uint32(c[8:]), le.Uint32(c[12:])
	require.Less(t, int(sizeMax*segMax)+4096, virtio.MaxChainBytes, "a driver that keeps to the limits meets no other")
	require.LessOrEqual(t, int(segMax)+2, 256)
	require.EqualValues(t, 512, le.Uint32(c[20:]))
	require.NotZero(t, le.Uint32(c[36:])) // max_discard_sectors
	require.NotZero(t, le.Uint32(c[40:]))
	require.NotZero(t, le.Uint32(c[48:])) // max_write_zeroes_sectors
	require.NotZero(t, le.Uint32(c[52:]))
	require.Zero(t, c[33], "unused0")
	require.Equal(t, make([]byte, 15), c[57:72], "unused1 and what is not offered")
	require.NotZero(t, d.Offered()&blkFlushBit)
	require.Zero(t, d.Offered()&blkRO)

	d.Store(vt.ConfigSpace, make([]byte, 8)) // nothing is writable
	require.Equal(t, c, d.Load(vt.ConfigSpace, 72))

	ro := newDisk(t, 64, virtio.BlkConfig{ReadOnly: true}, vt.Config{})
	require.NotZero(t, ro.Offered()&blkRO)
	require.Zero(t, ro.Offered()&(blkDiscardBit|blkZeroesBit))

	// A tail that fills no sector is not part of the disk.
	b := virtio.NewBlk(virtio.BlkConfig{Backend: &memDisk{data: make([]byte, 1023)}})
	p := make([]byte, 8)
	b.ReadConfig(0, p)
	require.EqualValues(t, 1, le.Uint64(p))
}

// virtio 1.2 §2.7.4.1: no assumption about how a request is laid out.
func TestBlk_T46_Framing(t *testing.T) {
	d := newDisk(t, 64, virtio.BlkConfig{}, vt.Config{})
	one := func(p []byte) (out [][]byte) { // a buffer for each byte
		for i := range p {
			out = append(out, p[i:i+1])
		}
		return out
	}
	ones := func(n int) (out []int) {
		for range n {
			out = append(out, 1)
		}
		return out
	}
	want := d.back.data[5*512 : 6*512]
	for name, r := range map[string]vt.Reply{
		"header in two":          d.Ring(0).DoSplit([][]byte{header(blkIn, 5)[:7], header(blkIn, 5)[7:]}, 512, 1),
		"header bytewise":        d.Ring(0).DoSplit(one(header(blkIn, 5)), 512, 1),
		"data and status in one": d.Ring(0).DoSplit([][]byte{header(blkIn, 5)}, 513),
		"odd pieces":             d.Ring(0).DoSplit([][]byte{header(blkIn, 5)}, 1, 510, 2),
		"bytewise":               d.Ring(0).DoSplit(one(header(blkIn, 5)), ones(513)...),
	} {
		require.Equal(t, want, r.Data[:512], name)
		require.EqualValues(t, blkOK, r.Data[512], name)
		require.EqualValues(t, 513, r.Used, name)
	}
	data := bytes.Repeat([]byte{7}, 512)
	r := d.Ring(0).DoSplit([][]byte{append(header(blkOut, 9), data[:100]...), data[100:]}, 1)
	require.EqualValues(t, blkOK, r.Data[0])
	require.Equal(t, data, d.back.data[9*512:10*512])

	// A short header gets its status; nowhere to put a status, and the chain
	// comes back all the same.
	for n := range 16 {
		r := d.Ring(0).Do(header(blkIn, 5)[:n], 513)
		require.EqualValues(t, blkIOErr, r.Data[512])
		require.Zero(t, r.Used)
		require.EqualValues(t, 0, d.Ring(0).Do(header(blkIn, 5)[:n+1], 0).Used)
	}
	_, st := d.do(blkIn, 0, nil, 512)
	require.EqualValues(t, blkOK, st)
	require.False(t, d.NeedsReset())
}

func TestBlk_T47_T48_Bounds(t *testing.T) {
	d := newDisk(t, 64, virtio.BlkConfig{}, vt.Config{})
	before := bytes.Clone(d.back.data)
	for _, c := range []struct {
		sector uint64
		n      int
		want   byte
	}{
		{0, 64 * 512, blkOK}, {63, 512, blkOK}, {64, 0, blkOK}, {0, 0, blkOK},
		{64, 512, blkIOErr}, {63, 1024, blkIOErr}, {0, 65 * 512, blkIOErr}, {65, 0, blkIOErr},
		{1 << 55, 512, blkIOErr}, {1<<55 - 1, 512, blkIOErr}, {1 << 63, 512, blkIOErr}, {^uint64(0), 512, blkIOErr}, {^uint64(0), 1024, blkIOErr},
		{0, 1, blkIOErr}, {0, 511, blkIOErr}, {0, 513, blkIOErr}, {0, 1023, blkIOErr},
	} {
		r, st := d.do(blkIn, c.sector, nil, c.n)
		require.Equal(t, c.want, st, "read %d at %d", c.n, c.sector)
		if c.want == blkOK {
			require.EqualValues(t, c.n+1, r.Used)
		}
		var data []byte
		if c.n > 0 && c.want == blkOK {
			data = before[c.sector*512:][:c.n]
		} else {
			data = bytes.Repeat([]byte{0xff}, c.n)
		}
		_, st = d.do(blkOut, c.sector, data, 0)
		require.Equal(t, c.want, st, "write %d at %d", c.n, c.sector)
	}
	require.Equal(t, before, d.back.data)
}

// Read-only is the host's decision: the driver may negotiate what it likes.
func TestBlk_T49_ReadOnly(t *testing.T) {
	for _, without := range []uint64{0, blkRO, blkRO | blkFlushBit} {
		d := newDisk(t, 64, virtio.BlkConfig{ReadOnly: true}, vt.Config{Without: without})
		before := bytes.Clone(d.back.data)
		d.back.writeErr = errors.New("reached the backend")
		for n := 0; n <= 1024; n += 512 {
			_, st := d.do(blkOut, 0, bytes.Repeat([]byte{1}, n), 0)
			require.EqualValues(t, blkIOErr, st, "§5.2.6.2")
		}
		_, st := d.do(blkDiscard, 0, ranges(0, 1, 0), 0)
		require.EqualValues(t, blkUnsupp, st)
		_, st = d.do(blkWriteZeroes, 0, ranges(0, 1, 0), 0)
		require.EqualValues(t, blkUnsupp, st)
		_, st = d.do(blkFlush, 0, nil, 0)
		require.EqualValues(t, blkOK, st)
		_, st = d.do(blkIn, 0, nil, 512)
		require.EqualValues(t, blkOK, st)
		require.Equal(t, before, d.back.data)
		require.Empty(t, d.back.discards)
		require.Empty(t, d.back.zeroes)
	}
}

func TestBlk_T50_GetIDAndUnknown(t *testing.T) {
	d := newDisk(t, 8, virtio.BlkConfig{ID: "0123456789012345678901234"}, vt.Config{})
	r, st := d.do(blkGetID, 99999, nil, 20)
	require.EqualValues(t, blkOK, st)
	require.Equal(t, "01234567890123456789", string(r.Data[:20]))
	for _, n := range []int{0, 1, 19} {
		_, st = d.do(blkGetID, 0, nil, n)
		require.EqualValues(t, blkIOErr, st)
	}
	r, st = d.do(blkGetID, 0, nil, 64)
	require.EqualValues(t, blkOK, st)
	require.EqualValues(t, 20, r.Used)
	for _, kind := range []uint32{2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 16, 26, 0x80000000, 0xffffffff} {
		r, st := d.do(kind, 0, make([]byte, 512), 512)
		require.EqualValues(t, blkUnsupp, st, "type %d", kind)
		require.Equal(t, make([]byte, 512), r.Data[:512])
	}
}

func TestBlk_T51_DiscardAndWriteZeroes(t *testing.T) {
	d := newDisk(t, 128, virtio.BlkConfig{}, vt.Config{})
	check := func(want byte, kind uint32, data []byte) {
		t.Helper()
		_, st := d.do(kind, 0, data, 0)
		require.Equal(t, want, st)
	}
	check(blkOK, blkDiscard, ranges(8, 16, 0))
	check(blkOK, blkDiscard, ranges(0, 1, 0, 4, 0, 0, 127, 1, 0))
	require.Equal(t, []string{"4096+8192", "0+512", "65024+512"}, d.back.discards)
	check(blkOK, blkWriteZeroes, ranges(8, 2, 0))
	check(blkOK, blkWriteZeroes, ranges(16, 2, 1))
	require.Equal(t, []string{"4096+1024 false", "8192+1024 true"}, d.back.zeroes)
	require.Equal(t, make([]byte, 1024), d.back.data[4096:5120])

	d.back.discards, d.back.zeroes = nil, nil
	for _, kind := range []uint32{blkDiscard, blkWriteZeroes} {
		check(blkIOErr, kind, nil)
		check(blkIOErr, kind, make([]byte, 15))
		check(blkIOErr, kind, make([]byte, 17))
		check(blkIOErr, kind, make([]byte, 17*16)) // more ranges than offered
		check(blkIOErr, kind, ranges(128, 1, 0))
		check(blkIOErr, kind, ranges(127, 2, 0))
		check(blkIOErr, kind, ranges(0, 0xffffffff, 0))
		check(blkIOErr, kind, ranges(1<<63, 1, 0))
		check(blkIOErr, kind, ranges(^uint64(0), 2, 0))
		check(blkUnsupp, kind, ranges(0, 1, 2)) // §5.2.6.2: unknown flags
		check(blkUnsupp, kind, ranges(0, 1, 0x80000000))
	}
	check(blkUnsupp, blkDiscard, ranges(0, 1, 1)) // §5.2.6.2: unmap in a discard
	// All ranges are checked before the first is touched.
	check(blkIOErr, blkDiscard, ranges(0, 1, 0, 128, 1, 0))
	check(blkUnsupp, blkDiscard, ranges(0, 1, 0, 128, 1, 4))
	require.Empty(t, d.back.discards)
	require.Empty(t, d.back.zeroes)

	d.back.writeErr = unix.EIO
	check(blkIOErr, blkDiscard, ranges(8, 16, 0))

	// One request has a limit even where the disk has room.
	huge := &hugeDisk{}
	d = &disk{Driver: vt.New(t, virtio.NewBlk(virtio.BlkConfig{Backend: huge}), vt.Config{})}
	d.Start()
	most := binary.LittleEndian.Uint32(d.Load(vt.ConfigSpace+36, 4))
	check(blkOK, blkDiscard, ranges(0, uint64(most), 0))
	check(blkIOErr, blkDiscard, ranges(0, uint64(most)+1, 0))
	most = binary.LittleEndian.Uint32(d.Load(vt.ConfigSpace+48, 4))
	check(blkIOErr, blkWriteZeroes, ranges(0, uint64(most)+1, 0))
	require.Len(t, huge.discards, 1)
	require.Empty(t, huge.zeroes)

	d = newDisk(t, 128, virtio.BlkConfig{}, vt.Config{Without: blkDiscardBit | blkZeroesBit})
	check(blkUnsupp, blkDiscard, ranges(8, 16, 0))
	check(blkUnsupp, blkWriteZeroes, ranges(8, 16, 0))
}

func TestBlk_T52_Errors(t *testing.T) {
	d := newDisk(t, 64, virtio.BlkConfig{}, vt.Config{})
	d.back.sync = unix.EIO
	_, st := d.do(blkFlush, 0, nil, 0)
	require.EqualValues(t, blkIOErr, st)
	d.back.writeErr = unix.ENOSPC
	_, st = d.do(blkOut, 0, make([]byte, 512), 0)
	require.EqualValues(t, blkIOErr, st)
	d.back.readErr, d.back.short = unix.EIO, 100
	r, st := d.do(blkIn, 0, nil, 512)
	require.EqualValues(t, blkIOErr, st)
	require.EqualValues(t, 100, r.Used, "T24: what was really written, from the start")
	require.EqualValues(t, 3, d.blk.Stats().Errors)
	require.False(t, d.NeedsReset())
}

// virtio 1.2 §5.2.6.2: without FLUSH every write is stable when it completes.
func TestBlk_Spec5_2_6_2_WriteThrough(t *testing.T) {
	d := newDisk(t, 64, virtio.BlkConfig{}, vt.Config{Without: blkFlushBit})
	_, st := d.do(blkOut, 0, make([]byte, 512), 0)
	require.EqualValues(t, blkOK, st)
	require.Equal(t, 1, d.back.syncs)
	_, st = d.do(blkWriteZeroes, 0, ranges(0, 1, 0), 0)
	require.EqualValues(t, blkOK, st)
	require.Equal(t, 2, d.back.syncs)
	d.back.sync = unix.EIO
	_, st = d.do(blkOut, 0, make([]byte, 512), 0)
	require.EqualValues(t, blkIOErr, st)
}

// The largest request that the limits allow, as a Linux driver builds it.
func TestBlk_LargestRequest(t *testing.T) {
	const segs, size = 254, 16 << 10
	d := newDisk(t, segs*size/512, virtio.BlkConfig{}, vt.Config{MemSize: 16 << 20})
	var room []int
	for range segs {
		room = append(room, size)
	}
	r := d.Ring(0).DoSplit([][]byte{header(blkIn, 0)}, append(room, 1)...)
	require.EqualValues(t, segs*size+1, r.Used)
	require.True(t, bytes.Equal(d.back.data, r.Data[:segs*size]))
}

// Random requests against a model.
func TestBlk_Model(t *testing.T) {
	for _, without := range []uint64{0, virtio.FeatureEventIdx, virtio.FeatureIndirectDesc} {
		f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
		require.NoError(t, err)
		defer f.Close()
		const sectors = 512
		model := make([]byte, sectors*512)
		require.NoError(t, f.Truncate(int64(len(model))))
		back, err := virtio.NewFileBackend(f, false)
		require.NoError(t, err)
		d := &disk{Driver: vt.New(t, virtio.NewBlk(virtio.BlkConfig{Backend: back}), vt.Config{Without: without})}
		d.Start()
		rnd := rand.New(rand.NewPCG(1, 2))
		for range 500 {
			sector := rnd.IntN(sectors)
			n := min(rnd.IntN(16)+1, sectors-sector)
			part := model[sector*512:][:n*512]
			switch rnd.IntN(5) {
			case 0, 1:
				var room []int
				for left := n * 512; left > 0; {
					k := min(left, rnd.IntN(900)+1)
					room, left = append(room, k), left-k
				}
				r := d.Ring(0).DoSplit([][]byte{header(blkIn, uint64(sector))}, append(room, 1)...)
				require.EqualValues(t, n*512+1, r.Used)
				require.True(t, bytes.Equal(part, r.Data[:n*512]))
			case 2, 3:
				for i := range part {
					part[i] = byte(rnd.Uint32())
				}
				_, st := d.do(blkOut, uint64(sector), part, 0)
				require.EqualValues(t, blkOK, st)
			case 4:
				clear(part)
				_, st := d.do(blkWriteZeroes, 0, ranges(uint64(sector), uint64(n), uint64(rnd.IntN(2))), 0)
				require.EqualValues(t, blkOK, st)
			}
		}
		got, err := os.ReadFile(f.Name())
		require.NoError(t, err)
		require.True(t, bytes.Equal(model, got))
	}
}
