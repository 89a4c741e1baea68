package flatten_test

import (
	"archive/tar"
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

// layerFile writes a layer of n files of the sizes that size returns, in
// directories of 100, and returns its name and length.
func layerFile(b *testing.B, n int, size func(*rand.Rand) int64) (string, int64) {
	path := filepath.Join(b.TempDir(), "layer.tar")
	f, err := os.Create(path)
	require.NoError(b, err)
	defer f.Close()
	buf := bufio.NewWriterSize(f, 1<<20)
	w := tar.NewWriter(buf)
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	for i := range n {
		if i%100 == 0 {
			require.NoError(b, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("usr/lib/dir%05d/", i/100), Mode: 0o755}))
		}
		h := tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("usr/lib/dir%05d/file%06d.py", i/100, i), Mode: 0o644,
			Size: size(r), ModTime: time.Unix(int64(i), 5), Format: tar.FormatPAX}
		require.NoError(b, w.WriteHeader(&h))
		for left := h.Size; left > 0; {
			m := min(left, int64(len(noise)))
			_, err := w.Write(noise[:m])
			require.NoError(b, err)
			left -= m
		}
	}
	require.NoError(b, w.Close())
	require.NoError(b, buf.Flush())
	info, err := f.Stat()
	require.NoError(b, err)
	return path, info.Size()
}

// peak reports the highest live heap with garbage while f runs.
func peak(f func()) uint64 {
	runtime.GC()
	stop := make(chan struct{})
	var highest uint64
	var wg sync.WaitGroup
	wg.Go(func() {
		var m runtime.MemStats
		for {
			runtime.ReadMemStats(&m)
			highest = max(highest, m.HeapInuse+m.StackInuse)
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	f()
	close(stop)
	wg.Wait()
	return highest
}

func benchmarkLayer(b *testing.B, n int, size func(*rand.Rand) int64) {
	path, length := layerFile(b, n, size)
	out, err := os.Create(filepath.Join(b.TempDir(), "image"))
	require.NoError(b, err)
	defer out.Close()
	one := func() flatten.Stats {
		in, err := os.Open(path)
		require.NoError(b, err)
		defer in.Close()
		bu := flatten.New(out, flatten.Options{Limits: flatten.Limits{Entries: 1 << 30}})
		require.NoError(b, bu.Layer(context.Background(), in))
		s, err := bu.Close()
		require.NoError(b, err)
		return s
	}
	var s flatten.Stats
	b.ReportAllocs()
	b.SetBytes(length)
	for b.Loop() {
		s = one()
	}
	b.StopTimer()
	b.ReportMetric(float64(peak(func() { one() }))/(1<<20), "peak-MiB")
	b.ReportMetric(float64(s.ImageBytes)/float64(s.Bytes), "image/data")
}

// 20,000 files of 10 KiB on average, as in the libraries of an interpreter.
func BenchmarkSmallFiles(b *testing.B) {
	benchmarkLayer(b, 20_000, func(r *rand.Rand) int64 { return int64(r.ExpFloat64() * 10_000) })
}

func BenchmarkLargeFiles(b *testing.B) {
	benchmarkLayer(b, 8, func(*rand.Rand) int64 { return 64 << 20 })
}

// As many entries as the default limit allows.
func BenchmarkMillionFiles(b *testing.B) {
	benchmarkLayer(b, 990_000, func(*rand.Rand) int64 { return 0 })
}

// What reading the archive alone takes.
func BenchmarkTarReader(b *testing.B) {
	path, length := layerFile(b, 20_000, func(r *rand.Rand) int64 { return int64(r.ExpFloat64() * 10_000) })
	b.SetBytes(length)
	b.ReportAllocs()
	for b.Loop() {
		f, err := os.Open(path)
		require.NoError(b, err)
		r := tar.NewReader(bufio.NewReaderSize(f, 256<<10))
		for {
			if _, err := r.Next(); err == io.EOF {
				break
			}
			_, err := io.Copy(io.Discard, r)
			require.NoError(b, err)
		}
		f.Close()
	}
}
