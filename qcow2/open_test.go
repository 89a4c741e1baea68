package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var plain = layout{version: 3, clusterBits: 12, refOrder: 4, size: 1 << 20}

func put32(p []byte, off int, v uint32) { binary.BigEndian.PutUint32(p[off:], v) }
func put64(p []byte, off int, v uint64) { binary.BigEndian.PutUint64(p[off:], v) }

func TestHeaderIsChecked(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(p []byte)
		want   error
		says   string
	}{
		{"nothing", func([]byte) {}, nil, ""},
		{"magic", func(p []byte) { p[0] = 'q' }, ErrMalformed, "another format"},
		{"version 1", func(p []byte) { put32(p, offVersion, 1) }, ErrUnsupported, "qemu-img convert"},
		{"version 4", func(p []byte) { put32(p, offVersion, 4) }, ErrUnsupported, "qemu-img convert"},
		{"cluster bits 8", func(p []byte) { put32(p, offClusterBits, 8) }, ErrMalformed, "2^8"},
		{"cluster bits 22", func(p []byte) { put32(p, offClusterBits, 22) }, ErrMalformed, "2^22"},
		{"cluster bits huge", func(p []byte) { put32(p, offClusterBits, 1<<32-1) }, ErrMalformed, ""},
		{"size huge", func(p []byte) { put64(p, offSize, 1<<64-1) }, ErrMalformed, ""},
		{"size beyond L1", func(p []byte) { put64(p, offSize, 2<<20+1) }, ErrMalformed, "too small"},
		{"size zero", func(p []byte) { put64(p, offSize, 0) }, nil, ""},
		{"L1 entries huge", func(p []byte) { put32(p, offL1Size, 1<<32-1) }, ErrMalformed, "L1 table of"},
		{"L1 beyond the file", func(p []byte) { put32(p, offL1Size, 4<<20) }, ErrMalformed, "outside the file"},
		{"L1 not aligned", func(p []byte) { put64(p, offL1Table, 4096+8) }, ErrMalformed, "cluster's start"},
		{"L1 in the header", func(p []byte) { put64(p, offL1Table, 0) }, ErrMalformed, "in the header"},
		{"L1 offset huge", func(p []byte) { put64(p, offL1Table, 1<<64-4096) }, ErrMalformed, "outside the file"},
		{"L1 over the refcount table", func(p []byte) { put64(p, offL1Table, 4096) }, ErrMalformed, "two tables"},
		{"no refcount table", func(p []byte) { put32(p, offRefcountClus, 0) }, ErrMalformed, "refcount table"},
		{"refcount table huge", func(p []byte) { put32(p, offRefcountClus, 1<<32-1) }, ErrMalformed, "refcount table"},
		{"refcount table beyond the file", func(p []byte) { put64(p, offRefcountTable, 1<<40) }, ErrMalformed, "outside"},
		{"refcount table's entry outside", func(p []byte) { put64(p, 4096, 1<<40) }, ErrMalformed, "refcount block"},
		{"refcount block twice", func(p []byte) { put64(p, 4096+8, binary.BigEndian.Uint64(p[4096:])) }, ErrMalformed, "two tables"},
		{"L1 entry with reserved bits", func(p []byte) { put64(p, 8192, 3*4096|1<<60) }, ErrMalformed, "L2 table"},
		{"snapshots", func(p []byte) { put32(p, offSnapshotCount, 65537) }, ErrMalformed, "snapshots"},
		{"snapshot table", func(p []byte) { put32(p, offSnapshotCount, 1); put64(p, offSnapshots, 1<<30) }, ErrMalformed, "snapshot table"},
		{"refcount order", func(p []byte) { put32(p, offRefcountOrder, 7) }, ErrMalformed, "order"},
		{"header length 96", func(p []byte) { put32(p, offHeaderLength, 96) }, ErrMalformed, "header length"},
		{"header length 105", func(p []byte) { put32(p, offHeaderLength, 105) }, ErrMalformed, "header length"},
		{"header length huge", func(p []byte) { put32(p, offHeaderLength, 1<<31) }, ErrMalformed, "header length"},
		{"backing file", func(p []byte) { put64(p, offBackingFile, 200); put32(p, 16, 4); copy(p[200:], "/etc") }, ErrUnsupported, "qemu-img convert"},
		{"AES", func(p []byte) { put32(p, offCryptMethod, 1) }, ErrUnsupported, "encrypted"},
		{"LUKS", func(p []byte) { put32(p, offCryptMethod, 2) }, ErrUnsupported, "encrypted"},
		{"unknown encryption", func(p []byte) { put32(p, offCryptMethod, 3) }, ErrMalformed, "encryption"},
		{"dirty", func(p []byte) { put64(p, offIncompatible, featureDirty) }, ErrRepair, "qemu-img check -r all"},
		{"corrupt", func(p []byte) { put64(p, offIncompatible, featureCorrupt) }, ErrRepair, "qemu-img check -r all"},
		{"external data", func(p []byte) { put64(p, offIncompatible, featureExternalData) }, ErrUnsupported, "qemu-img convert"},
		{"extended L2", func(p []byte) { put64(p, offIncompatible, featureExtendedL2) }, ErrUnsupported, "extended_l2=off"},
		{"unknown features", func(p []byte) { put64(p, offIncompatible, 1<<63|1<<5) }, ErrUnsupported, "bits 5, 63"},
		{"unknown compatible features", func(p []byte) { put64(p, 80, 1<<63|1) }, nil, ""},
		{"raw external data", func(p []byte) { put64(p, offAutoclear, 2) }, ErrMalformed, "external data"},
		{"compression without the bit", func(p []byte) { p[offCompressionType] = 1 }, ErrMalformed, "compression"},
		{"the bit without compression", func(p []byte) { put64(p, offIncompatible, featureCompression) }, ErrMalformed, "compression"},
		{"zstd", func(p []byte) { put64(p, offIncompatible, featureCompression); p[offCompressionType] = 1 }, nil, ""},
		{"compression 2", func(p []byte) { put64(p, offIncompatible, featureCompression); p[offCompressionType] = 2 }, ErrUnsupported, "compression"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := build(plain)
			c.change(p)
			before := bytes.Clone(p)
			f := writeFile(t, p)
			_, err := Open(f, false)
			after, readErr := os.ReadFile(f.Name())
			require.NoError(t, readErr)
			require.Equal(t, before, after, "opening wrote")
			if c.want == nil {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, c.says)
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, "open", e.Op)
			require.NotContains(t, err.Error(), "/etc")
		})
	}
}

