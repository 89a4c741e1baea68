package qcow2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// start is an image to run programs on, and what its disk holds.
type start struct {
	name    string
	image   []byte
	content []uint64
}

// starts are images with everything that the format has.
func starts(t testing.TB) []start {
	var list []start
	for _, l := range []layout{
		{version: 3, clusterBits: 9, refOrder: 4, size: 300 << 10, autoclear: 4},
		{version: 2, clusterBits: 12, refOrder: 4, size: 1 << 20},
		{version: 3, clusterBits: 12, refOrder: 0, size: 1 << 20},
		{version: 3, clusterBits: 16, refOrder: 2, size: 4 << 20},
	} {
		list = append(list, start{
			fmt.Sprintf("v%d-%d-%d", l.version, l.clusterBits, l.refOrder), build(l), make([]uint64, l.size/sector),
		})
	}
	list = append(list,
		fullRefTable(t),
		withHistory(t, layout{version: 3, clusterBits: 9, refOrder: 5, size: 300 << 10}),
		withHistory(t, layout{version: 2, clusterBits: 12, refOrder: 4, size: 1 << 20}),
		withHistory(t, layout{version: 3, clusterBits: 13, refOrder: 3, size: 3<<19 + sector, zstd: true}))
	if testing.Short() {
		return list
	}
	return append(list,
		madeByQEMU(t, "cluster_size=512,refcount_bits=8", 300<<10),
		madeByQEMU(t, "cluster_size=4096,compat=0.10", 1<<20),
		madeByQEMU(t, "cluster_size=64k,compression_type=zstd", 4<<20))
}

// fullRefTable is an image whose refcount table has to grow soon.
func fullRefTable(t testing.TB) start {
	l := layout{version: 3, clusterBits: 9, refOrder: 6, size: 3 << 20}
	s := start{"full-refcount-table", build(l), make([]uint64, l.size/sector)}
	p := play(t, s, 0)
	for i := range int64(1960 << 10 / sector) {
		_, err := p.im.PwriteV([][]byte{stamped(5, 1)}, i*sector)
		require.NoError(t, err)
		s.content[i] = 5
	}
	p.finish(t)
	s.image = p.file.data
	return s
}

// withHistory is an image with compressed clusters and a snapshot.
func withHistory(t testing.TB, l layout) start {
	s := start{fmt.Sprintf("history-v%d-%d", l.version, l.clusterBits), build(l), make([]uint64, l.size/sector)}
	p := play(t, s, 0)
	for range 40 {
		require.NoError(t, p.step())
	}
	im := p.im
	compress(t, p, 3)
	require.NoError(t, im.commit())
	snapshot(t, im)
	require.NoError(t, im.commit())
	data := p.file.data
	p = play(t, start{"", data, p.want}, 1)
	for range 20 {
		require.NoError(t, p.step())
	}
	compress(t, p, 2)
	p.finish(t)
	s.image, s.content = p.file.data, p.want
	return s
}

// compress makes every nth of the disk's clusters a compressed one. Two of them
// may lie in one cluster of the file, and one across two.
func compress(t testing.TB, p *player, nth int64) {
	im := p.im
	cs, bits := im.h.clusterSize(), im.h.clusterBits
	at, end := int64(0), int64(0) // room in the file
	for g := int64(0); g < im.h.roundUp(im.h.size)>>bits; g += nth {
		plain := make([]byte, cs)
		m, err := im.lookup(g)
		require.NoError(t, err)
		if m.zeros() {
			continue
		}
		require.NoError(t, im.readCluster(plain, m, 0))
		packed := pack(t, plain, im.h.compression)
		n := int64(len(packed))
		if at+n > end {
			require.NoError(t, im.ownTable(g))
			r, _, err := im.allocate(2)
			require.NoError(t, err)
			if at != r.first<<bits {
				at = r.first << bits
			}
			// The allocation's reference stands for the first in each.
			if end = (r.first + r.n) << bits; at+n > end {
				im.giveBack(r)
				at, end = 0, 0
				continue
			}
			im.giveUp(r.first, r.n)
		}
		require.NoError(t, im.ownTable(g))
		require.NoError(t, im.writeMeta(packed, at))
		sectors := (at+n-1)>>9 - at>>9
		e := uint64(at) | uint64(sectors)<<(62-(bits-8)) | entryCompressed
		mc, err := im.decode(e)
		require.NoError(t, err)
		for c := mc.host >> bits; c <= (mc.host+mc.size-1)>>bits; c++ {
			addRef(t, im, c)
		}
		s, i, err := im.entries(g)
		require.NoError(t, err)
		s.set(i, e)
		im.l2.mark(s, true)
		im.giveUpMapping(m)
		at += n
	}
	require.NoError(t, p.verify())
}

