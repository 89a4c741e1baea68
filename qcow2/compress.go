package qcow2

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// maxZstdWindow bounds what a zstd frame makes the decoder allocate. A decoder
// should support 8 MiB (RFC 8878 §3.1.1.1.2); a cluster has at most 2 MiB.
const maxZstdWindow = 8 << 20

// inflater decompresses clusters, one at a time, and keeps the last.
type inflater struct {
	last  mapping // what plain is
	plain []byte
	raw   []byte
	src   bytes.Reader
	flate io.ReadCloser
	zstd  *zstd.Decoder
}

// inflate returns the content of a compressed cluster, valid until the next
// call.
func (im *Image) inflate(m mapping) ([]byte, error) {
	c := &im.inflater
	if c.plain != nil && c.last == m {
		return c.plain, nil
	}
	if c.plain == nil {
		c.plain = make([]byte, im.h.clusterSize())
	}
	c.last = mapping{}
	// At most two clusters: that is what the field for the sectors can say. The
	// last sector need not be there as a whole.
	n := min(m.size, im.length-m.host)
	if int64(cap(c.raw)) < n {
		c.raw = make([]byte, n)
	}
	if err := im.readMeta(c.raw[:n], m.host); err != nil {
		return nil, err
	}
	c.src.Reset(c.raw[:n])
	if err := c.decode(im.h.compression); err != nil {
		return nil, fmt.Errorf("%w: compressed cluster at %d: %w", ErrMalformed, m.host, err)
	}
	c.last = m
	return c.plain, nil
}

// decode fills plain from src. What comes after in src is padding, or another
// cluster's.
func (c *inflater) decode(compression uint8) error {
	if compression == compressionZstd {
		if c.zstd == nil {
			// Synchronous: no goroutines.
			d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
				zstd.WithDecoderMaxWindow(maxZstdWindow))
			if err != nil {
				return err
			}
			c.zstd = d
		}
		if err := c.zstd.Reset(&c.src); err != nil {
			return err
		}
		_, err := io.ReadFull(c.zstd, c.plain)
		return err
	}
	if c.flate == nil {
		c.flate = flate.NewReader(&c.src)
	} else if err := c.flate.(flate.Resetter).Reset(&c.src, nil); err != nil {
		return err
	}
	_, err := io.ReadFull(c.flate, c.plain)
	return err
}

func (c *inflater) close() {
	if c.zstd != nil {
		c.zstd.Close()
	}
	*c = inflater{}
}
