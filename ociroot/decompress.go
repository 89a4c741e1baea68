package ociroot

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// compression is how a layer or an archive is packed, judged by its first
// bytes: media types are often wrong, and the diffID tells in the end.
type compression int

const (
	plain compression = iota
	packedGzip
	packedZstd
	packedBzip2
	packedXz
)

// maxWindow bounds the memory of a zstd decoder: that of `zstd -22`.
const maxWindow = 128 << 20

// sniff tells the compression of what head begins.
func sniff(head []byte) compression {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}):
		return packedGzip
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		// A skippable frame (RFC 8878 §3.1.2) may come first.
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.HasPrefix(head[1:], []byte{0x2a, 0x4d, 0x18}):
		return packedZstd
	case bytes.HasPrefix(head, []byte("BZh")) && len(head) > 3 && head[3] >= '1' && head[3] <= '9':
		return packedBzip2
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return packedXz
	}
	return plain
}

// mediaType is that of a layer packed so.
func (c compression) mediaType() string {
	const tar = "application/vnd.oci.image.layer.v1.tar"
	switch c {
	case packedGzip:
		return tar + "+gzip"
	case packedZstd:
		return tar + "+zstd"
	}
	return tar
}

// decompress reads what r holds, whatever its packing. Errors of the data are
// ErrMalformed, those of r are what they were.
func decompress(r io.Reader) (io.ReadCloser, compression, error) {
	src := &source{r: r}
	br := bufio.NewReaderSize(src, 64<<10)
	head, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, plain, err
	}
	c := sniff(head)
	u := &unpacker{src: src}
	switch c {
	case packedGzip:
		z, err := gzip.NewReader(br)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // its first bytes are there
		}
		if err != nil {
			return nil, c, src.blame(err)
		}
		u.Reader, u.close = z, func() { z.Close() }
	case packedZstd:
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, c, src.blame(err)
		}
		u.Reader, u.close = z, z.Close
	case packedBzip2:
		u.Reader = bzip2.NewReader(br)
	case packedXz:
		return nil, c, fmt.Errorf("%w: xz compression is not supported: unpack it first", ErrMalformed)
	default:
		u.Reader = br
	}
	return u, c, nil
}

// source remembers the first error of the reader below a decompressor, to tell
// it from those of the data.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func (s *source) blame(err error) error {
	switch {
	case err == nil || err == io.EOF:
		return err
	case s.err != nil:
		return s.err
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return exceeds("the zstd window is larger than %d MiB: %w", maxWindow>>20, err)
	case errors.Is(err, ErrContent):
		return err
	}
	return malformed("decompress: %w", err)
}

type unpacker struct {
	io.Reader
	src   *source
	close func()
}

func (u *unpacker) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	return n, u.src.blame(err)
}

func (u *unpacker) Close() error {
	if u.close != nil {
		u.close()
	}
	return nil
}

// ahead reads from r in a goroutine of its own, some buffers ahead of its
// reader, so that unpacking and flattening each have a processor.
type ahead struct {
	full, empty chan []byte
	stop, gone  chan struct{}
	err         error // valid once full is closed
	rest, buf   []byte
}

const (
	aheadBuffers = 4
	aheadSize    = 256 << 10
)

func readAhead(r io.Reader) *ahead {
	a := &ahead{
		full: make(chan []byte, aheadBuffers), empty: make(chan []byte, aheadBuffers),
		stop: make(chan struct{}), gone: make(chan struct{}),
	}
	for range aheadBuffers {
		a.empty <- make([]byte, aheadSize)
	}
	go a.run(r)
	return a
}

func (a *ahead) run(r io.Reader) {
	defer close(a.gone)
	defer close(a.full)
	for {
		var buf []byte
		select {
		case buf = <-a.empty:
		case <-a.stop:
			return
		}
		n, err := io.ReadFull(r, buf[:aheadSize])
		if n > 0 {
			a.full <- buf[:n] // has room for every buffer
		}
		if err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		if err != nil {
			a.err = err
			return
		}
	}
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.buf != nil {
			a.empty <- a.buf
			a.buf = nil
		}
		buf, ok := <-a.full
		if !ok {
			return 0, a.err
		}
		a.buf, a.rest = buf, buf
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close ends the goroutine and waits for it.
func (a *ahead) Close() {
	close(a.stop)
	<-a.gone
}
