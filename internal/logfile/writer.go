package logfile

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
)

// file is what a Writer needs of an *os.File.
type file interface {
	Write([]byte) (int, error)
	Truncate(int64) error
	Close() error
}

// Writer writes a log. Its methods may be called from any goroutine; they wait
// for the file system, for nothing else.
type Writer struct {
	root   *os.Root
	name   string
	limits Limits
	now    func() time.Time
	create func(name string) (file, error) // of a new file

	mu   sync.Mutex
	file file // nil: none could be made
	seq  int
	size int64
	torn bool // the file ends within a line
	buf  bytes.Buffer
	n    uint64 // entries in buf
	lost Lost
	said Lost // of lost, what a notice has said
}

// Lost is what could not be written.
type Lost struct {
	Entries uint64
	Bytes   uint64 // of lines
	Err     error  // why, the last time
}

// Open opens a log for writing, in a directory, after what is there.
func Open(root *os.Root, name string, limits Limits) (*Writer, error) {
	w := &Writer{root: root, name: name, limits: limits, now: time.Now}
	w.create = func(name string) (file, error) {
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err // not an *os.File that is nil
		}
		return f, nil
	}
	seqs, err := segments(root, name)
	if err != nil {
		return nil, fmt.Errorf("log %s: %w", name, err)
	}
	if len(seqs) > 0 {
		w.seq = seqs[len(seqs)-1]
		if err := w.resume(); err != nil {
			return nil, fmt.Errorf("log %s: %w", name, err)
		}
		w.prune(seqs)
		return w, nil
	}
	if err := w.rotate(); err != nil {
		return nil, fmt.Errorf("log %s: %w", name, err)
	}
	return w, nil
}

// resume goes on with the newest file.
func (w *Writer) resume() error {
	name := segmentName(w.name, w.seq)
	if err := checkRegular(w.root, name); err != nil {
		return err
	}
	f, err := w.root.OpenFile(name, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	w.file, w.size = f, info.Size()
	var last [1]byte
	if w.size > 0 {
		if _, err := f.ReadAt(last[:], w.size-1); err != nil || last[0] != '\n' {
			w.torn = true
		}
	}
	return nil
}

// prune deletes the files that are too old. One that cannot be deleted is
// tried again by the next Open.
func (w *Writer) prune(seqs []int) {
	for _, seq := range seqs {
		if seq < w.seq-w.limits.Backups {
			_ = w.root.Remove(segmentName(w.name, seq))
		}
	}
}

// Append writes data, a line or a piece of one at a time.
func (w *Writer) Append(source, exec string, data []byte) {
	if len(data) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	e := Entry{Time: w.now(), Source: source, Exec: exec}
	for len(data) > 0 {
		e.Data, data = cut(data)
		w.add(&e)
	}
	w.flush()
}

// Notice writes an entry by the log itself.
func (w *Writer) Notice(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := notice(w.now(), format, args...)
	w.add(&e)
	w.flush()
}

// Lost is what could not be written so far.
func (w *Writer) Lost() Lost {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

// Close closes the file. What is appended later is lost.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.create = func(string) (file, error) { return nil, fs.ErrClosed }
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}

// add puts an entry's line into buf, after writing what is there if the two do
// not fit into the file, or into memory.
func (w *Writer) add(e *Entry) {
	before := w.buf.Len()
	if err := appendLine(&w.buf, e); err != nil { // a year beyond 9999
		w.buf.Truncate(before)
		w.lose(1, uint64(len(e.Data)), err)
		return
	}
	after := w.buf.Len()
	if before > 0 && (w.size+int64(after) > w.limits.FileBytes || after > maxBuffer) {
		line := bytes.Clone(w.buf.Bytes()[before:])
		w.buf.Truncate(before)
		w.flush()
		w.buf.Write(line)
	}
	w.n++
}

// maxBuffer bounds what is written at once.
const maxBuffer = 2 * MaxLine

// flush writes buf, into a new file if it does not fit into this one.
func (w *Writer) flush() {
	if w.n == 0 {
		return
	}
	defer func() {
		w.buf.Reset()
		w.n = 0
	}()
	if w.file == nil || w.size > 0 && w.size+int64(w.buf.Len()) > w.limits.FileBytes {
		if err := w.rotate(); err != nil {
			w.lose(w.n, uint64(w.buf.Len()), err)
			return
		}
	}
	w.confess()
	if err := w.write(w.buf.Bytes()); err != nil {
		w.lose(w.n, uint64(w.buf.Len()), err)
	}
}

// confess says what was lost, once something can be written again.
func (w *Writer) confess() {
	entries := w.lost.Entries - w.said.Entries
	if entries == 0 {
		return
	}
	e := notice(w.now(), "%d entries of the log, %d bytes, were not written: %v", entries, w.lost.Bytes-w.said.Bytes, w.lost.Err)
	var b bytes.Buffer
	if appendLine(&b, &e) == nil && w.write(b.Bytes()) == nil {
		w.said = w.lost
	}
}

func (w *Writer) lose(entries, bytes uint64, err error) {
	w.lost.Entries += entries
	w.lost.Bytes += bytes
	w.lost.Err = err
}

// write writes whole lines or nothing.
func (w *Writer) write(b []byte) error {
	if w.torn {
		n, err := w.file.Write([]byte{'\n'})
		w.size += int64(n)
		if err != nil {
			return err
		}
		w.torn = false
	}
	n, err := w.file.Write(b)
	if err == nil {
		w.size += int64(n)
		return nil
	}
	if n > 0 && w.file.Truncate(w.size) != nil {
		w.size += int64(n)
		w.torn = true
	}
	return err
}

// rotate begins a new file.
func (w *Writer) rotate() error {
	next := w.seq + 1
	f, err := w.create(segmentName(w.name, next))
	if err != nil {
		return err
	}
	if w.file != nil {
		_ = w.file.Close() // each write has said what it had to say
	}
	w.file, w.seq, w.size, w.torn = f, next, 0, false
	if seqs, err := segments(w.root, w.name); err == nil {
		w.prune(seqs)
	}
	return nil
}
