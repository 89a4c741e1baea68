package qcow2

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/virtio"
)

const benchSize = 256 << 20

// benchDisks are a raw file and images of it, allocated or not.
func benchDisks(b *testing.B, allocated bool, run func(b *testing.B, d virtio.BlockBackend)) {
	fill := func(d virtio.BlockBackend) {
		buf := stamped(1, 1<<20/sector)
		for off := int64(0); allocated && off < benchSize; off += int64(len(buf)) {
			_, err := d.PwriteV([][]byte{buf}, off)
			require.NoError(b, err)
		}
		require.NoError(b, d.Sync())
	}
	b.Run("raw", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "raw"))
		require.NoError(b, err)
		defer f.Close()
		require.NoError(b, f.Truncate(benchSize))
		d, err := virtio.NewFileBackend(f, false)
		require.NoError(b, err)
		fill(d)
		run(b, d)
	})
	for _, bits := range []uint{12, 16, 21} {
		b.Run(fmt.Sprintf("qcow2-%dk", 1<<bits>>10), func(b *testing.B) {
			im := openImage(b, writeFile(b, build(layout{version: 3, clusterBits: bits, refOrder: 4, size: benchSize})))
			fill(im)
			run(b, im)
			require.NoError(b, im.Close())
		})
	}
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int64{4 << 10, 128 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dk", size>>10), func(b *testing.B) {
			benchDisks(b, true, func(b *testing.B, d virtio.BlockBackend) {
				bufs, r := driverBuffers(size), rand.New(rand.NewPCG(1, 1))
				b.SetBytes(size)
				b.ReportAllocs()
				for b.Loop() {
					_, err := d.PreadV(bufs, r.Int64N(benchSize/size)*size)
					require.NoError(b, err)
				}
			})
		})
	}
}

func BenchmarkOverwrite(b *testing.B) {
	for _, size := range []int64{4 << 10, 128 << 10} {
		b.Run(fmt.Sprintf("%dk", size>>10), func(b *testing.B) {
			benchDisks(b, true, func(b *testing.B, d virtio.BlockBackend) {
				bufs, r := driverBuffers(size), rand.New(rand.NewPCG(1, 1))
				b.SetBytes(size)
				b.ReportAllocs()
				for b.Loop() {
					_, err := d.PwriteV(bufs, r.Int64N(benchSize/size)*size)
					require.NoError(b, err)
				}
			})
		})
	}
}

// BenchmarkAllocate writes where nothing was, in order, and flushes every 4 MiB.
func BenchmarkAllocate(b *testing.B) {
	for _, size := range []int64{4 << 10, 128 << 10} {
		b.Run(fmt.Sprintf("%dk", size>>10), func(b *testing.B) {
			benchDisks(b, false, func(b *testing.B, d virtio.BlockBackend) {
				bufs, off := driverBuffers(size), int64(0)
				b.SetBytes(size)
				b.ReportAllocs()
				for b.Loop() {
					_, err := d.PwriteV(bufs, off)
					require.NoError(b, err)
					if off += size; off%(4<<20) == 0 {
						require.NoError(b, d.Sync())
					}
					if off == benchSize {
						off = 0
						require.NoError(b, d.Discard(0, benchSize))
					}
				}
			})
		})
	}
}

// driverBuffers are pages, as a driver gives them.
func driverBuffers(size int64) [][]byte {
	var bufs [][]byte
	for range size / (4 << 10) {
		bufs = append(bufs, make([]byte, 4<<10))
	}
	return bufs
}