func TestShortFiles(t *testing.T) {
	p := build(plain)
	for _, n := range []int{0, 3, 71, 72, 103, 104, 111, 4095, 4096, 8192} {
		f := writeFile(t, p[:n])
		for _, readOnly := range []bool{false, true} {
			_, err := Open(f, readOnly)
			require.ErrorIs(t, err, ErrMalformed, "%d bytes", n)
		}
	}
}

// Marked images may be read.
func TestMarkedImagesAreReadOnly(t *testing.T) {
	for _, mark := range []uint64{featureDirty, featureCorrupt, featureDirty | featureCorrupt} {
		p := build(plain)
		put64(p, offIncompatible, mark)
		im, err := Open(writeFile(t, p), true)
		require.NoError(t, err)
		require.True(t, im.ReadOnly())
		require.NoError(t, readAll(im, make([]byte, 1<<20), 0))
		_, err = im.PwriteV([][]byte{{1}}, 0)
		require.ErrorIs(t, err, ErrReadOnly)
	}
}

func TestFilesThatCannotWork(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(name, build(plain), 0o600))
	for _, flags := range []int{os.O_WRONLY, os.O_RDWR | os.O_APPEND} {
		f, err := os.OpenFile(name, flags, 0)
		require.NoError(t, err)
		_, err = Open(f, false)
		require.ErrorIs(t, err, ErrFile)
		require.NoError(t, f.Close())
	}
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	_, err = Open(r, true)
	require.ErrorIs(t, err, ErrFile)
	_, err = Open(nil, true)
	require.ErrorIs(t, err, ErrFile)

	f, err := os.Open(name)
	require.NoError(t, err)
	defer f.Close()
	im, err := Open(f, false)
	require.NoError(t, err)
	require.True(t, im.ReadOnly(), "as the file is")
	require.NoError(t, im.Sync())
	require.NoError(t, im.Close())
}

func TestCallersMistakes(t *testing.T) {
	im := openImage(t, writeFile(t, build(plain)))
	buf := [][]byte{make([]byte, 512)}
	for _, off := range []int64{-1, 1<<20 - 511, 1 << 20, 1 << 62, -1 << 63} {
		_, err := im.PreadV(buf, off)
		require.ErrorIs(t, err, ErrRange)
		_, err = im.PwriteV(buf, off)
		require.ErrorIs(t, err, ErrRange)
		require.ErrorIs(t, im.Discard(off, 512), ErrRange)
		require.ErrorIs(t, im.WriteZeroes(off, 512, true), ErrRange)
	}
	require.ErrorIs(t, im.Discard(0, -1), ErrRange)
	require.NoError(t, im.Discard(1<<20, 0))
	require.NoError(t, im.Close())
	_, err := im.PreadV(buf, 0)
	require.ErrorIs(t, err, os.ErrClosed)
	require.ErrorIs(t, im.Sync(), os.ErrClosed)
}

// The host's failures are neither the image's nor the caller's.
func TestHostsFailures(t *testing.T) {
	f := writeFile(t, build(plain))
	im := openImage(t, f)
	_, err := im.PwriteV([][]byte{stamped(1, 64)}, 0)
	require.NoError(t, err)
	require.NoError(t, im.Sync())
	require.NoError(t, f.Truncate(12288))
	_, err = im.PreadV([][]byte{make([]byte, 512)}, 8192)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.False(t, errors.Is(err, ErrMalformed))

	full := &memFile{data: build(plain), fail: func(kind byte) error {
		if kind == 'g' {
			return os.NewSyscallError("ftruncate", unix.ENOSPC)
		}
		return nil
	}}
	im, err = open(full, int64(len(full.data)), false)
	require.NoError(t, err)
	_, err = im.PwriteV([][]byte{{1}}, 0)
	require.ErrorIs(t, err, unix.ENOSPC)
	require.False(t, errors.Is(err, ErrMalformed) || errors.Is(err, ErrFull))
	full.fail = nil
	_, err = im.PwriteV([][]byte{{1}}, 0)
	require.NoError(t, err, "there is room again")
}

// The autoclear bits go with the first write, not before.
func TestAutoclearBits(t *testing.T) {
	l := plain
	l.autoclear = 1<<40 | 1
	for _, write := range []func(im *Image) error{
		func(im *Image) error { _, err := im.PwriteV([][]byte{{1}}, 0); return err },
		func(im *Image) error { return im.Discard(0, 4096) },
		func(im *Image) error { return im.WriteZeroes(0, 4096, false) },
	} {
		f := &memFile{data: build(l)}
		im, err := open(f, int64(len(f.data)), false)
		require.NoError(t, err)
		require.NoError(t, readAll(im, make([]byte, 512), 0))
		require.NoError(t, im.Sync())
		require.EqualValues(t, l.autoclear, binary.BigEndian.Uint64(f.data[offAutoclear:]))
		require.NoError(t, write(im))
		require.Zero(t, binary.BigEndian.Uint64(f.data[offAutoclear:]))
	}
}
