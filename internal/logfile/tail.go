package logfile

import (
	"bytes"
	"io"
	"os"
	"slices"
)

// maxTail is how much of a file is looked at, at its end. A Writer's are
// smaller.
const maxTail = 64 << 20

// Tail returns the last n entries that match, in order, and goes on after the
// end. It comes before the first Next. With n of 0 it only goes to the end.
func (r *Reader) Tail(n int, match func(*Entry) bool) ([]Entry, error) {
	seqs, err := segments(r.root, r.name)
	if err != nil {
		if err := orEOF(err); err != io.EOF {
			return nil, err
		}
		return nil, nil
	}
	var found []Entry
	for i, seq := range slices.Backward(seqs) {
		newest := i == len(seqs)-1
		if newest {
			r.seq = seq
		} else if len(found) >= n {
			break
		}
		f, data, from, err := readEnd(r.root, r.name, seq)
		if err != nil {
			e := notice(r.last, "a file of the log cannot be read: %v", err)
			found = append(found, e)
			continue
		}
		if f == nil {
			continue // deleted since
		}
		end := bytes.LastIndexByte(data, '\n') + 1
		if newest {
			r.file, r.off = f, from+int64(end)
		} else {
			f.Close()
		}
		found = appendLast(found, n, data[:end], match)
	}
	slices.Reverse(found)
	if len(found) > 0 {
		r.last = found[len(found)-1].Time
	}
	return found, nil
}

// appendLast appends the last entries of whole lines, the last first, until
// there are n.
func appendLast(found []Entry, n int, data []byte, match func(*Entry) bool) []Entry {
	for len(data) > 0 && len(found) < n {
		begin := bytes.LastIndexByte(data[:len(data)-1], '\n') + 1
		l := data[begin : len(data)-1]
		data = data[:begin]
		if len(l) == 0 {
			continue
		}
		e, err := parseLine(l)
		if err != nil {
			continue // Next would say so, but has no time to say it with
		}
		if match(&e) {
			found = append(found, e)
		}
	}
	return found
}

// readEnd opens a file and reads the end of it; from is where that begins.
func readEnd(root *os.Root, log string, seq int) (f *os.File, data []byte, from int64, err error) {
	f, err = openSegment(root, log, seq)
	if f == nil {
		return nil, nil, 0, err
	}
	info, err := f.Stat()
	if err == nil {
		from = max(0, info.Size()-maxTail)
		data, err = io.ReadAll(io.NewSectionReader(f, from, info.Size()-from))
	}
	if err != nil {
		f.Close()
		return nil, nil, 0, err
	}
	return f, data, from, nil
}
