package qcow2

import (
	"bytes"
	"encoding/binary"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// one returns an image with one data cluster, at the disk's start, and where its
// L2 entry is.
func one(t testing.TB, l layout) (p []byte, entry int) {
	f := &memFile{data: build(l)}
	im, err := open(f, int64(len(f.data)), false)
	require.NoError(t, err)
	_, err = im.PwriteV([][]byte{stamped(7, 8)}, 0)
	require.NoError(t, err)
	require.NoError(t, im.Close())
	return f.data, int(im.h.l1Offset)
}

// Entries that break the rules are errors where they are, and only there.
func TestHostileEntries(t *testing.T) {
	p, l1 := one(t, plain)
	table := int(binary.BigEndian.Uint64(p[l1:]) & entryOffset)
	data := binary.BigEndian.Uint64(p[table:]) & entryOffset
	length := uint64(len(p))
	for name, e := range map[string]uint64{
		"reserved low bits":       data | entryCopied | 1<<3,
		"reserved high bits":      data | entryCopied | 1<<57,
		"not aligned":             data | 512,
		"beyond the file":         length | entryCopied,
		"far beyond the file":     (1<<56 - 4096) | entryCopied,
		"the header":              entryCopied,
		"the header, zero":        entryCopied | entryZero,
		"compressed in header":    entryCompressed | 512,
		"compressed beyond":       entryCompressed | length,
		"compressed far beyond":   entryCompressed | (1<<58 - 1),
		"compressed and copied":   entryCompressed | entryCopied | data,
		"compressed garbage":      entryCompressed | data,
		"compressed garbage, all": entryCompressed | data | 0xf<<58,
	} {
		t.Run(name, func(t *testing.T) {
			q := slices.Clone(p)
			put64(q, table, e)
			for _, readOnly := range []bool{false, true} {
				im, err := open(&memFile{data: q}, int64(len(q)), readOnly)
				require.NoError(t, err)
				_, err = im.PreadV([][]byte{make([]byte, 512)}, 0)
				require.ErrorIs(t, err, ErrMalformed)
				n, err := im.PreadV([][]byte{make([]byte, 512)}, 4096)
				require.NoError(t, err)
				require.Equal(t, 512, n)
				if !readOnly {
					_, err = im.PwriteV([][]byte{{1}}, 1)
					require.ErrorIs(t, err, ErrMalformed)
				}
			}
		})
	}
	t.Run("zero flag in version 2", func(t *testing.T) {
		l := plain
		l.version = 2
		q, l1 := one(t, l)
		table := int(binary.BigEndian.Uint64(q[l1:]) & entryOffset)
		q[table+7] |= entryZero
		im, err := open(&memFile{data: q}, int64(len(q)), true)
		require.NoError(t, err)
		_, err = im.PreadV([][]byte{make([]byte, 512)}, 0)
		require.ErrorIs(t, err, ErrMalformed)
	})
}

// A backing file is refused in every mode, and its name, which the image chose,
// goes nowhere.
func TestBackingFile_Row7_IsRefused(t *testing.T) {
	for _, version := range []uint32{2, 3} {
		l := plain
		l.version = version
		p := build(l)
		put64(p, offBackingFile, 512)
		put32(p, offBackingFile+8, 11)
		copy(p[512:], "/etc/shadow")
		for _, readOnly := range []bool{false, true} {
			_, err := Open(writeFile(t, p), readOnly)
			require.ErrorIs(t, err, ErrUnsupported)
			require.NotContains(t, err.Error(), "shadow")
		}
	}
}

// The disk's data is never written over a table, and a table in use is never
// allocated.
func TestTables_Row7_AreNotOverwritten(t *testing.T) {
	p, l1 := one(t, plain)
	table := binary.BigEndian.Uint64(p[l1:]) & entryOffset
	block := binary.BigEndian.Uint64(p[binary.BigEndian.Uint64(p[offRefcountTable:]):])
	for _, target := range []uint64{uint64(l1), table, block, 4096} {
		for _, flags := range []uint64{entryCopied, entryCopied | entryZero} {
			f := &memFile{data: slices.Clone(p)}
			put64(f.data, int(table), target|flags)
			im, err := open(f, int64(len(f.data)), false)
			require.NoError(t, err)
			before := slices.Clone(f.data)
			_, err = im.PwriteV([][]byte{make([]byte, 512)}, 100)
			require.ErrorIs(t, err, ErrMalformed)
			require.Equal(t, before, f.data)
		}
	}
	t.Run("counted as free", func(t *testing.T) {
		f := &memFile{data: slices.Clone(p)}
		clear(f.data[block:][:4096])
		im, err := open(f, int64(len(f.data)), false)
		require.NoError(t, err)
		_, err = im.PwriteV([][]byte{make([]byte, 512)}, 100<<10)
		require.ErrorIs(t, err, ErrMalformed)
		require.ErrorContains(t, err, "qemu-img check")
		_, err = im.PwriteV([][]byte{make([]byte, 512)}, 0)
		require.ErrorContains(t, err, "no longer", "nothing is written any more")
		require.NoError(t, readAll(im, make([]byte, 512), 0))
		require.Error(t, im.Close())
	})
	t.Run("freed twice", func(t *testing.T) {
		f := &memFile{data: slices.Clone(p)}
		copy(f.data[table+8:], f.data[table:table+8])
		im, err := open(f, int64(len(f.data)), false)
		require.NoError(t, err)
		require.NoError(t, im.Discard(0, 8192))
		require.ErrorIs(t, im.Sync(), ErrMalformed)
		require.ErrorIs(t, im.Sync(), ErrMalformed)
	})
}

// A huge sparse file with tables as large as they may be costs what the tables
// cost, not what they describe.
func TestMemoryIsBounded(t *testing.T) {
	l := layout{version: 3, clusterBits: 9, refOrder: 0, size: 64 << 10}
	p := build(l)
	put32(p, offL1Size, maxL1Bytes/8)
	put64(p, offL1Table, 1<<30)
	put64(p, offSize, maxL1Bytes/8*(32<<10))
	put32(p, offRefcountClus, maxRefTableBytes/512)
	f := writeFile(t, p)
	require.NoError(t, f.Truncate(1<<40))
	_, err := f.WriteAt(p[512:1024], 2<<30) // the refcount table's only entry
	require.NoError(t, err)
	put64(p, offRefcountTable, 2<<30)
	_, err = f.WriteAt(p[:112], 0)
	require.NoError(t, err)

	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	im, err := Open(f, false)
	require.NoError(t, err)
	for i := range int64(2000) {
		require.NoError(t, readAll(im, make([]byte, 512), im.Size()/2000*i&^511))
		_, err := im.PwriteV([][]byte{{1}}, im.Size()/2000*i)
		require.NoError(t, err)
	}
	require.NoError(t, im.Discard(0, im.Size()))
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, after.HeapAlloc-before.HeapAlloc, uint64(56<<20))
	require.NoError(t, im.Close())
	st, err := os.Stat(f.Name())
	require.NoError(t, err)
	require.LessOrEqual(t, st.Size(), int64(1<<40+4<<20))
}

