package assets

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

const (
	// maxWindow bounds the decoder's memory; our builders compress within it.
	maxWindow = 8 << 20
	// holeSize is the unit in which runs of zeros become holes: a page, which
	// is the block of the file systems that caches live on.
	holeSize = 4 << 10
	copySize = 128 << 10
)

// decompress writes the asset into the empty file f and checks size and digest.
func (a Asset) decompress(f *os.File) error {
	// The decoder lives for one call: an embedder keeps none of its memory.
	dec, err := zstd.NewReader(bytes.NewReader(a.Compressed),
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return err
	}
	defer dec.Close()

	h := sha256.New()
	w := &sparseWriter{f: f}
	buf := make([]byte, copySize)
	// One byte more than promised is enough to know that it is wrong.
	n, err := io.CopyBuffer(onlyWriter{io.MultiWriter(h, w)}, onlyReader{io.LimitReader(dec, a.Size+1)}, buf)
	switch {
	case w.err != nil:
		return w.err
	case err != nil:
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	case n != a.Size:
		return fmt.Errorf("%w: %d bytes, want %d", ErrCorrupt, n, a.Size)
	case [32]byte(h.Sum(nil)) != a.SHA256:
		return fmt.Errorf("%w: sha256 %x, want %x", ErrCorrupt, h.Sum(nil), a.SHA256)
	}
	return f.Truncate(a.Size) // a hole at the end has no write of its own
}

// onlyReader and onlyWriter hide ReadFrom and WriteTo, so that our buffer and
// its size are used.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// sparseWriter writes to a fresh file and leaves holes where whole pages are
// zero. off stays aligned because all writes but the last are copySize long,
// or else a page is merely written that could have been a hole.
type sparseWriter struct {
	f   *os.File
	off int64
	err error // the first failure of the file, as opposed to the stream
}

func (w *sparseWriter) Write(p []byte) (int, error) {
	var zero [holeSize]byte
	done, start := 0, 0 // p[start:done] is data that has not been written yet
	flush := func() error {
		if start == done {
			return nil
		}
		_, err := w.f.WriteAt(p[start:done], w.off+int64(start))
		return err
	}
	for done < len(p) {
		n := min(holeSize, len(p)-done)
		if bytes.Equal(p[done:done+n], zero[:n]) {
			if w.err = flush(); w.err != nil {
				return 0, w.err
			}
			start = done + n
		}
		done += n
	}
	if w.err = flush(); w.err != nil {
		return 0, w.err
	}
	w.off += int64(len(p))
	return len(p), nil
}