func pack(t testing.TB, plain []byte, compression uint8) []byte {
	var packed bytes.Buffer
	var w io.WriteCloser
	var err error
	if compression == compressionZstd {
		w, err = zstd.NewWriter(&packed, zstd.WithEncoderConcurrency(1))
	} else {
		w, err = flate.NewWriter(&packed, 6)
	}
	require.NoError(t, err)
	_, err = w.Write(plain)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return packed.Bytes()
}

func addRef(t testing.TB, im *Image, c int64) {
	s, at, _, err := im.counts(c)
	require.NoError(t, err)
	im.setCount(s, at, im.count(s, at)+1)
	im.refs.mark(s, true)
}

// snapshot adds the first snapshot to an image.
func snapshot(t testing.TB, im *Image) {
	be := binary.BigEndian
	bits := im.h.clusterBits
	var l1 []byte
	for i, e := range im.l1 {
		if e != 0 {
			im.l1[i] &^= entryCopied
			im.dirtyL1 = append(im.dirtyL1, i)
			addRef(t, im, int64(im.l1[i])>>bits)
			first := int64(i) << (bits - 3)
			for g := first; g < first+im.h.clusterSize()/8; g++ {
				s, at, err := im.entries(g)
				require.NoError(t, err)
				m, err := im.decode(s.entry(at))
				require.NoError(t, err)
				s.set(at, s.entry(at)&^entryCopied)
				im.l2.mark(s, true)
				for c := m.host >> bits; m.host != 0 && c <= (m.host+max(m.size, 1)-1)>>bits; c++ {
					addRef(t, im, c)
				}
			}
		}
		l1 = be.AppendUint64(l1, im.l1[i])
	}
	need := im.h.roundUp(int64(len(l1))) >> bits
	im.hint = im.end() // in one piece
	r, _, err := im.allocate(need)
	require.NoError(t, err)
	require.Equal(t, need, r.n)
	require.NoError(t, im.writeMeta(l1, r.first<<bits))
	table, _, err := im.allocate(1)
	require.NoError(t, err)
	e := make([]byte, 40+16+8)
	be.PutUint64(e, uint64(r.first<<bits))
	be.PutUint32(e[8:], uint32(len(im.l1)))
	be.PutUint16(e[12:], 1) // "1"
	be.PutUint16(e[14:], 1) // "s"
	be.PutUint32(e[36:], 16)
	be.PutUint64(e[48:], uint64(im.h.size))
	copy(e[56:], "1s")
	require.NoError(t, im.writeMeta(e, table.first<<bits))
	var field [12]byte
	be.PutUint32(field[:], 1)
	be.PutUint64(field[4:], uint64(table.first<<bits))
	require.NoError(t, im.writeMeta(field[:], offSnapshotCount))
}

// madeByQEMU is an image with compressed clusters, ordinary ones, and snapshots.
func madeByQEMU(t testing.TB, options string, size int64) start {
	needQEMU(t)
	s := start{name: options, content: make([]uint64, size/sector)}
	dir := t.TempDir()
	raw, name := filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2")
	r := rand.New(rand.NewPCG(7, 7))
	var p []byte
	for i := range s.content {
		if i%100 < 60 {
			s.content[i] = r.Uint64N(3)*1000 + uint64(i/32)
		}
		p = append(p, stamped(s.content[i], 1)...)
	}
	require.NoError(t, os.WriteFile(raw, p, 0o600))
	qemu(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", options, raw, name)
	patch := func(first, n int64) {
		qemu(t, "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -P 0x11 %d %d", first*sector, n*sector), name)
		for i := first; i < first+n; i++ {
			s.content[i] = 0x1111111111111111
		}
	}
	all := int64(len(s.content))
	patch(all/8, all/8)
	qemu(t, "qemu-img", "snapshot", "-c", "one", name)
	patch(all/6, all/3)
	qemu(t, "qemu-img", "snapshot", "-c", "two", name)
	patch(all*3/4, all/8)
	var err error
	s.image, err = os.ReadFile(name)
	require.NoError(t, err)
	return s
}

// play opens a copy of an image in memory.
func play(t testing.TB, s start, seed uint64) *player {
	f := &memFile{data: slices.Clone(s.image), record: true}
	im, err := open(f, int64(len(f.data)), false)
	require.NoError(t, err)
	p := newPlayer(im, f, rand.New(rand.NewPCG(seed, 1)))
	copy(p.want, s.content)
	return p
}

// finish closes the image, in which nothing may have leaked.
func (p *player) finish(t testing.TB) {
	require.NoError(t, p.im.Close())
	v := fsck(p.file.data)
	require.Zero(t, v.corruptions, v.first)
	require.Zero(t, v.leaks)
}
