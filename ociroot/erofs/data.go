package erofs

import (
	"bytes"
	"io"
)

// Data is a file's content in the image. The zero Data is no bytes.
type Data struct {
	size  int64
	block uint32 // the first, if it is in one piece
	chunk uint32 // 1 + where its chunks begin in Writer.chunks, or 0
}

// Size is the content's length in bytes.
func (d Data) Size() int64 { return d.size }

var zeroChunk [chunkSize]byte

func isZero(p []byte) bool { return bytes.Equal(p, zeroChunk[:len(p)]) }

// WriteData stores size bytes from r: all that is read goes to its final place
// in the output at once. Aligned runs of zeros of 64 KiB take no space. An error
// of r is returned as it is, [io.ErrUnexpectedEOF] if it ends early; the space is
// free again then, and the writer remains usable. Errors of the output are
// *[Error].
func (w *Writer) WriteData(r io.Reader, size int64) (Data, error) {
	const op = "write data"
	if err := w.usable(op); err != nil {
		return Data{}, err
	}
	if size < 0 {
		return Data{}, invalid(op, "size %d", size)
	}
	start := w.data.end()
	if blocksOf(size) > maxBlocks-start/blockSize {
		return Data{}, tooLarge(op, "%d bytes more", size)
	}
	d := Data{size: size}
	if size > 0 {
		d.block = uint32(start / blockSize)
	}
	chunks := w.chunks
	for off := int64(0); off < size; {
		b, err := w.data.space(chunkSize)
		if err != nil {
			return Data{}, w.fail(err)
		}
		b = b[:min(int64(len(b)/chunkSize*chunkSize), size-off)]
		if _, err := io.ReadFull(r, b); err != nil {
			w.chunks = chunks
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			if err := w.abandon(start); err != nil {
				return Data{}, w.fail(err)
			}
			return Data{}, err
		}
		if size < chunkSize {
			w.data.commit(len(b))
		} else if err := w.sparse(&d, off, b); err != nil {
			return Data{}, w.fail(err)
		}
		off += int64(len(b))
	}
	if err := w.data.pad(roundUp(w.data.end(), blockSize)); err != nil {
		return Data{}, w.fail(err)
	}
	if d.chunk == 0 {
		w.chunks = chunks
	}
	return d, nil
}

// abandon frees what was written since the offset.
func (w *Writer) abandon(start int64) error {
	if err := w.data.pad(roundUp(w.data.end(), blockSize)); err != nil {
		return err
	}
	return w.free(extent{uint32(start / blockSize), uint32((w.data.end() - start) / blockSize)})
}

// sparse commits b, which is in the stream's space and begins at off in the
// file, but for its chunks of zeros. Both are aligned to chunks.
func (w *Writer) sparse(d *Data, off int64, b []byte) error {
	for len(b) > 0 {
		c := b[:min(len(b), chunkSize)]
		switch zero := isZero(c); {
		case zero:
			if d.chunk == 0 {
				// The first hole: what came before it is in one piece.
				d.chunk = uint32(len(w.chunks)) + 1
				for o := int64(0); o < off; o += chunkSize {
					w.chunks = append(w.chunks, d.block+uint32(o/blockSize))
				}
			}
			w.chunks = append(w.chunks, nullBlock)
			if err := w.data.drop(len(c)); err != nil {
				return err
			}
		default:
			if d.chunk != 0 {
				w.chunks = append(w.chunks, uint32(w.data.end()/blockSize))
			}
			w.data.commit(len(c))
		}
		b, off = b[len(c):], off+int64(len(c))
	}
	return nil
}

// chunksOf returns where the chunks of d are; nil if d is in one piece.
func (w *Writer) chunksOf(size int64, chunk uint32) []uint32 {
	if chunk == 0 {
		return nil
	}
	first := int64(chunk) - 1
	return w.chunks[first : first+(size+chunkSize-1)/chunkSize]
}

// Discard frees the space of data that no file was made of. Of files, the writer
// does that when the last link goes.
func (w *Writer) Discard(d Data) error {
	if err := w.usable("discard data"); err != nil {
		return err
	}
	return w.fail(w.discard(d))
}

func (w *Writer) discard(d Data) error {
	if d.chunk == 0 {
		return w.free(extent{d.block, uint32(blocksOf(d.size))})
	}
	for i, block := range w.chunksOf(d.size, d.chunk) {
		if block == nullBlock {
			continue
		}
		n := blocksOf(min(chunkSize, d.size-int64(i)*chunkSize))
		if err := w.free(extent{block, uint32(n)}); err != nil {
			return err
		}
	}
	return nil
}
