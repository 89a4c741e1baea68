package erofs

import (
	"errors"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Output is where an image goes: an [os.File], normally. It need not be empty.
type Output interface {
	io.WriterAt
	Truncate(size int64) error
}

// stream is a buffer before an output that is written from front to back.
type stream struct {
	out Output
	buf []byte // its length is a multiple of the block's
	lo  int    // buf[lo:hi] is not written yet
	hi  int
	pos int64 // of buf[lo] in the output
}

// end is the output's offset of the next byte.
func (s *stream) end() int64 { return s.pos + int64(s.hi-s.lo) }

// space returns at least n bytes to fill, n at most the buffer's size. Those
// filled are to be committed.
func (s *stream) space(n int) ([]byte, error) {
	if len(s.buf)-s.hi < n {
		if err := s.flush(); err != nil {
			return nil, err
		}
		s.lo, s.hi = 0, 0
	}
	return s.buf[s.hi:], nil
}

// commit makes the first n bytes of the space part of the stream.
func (s *stream) commit(n int) { s.hi += n }

// drop leaves out the first n bytes of the space, with what follows them in
// place.
func (s *stream) drop(n int) error {
	err := s.flush()
	s.hi += n
	s.lo = s.hi
	return err
}

// write appends a copy of p.
func (s *stream) write(p []byte) error {
	for len(p) > 0 {
		b, err := s.space(1)
		if err != nil {
			return err
		}
		n := copy(b, p)
		s.commit(n)
		p = p[n:]
	}
	return nil
}

// pad appends zeros up to the offset.
func (s *stream) pad(to int64) error {
	for n := to - s.end(); n > 0; n = to - s.end() {
		b, err := s.space(1)
		if err != nil {
			return err
		}
		b = b[:min(n, int64(len(b)))]
		clear(b)
		s.commit(len(b))
	}
	return nil
}

// flush writes what the buffer holds.
func (s *stream) flush() error {
	if s.lo == s.hi {
		return nil
	}
	if _, err := s.out.WriteAt(s.buf[s.lo:s.hi], s.pos); err != nil {
		return &Error{"write image", err}
	}
	s.pos += int64(s.hi - s.lo)
	s.lo = s.hi
	return nil
}

// extent is a run of blocks.
type extent struct{ block, count uint32 }

// Freed blocks are punched out when there are this many runs or this many
// blocks: rarely enough not to cost, often enough to bound memory and space.
const (
	maxFreedRuns   = 1 << 12
	maxFreedBlocks = 64 << 20 / blockSize
)

// free gives up blocks that were written.
func (w *Writer) free(e extent) error {
	if e.count == 0 {
		return nil
	}
	w.freedBlocks += int64(e.count)
	if n := len(w.freed); n > 0 && w.freed[n-1].block+w.freed[n-1].count == e.block {
		w.freed[n-1].count += e.count
	} else {
		w.freed = append(w.freed, e)
	}
	if len(w.freed) < maxFreedRuns && w.freedBlocks < maxFreedBlocks {
		return nil
	}
	return w.punch()
}

// punch turns the freed blocks into zeros that take no space.
func (w *Writer) punch() error {
	if len(w.freed) == 0 {
		return nil
	}
	if err := w.data.flush(); err != nil {
		return err
	}
	slices.SortFunc(w.freed, func(a, b extent) int { return int(int64(a.block) - int64(b.block)) })
	for i := 0; i < len(w.freed); {
		e := w.freed[i]
		for i++; i < len(w.freed) && w.freed[i].block == e.block+e.count; i++ {
			e.count += w.freed[i].count
		}
		if err := zeroOut(w.data.out, int64(e.block)*blockSize, int64(e.count)*blockSize); err != nil {
			return &Error{"free blocks of image", err}
		}
	}
	w.freed, w.freedBlocks = w.freed[:0], 0
	return nil
}

// zeroOut makes a part of the output zeros, by punching a hole if it can.
func zeroOut(out Output, off, size int64) error {
	if f, ok := out.(*os.File); ok {
		c, err := f.SyscallConn()
		if err != nil {
			return err
		}
		var perr error
		err = c.Control(func(fd uintptr) {
			for {
				perr = unix.Fallocate(int(fd), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, size)
				if perr != unix.EINTR {
					return
				}
			}
		})
		if err != nil {
			return err
		}
		if !errors.Is(perr, unix.EOPNOTSUPP) && !errors.Is(perr, unix.ENOSYS) {
			return perr
		}
	}
	zeros := make([]byte, min(size, 1<<18))
	for size > 0 {
		n, err := out.WriteAt(zeros[:min(size, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, size = off+int64(n), size-int64(n)
	}
	return nil
}