// A device cannot grow, and its free space holds anything.
func TestDevice(t *testing.T) {
	p := build(layout{version: 3, clusterBits: 16, refOrder: 4, size: 1 << 20})
	for range 10 * 65536 / sector {
		p = append(p, stamped(99, 1)...)
	}
	f := &memFile{data: p}
	im, err := open(f, int64(len(p)), false)
	require.NoError(t, err)
	im.device = true
	f.fail = func(kind byte) error {
		if kind == 'g' {
			return os.NewSyscallError("grow the device", unix.ENOSPC)
		}
		return nil
	}
	for g := range int64(9) { // and an L2 table
		_, err := im.PwriteV([][]byte{stamped(uint64(g)+1, 1)}, g<<16+5*sector)
		require.NoError(t, err)
	}
	_, err = im.PwriteV([][]byte{{1}}, 9<<16)
	require.ErrorIs(t, err, unix.ENOSPC)
	buf := make([]byte, 65536)
	for g := range int64(16) {
		require.NoError(t, readAll(im, buf, g<<16))
		for i := range int64(65536 / sector) {
			want := uint64(0)
			if i == 5 && g < 9 {
				want = uint64(g) + 1
			}
			require.NoError(t, checkStamp(buf[i*sector:][:sector], want))
		}
	}
	require.NoError(t, im.Discard(0, 1<<18))
	require.NoError(t, im.Sync())
	_, err = im.PwriteV([][]byte{{1}}, 9<<16)
	require.NoError(t, err, "a discard made room")
	require.NoError(t, im.Close())
	require.Zero(t, fsck(f.data))
}

func TestConcurrentRequests(t *testing.T) {
	im := openImage(t, writeFile(t, build(layout{version: 3, clusterBits: 12, refOrder: 4, size: 1 << 20})))
	var group sync.WaitGroup
	for i := range int64(4) {
		group.Go(func() {
			buf := make([]byte, 6000)
			for k := range int64(50) {
				off := i<<18 + k*5000
				if _, err := im.PwriteV([][]byte{bytes.Repeat([]byte{byte(k)}, 5000)}, off); err != nil {
					t.Error(err)
				}
				if _, err := im.PreadV([][]byte{buf[:5000]}, off); err != nil || buf[4999] != byte(k) {
					t.Error(err, buf[4999])
				}
				if err := im.Sync(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	require.NoError(t, im.Close())
}
