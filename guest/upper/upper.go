package upper

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

//go:embed templates.zst
var templates []byte

// Sizes of an upper disk, in bytes.
const (
	MinSize     = 32 << 20
	DefaultSize = 4 << 30
	// MaxSize is how far the templates' reserve of group descriptors lets the
	// file system grow.
	MaxSize = 2 << 40
)

// ErrSize reports a size outside MinSize to MaxSize.
var ErrSize = errors.New("size of an upper disk is out of range")

// Create makes a new upper disk of size bytes, a multiple of 4096, at path,
// which must not exist, and returns it open for reading and writing. The file
// is sparse: it takes about 1 MiB of the host's disk until the guest writes.
func Create(path string, size int64) (_ *os.File, err error) {
	if size < MinSize || size > MaxSize || size%4096 != 0 {
		return nil, fmt.Errorf("%w: %d bytes; want a multiple of 4096 from %d to %d", ErrSize, size, int64(MinSize), int64(MaxSize))
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(path)
		}
	}()
	if err := writeTemplate(f, size); err != nil {
		return nil, &fs.PathError{Op: "write the template to", Path: path, Err: err}
	}
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	return f, nil
}

// writeTemplate writes the largest template that fits.
func writeTemplate(f io.WriterAt, size int64) error {
	dec, err := zstd.NewReader(bytes.NewReader(templates), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer dec.Close()
	r := reader{r: bufio.NewReaderSize(dec, 64<<10)}
	want := int64(MinSize)
	if size >= DefaultSize {
		want = DefaultSize
	}
	for range r.uint32() {
		have := int64(r.uint64())
		for range r.uint32() {
			off, n := int64(r.uint64()), int64(r.uint32())
			var w io.Writer = io.Discard
			if have == want {
				w = io.NewOffsetWriter(f, off)
			}
			r.copy(w, n)
		}
		if have == want {
			break
		}
	}
	return r.err
}

// reader reads until its first error, and then zeros.
type reader struct {
	r   *bufio.Reader
	err error
}

func (r *reader) bytes(n int) [8]byte {
	var b [8]byte
	if r.err == nil {
		if _, r.err = io.ReadFull(r.r, b[:n]); r.err != nil {
			return [8]byte{}
		}
	}
	return b
}

func (r *reader) uint32() uint32 {
	b := r.bytes(4)
	return binary.LittleEndian.Uint32(b[:])
}

func (r *reader) uint64() uint64 {
	b := r.bytes(8)
	return binary.LittleEndian.Uint64(b[:])
}

func (r *reader) copy(w io.Writer, n int64) {
	if r.err == nil {
		_, r.err = io.CopyN(w, r.r, n)
	}
}
