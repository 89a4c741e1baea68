package qcow2

import (
	"errors"
	"math/rand/v2"
	"testing"
)

// seeds are small images: a fuzzer changes bytes, so that few should not matter.
func seeds(f *testing.F) [][]byte {
	var list [][]byte
	for _, l := range []layout{
		{version: 3, clusterBits: 9, refOrder: 4, size: 40 << 10},
		{version: 2, clusterBits: 9, refOrder: 4, size: 40 << 10},
		{version: 3, clusterBits: 10, refOrder: 0, size: 20 << 10},
	} {
		list = append(list, build(l))
		p, _ := one(f, l)
		list = append(list, p)
	}
	l := layout{version: 3, clusterBits: 9, refOrder: 5, size: 24 << 10}
	list = append(list, withHistory(f, l).image)
	l.zstd = true
	return append(list, withHistory(f, l).image)
}

// maxDisk keeps a fuzzer's disks readable as a whole.
const maxDisk = 1 << 20

// expected is an error that an image may cause.
func expected(err error) bool {
	return err == nil || errors.Is(err, ErrMalformed) || errors.Is(err, ErrUnsupported) ||
		errors.Is(err, ErrRepair) || errors.Is(err, ErrFull)
}

// FuzzRead opens any bytes as an image and reads the disk.
func FuzzRead(f *testing.F) {
	for _, p := range seeds(f) {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		im, err := open(&memFile{data: p}, int64(len(p)), true)
		if !expected(err) {
			t.Fatal(err)
		}
		if err != nil {
			return
		}
		buf := make([]byte, 700)
		step := max(im.Size()/500, 600)
		for off := int64(0); off < im.Size(); off += step {
			_, err := im.PreadV([][]byte{buf[:min(700, im.Size()-off)]}, off)
			if !expected(err) {
				t.Fatal(err)
			}
		}
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzWrite runs a program of requests on any bytes as an image. If the image
// was sound, it stays so.
func FuzzWrite(f *testing.F) {
	for i, p := range seeds(f) {
		f.Add(p, uint64(i), uint8(30))
	}
	f.Fuzz(func(t *testing.T, p []byte, seed uint64, steps uint8) {
		file := &memFile{data: append([]byte(nil), p...)}
		im, err := open(file, int64(len(p)), false)
		if !expected(err) {
			t.Fatal(err)
		}
		if err != nil || im.Size() == 0 {
			return
		}
		sound := im.Size() <= maxDisk && fsck(p) == verdict{} && noneBeyond(im)
		r := rand.New(rand.NewPCG(seed, 6))
		for range steps {
			n := r.Int64N(min(im.Size(), 40<<10)) + 1
			off := r.Int64N(im.Size() - n + 1)
			var err error
			switch k := r.IntN(12); {
			case k < 5:
				_, err = im.PwriteV([][]byte{make([]byte, n)}, off)
			case k < 7:
				_, err = im.PreadV([][]byte{make([]byte, n)}, off)
			case k < 9:
				err = im.Discard(off, min(im.Size()-off, n<<r.IntN(10)))
			case k < 11:
				err = im.WriteZeroes(off, n, k == 9)
			default:
				err = im.Sync()
			}
			if !expected(err) || sound && err != nil {
				t.Fatal(err)
			}
		}
		if err := im.Close(); !expected(err) || sound && err != nil {
			t.Fatal(err)
		}
		if grown := int64(len(file.data) - len(p)); grown > int64(steps)*(80<<10+8*im.ClusterSize())+maxRefTableBytes {
			t.Fatalf("the file grew by %d bytes", grown)
		}
		if v := fsck(file.data); sound && v != (verdict{}) {
			t.Fatal(v)
		}
	})
}

// noneBeyond reports that no cluster beyond the file's end is counted as used: it
// would become a leak when the file grows.
func noneBeyond(im *Image) bool {
	for c := im.end(); c < int64(len(im.refTable))*im.perBlock; c++ {
		if im.refTable[c/im.perBlock] == 0 {
			c |= im.perBlock - 1
			continue
		}
		if s, at, _, err := im.counts(c); err != nil || im.count(s, at) != 0 {
			return false
		}
	}
	return true
}
