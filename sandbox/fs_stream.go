package sandbox

import (
	"errors"
	"io"
	"io/fs"
	"math"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// pipeline is requests on their way, in order.
type pipeline struct{ calls []*proto.FileCall }

func (p *pipeline) room() bool { return len(p.calls) < proto.Window }

func (p *pipeline) start(s *proto.FileSession, r *proto.FileRequest) {
	p.calls = append(p.calls, s.Start(r))
}

// next waits for the oldest.
func (p *pipeline) next() (*proto.FileResponse, error) {
	c := p.calls[0]
	p.calls = p.calls[1:]
	return c.Wait()
}

// drain waits for all: what comes after them finds the session idle.
func (p *pipeline) drain() {
	for len(p.calls) > 0 {
		_, _ = p.next()
	}
}

// ReadFrom writes everything that r gives at the position, several pieces at a
// time. The count is of what the guest has taken.
func (f *File) ReadFrom(r io.Reader) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writeFrom(r)
}

// writeFrom is called with f.mu held.
func (f *File) writeFrom(r io.Reader) (int64, error) {
	n, err := f.copyIn(r, f.pos)
	if !f.append {
		f.pos += n
	}
	return n, err
}

func (f *File) copyIn(r io.Reader, offset int64) (total int64, err error) {
	if err := f.check(); err != nil {
		return 0, f.fail("write", err)
	}
	var flight pipeline
	defer flight.drain()
	var sizes []int
	take := func() error {
		resp, err := flight.next()
		n, asked := int64(resp.GetWritten()), int64(sizes[0])
		sizes = sizes[1:]
		switch {
		case n > asked:
			return f.fail("write", errors.New("the guest says that it wrote more than it was given"))
		case n < asked && err == nil:
			err = io.ErrShortWrite
		}
		total += n
		return f.fail("write", err)
	}
	buf := make([]byte, proto.MaxChunk)
	for {
		n, readErr := r.Read(buf)
		if n > 0 {
			if !flight.room() {
				if err := take(); err != nil {
					return total, err
				}
			}
			flight.start(f.session, &proto.FileRequest{Kind: proto.FileRequest_WRITE, Handle: handle, Offset: offset, Data: buf[:n]})
			sizes = append(sizes, n)
			offset += int64(n)
		}
		if readErr == nil {
			continue
		}
		for len(flight.calls) > 0 {
			if err := take(); err != nil {
				return total, err
			}
		}
		if readErr == io.EOF {
			readErr = nil
		}
		return total, readErr
	}
}

// WriteTo writes everything from the position on to w, several pieces at a
// time. Holes are not transferred but written as zeros.
func (f *File) WriteTo(w io.Writer) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	begin := f.pos
	end, err := f.extents(f.pos, func(data []byte, offset int64) error {
		if err := f.zeros(w, offset); err != nil {
			return err
		}
		n, err := w.Write(data)
		f.pos += int64(n)
		return err
	})
	if err == nil {
		err = f.zeros(w, end)
	}
	return f.pos - begin, err
}

// zeros writes what is a hole, up to an offset.
func (f *File) zeros(w io.Writer, offset int64) error {
	if f.pos >= offset {
		return nil
	}
	buf := make([]byte, min(offset-f.pos, proto.MaxChunk))
	for f.pos < offset {
		if err := f.check(); err != nil { // a hole may be long
			return f.fail("read", err)
		}
		n, err := w.Write(buf[:min(offset-f.pos, int64(len(buf)))])
		f.pos += int64(n)
		if err != nil {
			return err
		}
	}
	return nil
}

// extents gives all data from an offset on to each, and returns where the file
// ends.
func (f *File) extents(from int64, each func(data []byte, offset int64) error) (end int64, err error) {
	if err := f.check(); err != nil {
		return 0, f.fail("read", err)
	}
	end, err = readExtents(f.session, handle, from, each)
	var own readError
	if errors.As(err, &own) {
		return end, f.fail("read", own.err)
	}
	return end, err
}

// readError is a failure of reading, not of what is done with the data.
type readError struct{ err error }

func (e readError) Error() string { return e.err.Error() }

// readExtents reads an open file from an offset on, its holes skipped. What the
// guest says must make sense: offsets grow.
func readExtents(s *proto.FileSession, handle uint32, from int64, each func(data []byte, offset int64) error) (int64, error) {
	var flight pipeline
	defer flight.drain()
	flight.start(s, &proto.FileRequest{Kind: proto.FileRequest_SEEK, Handle: handle, Offset: from})
	if _, err := flight.next(); err != nil {
		return from, readError{err}
	}
	// It begins with few: a small file has no more.
	ahead := 2
	for {
		for len(flight.calls) < ahead {
			flight.start(s, &proto.FileRequest{Kind: proto.FileRequest_NEXT, Handle: handle, Length: proto.MaxChunk})
		}
		ahead = min(2*ahead, proto.Window)
		resp, err := flight.next()
		if err != nil {
			return from, readError{err}
		}
		if resp.GetOffset() < from {
			return from, readError{errors.New("the guest's file goes backwards")}
		}
		from = resp.GetOffset()
		if resp.GetEof() {
			return from, nil
		}
		if len(resp.GetData()) == 0 {
			return from, readError{errors.New("the guest sent nothing, and not the end of the file")}
		}
		if from > math.MaxInt64-proto.MaxChunk {
			return from, readError{errors.New("the guest's file has no end")}
		}
		if err := each(resp.GetData(), from); err != nil {
			return from, err
		}
		from += int64(len(resp.GetData()))
	}
}

// ReadDir reads a directory in the order of the guest's: n entries at most, and
// io.EOF at the end; all that are left if n <= 0, [MaxReadDir] at most.
func (f *File) ReadDir(n int) ([]fs.DirEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(); err != nil {
		return nil, f.fail("readdir", err)
	}
	size := 0
	for !f.dirEnd && (n <= 0 || len(f.dir) < n) {
		list, end, err := listMore(f.session, handle)
		if err == nil {
			for _, e := range list {
				size += len(e.Name())
			}
			f.dir, f.dirEnd = append(f.dir, list...), end
			if len(f.dir) > MaxReadDir || size > maxListBytes {
				err = errTooManyEntries
			}
		}
		if err != nil {
			out := f.dir
			f.dir = nil
			return out, f.fail("readdir", err)
		}
	}
	out := f.dir
	if n > 0 {
		out = out[:min(n, len(out)):min(n, len(out))]
		if len(out) == 0 {
			return nil, io.EOF
		}
	}
	f.dir = f.dir[len(out):]
	return out, nil
}

var errTooManyEntries = errors.New("the directory has too many entries; read it in pieces, with File.ReadDir(n)")

// listMore reads the next piece of a directory.
func listMore(s *proto.FileSession, handle uint32) ([]fs.DirEntry, bool, error) {
	resp, err := s.Do(&proto.FileRequest{Kind: proto.FileRequest_LIST, Handle: handle})
	if err != nil {
		return nil, false, err
	}
	list, err := dirEntries(resp.GetEntries())
	return list, resp.GetEof(), err
}
