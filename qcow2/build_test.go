package qcow2

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// layout is an image to build without QEMU's tools.
type layout struct {
	version     uint32
	clusterBits uint
	refOrder    uint
	size        int64
	autoclear   uint64
	zstd        bool
}

// build returns an empty image: header, refcount table, L1 table, refcount
// blocks.
func build(l layout) []byte {
	be := binary.BigEndian
	cs := int64(1) << l.clusterBits
	clusters := func(n int64) int64 { return (n + cs - 1) / cs }
	perBlock := cs * 8 >> l.refOrder
	l1Entries := (clusters(l.size) + cs/8 - 1) / (cs / 8)
	l1Clusters := clusters(l1Entries * 8)
	blocks, refTable := int64(1), int64(1)
	all := int64(0)
	for {
		all = 1 + refTable + l1Clusters + blocks
		need := (all + perBlock - 1) / perBlock
		if need <= blocks && clusters(blocks*8) <= refTable {
			break
		}
		blocks, refTable = max(blocks, need), max(refTable, clusters(need*8))
	}
	p := make([]byte, all*cs)
	be.PutUint32(p, magic)
	be.PutUint32(p[offVersion:], l.version)
	be.PutUint32(p[offClusterBits:], uint32(l.clusterBits))
	be.PutUint64(p[offSize:], uint64(l.size))
	be.PutUint32(p[offL1Size:], uint32(l1Entries))
	be.PutUint64(p[offL1Table:], uint64((1+refTable)*cs))
	be.PutUint64(p[offRefcountTable:], uint64(cs))
	be.PutUint32(p[offRefcountClus:], uint32(refTable))
	if l.version == 3 {
		be.PutUint64(p[offAutoclear:], l.autoclear)
		be.PutUint32(p[offRefcountOrder:], uint32(l.refOrder))
		be.PutUint32(p[offHeaderLength:], headerMax)
		if l.zstd {
			be.PutUint64(p[offIncompatible:], featureCompression)
			p[offCompressionType] = compressionZstd
		}
	}
	im := &Image{h: header{refOrder: l.refOrder}}
	first := 1 + refTable + l1Clusters
	for b := range blocks {
		be.PutUint64(p[cs+b*8:], uint64((first+b)*cs))
		s := &slice{data: p[(first+b)*cs:][:cs]}
		for c := b * perBlock; c < min((b+1)*perBlock, all); c++ {
			im.setCount(s, c-b*perBlock, 1)
		}
	}
	return p
}

// write makes a file of p and opens it.
func writeFile(t testing.TB, p []byte) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.qcow2")
	require.NoError(t, os.WriteFile(name, p, 0o600))
	return openFile(t, name)
}

func openFile(t testing.TB, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func openImage(t testing.TB, f *os.File) *Image {
	t.Helper()
	im, err := Open(f, false)
	require.NoError(t, err)
	return im
}

// verdict is what a check of an image finds.
type verdict struct {
	leaks, corruptions int
	first              string // corruption
}

func (v *verdict) corrupt(what string) {
	if v.corruptions++; v.first == "" {
		v.first = what
	}
}

// fsck counts the references of an image by itself and compares.
func fsck(p []byte) (v verdict) {
	be := binary.BigEndian
	if _, err := open(&memFile{data: p}, int64(len(p)), false); err != nil {
		v.corrupt(err.Error())
		return v
	}
	im, _ := open(&memFile{data: p}, int64(len(p)), false)
	cs, bits := im.h.clusterSize(), im.h.clusterBits
	refs := map[int64]uint64{}
	ref := func(off, n int64) {
		for c := off >> bits; c <= (off+n-1)>>bits; c++ {
			refs[c]++
		}
	}
	count := func(c int64) uint64 {
		if b := c / im.perBlock; b < int64(len(im.refTable)) && im.refTable[b] != 0 {
			s, at, _, err := im.counts(c)
			if err != nil {
				v.corrupt(err.Error())
				return 0
			}
			return im.count(s, at)
		}
		return 0
	}
	ref(0, 1)
	ref(im.h.refTableOffset, im.h.refTableClusters<<bits)
	for _, e := range im.refTable {
		if e != 0 {
			ref(int64(e), 1)
		}
	}
	walk := func(off int64, l1 []uint64, active bool) {
		if len(l1) > 0 {
			ref(off, int64(len(l1)*8))
		}
		for _, e := range l1 {
			table := int64(e & entryOffset)
			if table == 0 {
				continue
			}
			ref(table, 1)
			if active && (e&entryCopied != 0) != (count(table>>bits) == 1) {
				v.corrupt("L1 entry's flag")
			}
			l2 := make([]byte, cs)
			if err := im.readMeta(l2, table); err != nil {
				v.corrupt(err.Error())
			}
			for at := int64(0); at < cs; at += 8 {
				m, err := im.decode(be.Uint64(l2[at:]))
				switch {
				case err != nil:
					v.corrupt(err.Error())
				case m.kind == kindCompressed:
					ref(m.host, m.size)
				case m.host != 0:
					ref(m.host, 1)
					if active && m.copied != (count(m.host>>bits) == 1) {
						v.corrupt("L2 entry's flag")
					}
				}
			}
		}
	}
	walk(im.h.l1Offset, im.l1, true)
	at := im.h.snapshotsOffset
	for range im.h.snapshots {
		var e [40]byte
		_ = im.readMeta(e[:], at)
		l1, _ := im.readTable(int64(be.Uint64(e[:])), int(be.Uint32(e[8:])))
		walk(int64(be.Uint64(e[:])), l1, false)
		n := 40 + int64(be.Uint32(e[36:])) + int64(be.Uint16(e[12:])) + int64(be.Uint16(e[14:]))
		at += (n + 7) &^ 7
	}
	if im.h.snapshots > 0 {
		ref(im.h.snapshotsOffset, at-im.h.snapshotsOffset)
	}
	for c := range im.end() {
		switch have, want := count(c), refs[c]; {
		case have < want:
			v.corrupt("count too low")
		case have > want:
			v.leaks++
		}
		delete(refs, c)
	}
	if len(refs) > 0 {
		v.corrupt("reference beyond the end")
	}
	return v
}
