package logfile

import (
	"bytes"
	"errors"
	"io"
	"os"
	"time"
)

// Reader reads a log from its oldest file on, while it is written or not. It
// belongs to one goroutine.
type Reader struct {
	root *os.Root
	name string

	seq  int      // of the last file that was opened, 0 before the first
	file *os.File // nil between files
	off  int64    // in the file, of what follows buf
	buf  []byte   // read and not parsed
	skip int64    // bytes of a line that is too long, while it lasts
	full bool     // a newer file is there: this one does not grow any more
	last time.Time
}

// NewReader returns a reader of a log in a directory, which need not be there
// yet.
func NewReader(root *os.Root, name string) *Reader { return &Reader{root: root, name: name} }

// Close gives the reader's file back.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

// Next returns the next entry, or io.EOF if there is none now; there may be one
// later. Where entries are missing or damaged it returns a notice. Any other
// error is of a log that cannot be read on.
func (r *Reader) Next() (Entry, error) {
	for {
		if r.file == nil {
			if e, err := r.open(); err != nil || e.Source != "" {
				return e, err
			}
		}
		if b, ok := r.line(); ok {
			if e, ok := r.parse(b); ok {
				return e, nil
			}
			continue
		}
		err := r.fill()
		if err == nil {
			continue
		}
		newer, listErr := r.newer()
		if !errors.Is(err, io.EOF) {
			if newer == 0 {
				return Entry{}, err
			}
			r.leave()
			return notice(r.last, "a file of the log cannot be read on: %v", err), nil
		}
		if !r.full {
			if newer == 0 {
				return Entry{}, orEOF(listErr)
			}
			// What was written before the newer file was made is yet to read.
			r.full = true
			continue
		}
		if e := r.leave(); e.Source != "" {
			return e, nil
		}
	}
}

// orEOF is err, or io.EOF if there is none. A directory that is gone has no
// more to say.
func orEOF(err error) error {
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return io.EOF
	}
	return err
}

// open opens the oldest file that was not read, and returns a notice if there
// were others between.
func (r *Reader) open() (Entry, error) {
	for {
		next, err := r.newer()
		if next == 0 {
			return Entry{}, orEOF(err)
		}
		f, err := openSegment(r.root, r.name, next)
		if err != nil {
			r.seq = next
			return notice(r.last, "a file of the log cannot be read: %v", err), nil
		}
		if f == nil {
			continue // deleted since
		}
		missed := next - r.seq - 1
		if r.seq == 0 {
			missed = 0 // how the log began is nobody's business
		}
		r.seq, r.file, r.off, r.full = next, f, 0, false
		if missed > 0 {
			return notice(r.last, "%d files of the log were deleted before they were read", missed), nil
		}
		return Entry{}, nil
	}
}

// newer is the next file after the one that was opened last, 0 if there is none.
func (r *Reader) newer() (int, error) {
	seqs, err := segments(r.root, r.name)
	for _, seq := range seqs {
		if seq > r.seq {
			return seq, err
		}
	}
	return 0, err
}

// leave closes a file that has been read, and returns a notice if it ends
// within a line.
func (r *Reader) leave() Entry {
	rest := r.skip + int64(len(r.buf))
	r.file.Close()
	r.file, r.buf, r.skip = nil, r.buf[:0], 0
	if rest > 0 {
		return damaged(r.last, rest)
	}
	return Entry{}
}

// line takes a line off the buffer.
func (r *Reader) line() ([]byte, bool) {
	i := bytes.IndexByte(r.buf, '\n')
	if i < 0 {
		return nil, false
	}
	b := r.buf[:i]
	r.buf = r.buf[i+1:]
	return b, true
}

// parse makes an entry of a line; false for an empty one.
func (r *Reader) parse(b []byte) (Entry, bool) {
	if size := r.skip + int64(len(b)); r.skip > 0 {
		r.skip = 0
		return damaged(r.last, size), true
	}
	if len(b) == 0 {
		return Entry{}, false
	}
	e, err := parseLine(b)
	if err != nil {
		return damaged(r.last, int64(len(b))), true
	}
	r.last = e.Time
	return e, true
}

// fill reads more of the file; io.EOF at its end. The beginning of a line that
// is too long is dropped.
func (r *Reader) fill() error {
	if len(r.buf) >= MaxLine {
		r.skip += int64(len(r.buf))
		r.buf = r.buf[:0]
	}
	if cap(r.buf)-len(r.buf) < readSize {
		b := make([]byte, len(r.buf), MaxLine+2*readSize)
		copy(b, r.buf)
		r.buf = b
	}
	n, err := r.file.ReadAt(r.buf[len(r.buf):len(r.buf)+readSize], r.off)
	r.buf = r.buf[:len(r.buf)+n]
	r.off += int64(n)
	if n > 0 {
		return nil
	}
	return err
}

const readSize = 64 << 10
