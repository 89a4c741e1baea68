package vmm

import (
	"bytes"
	"io"
	"sync"
)

// panicMarker starts the line that Linux prints when it panics
// (kernel/panic.c).
const panicMarker = "Kernel panic - not syncing: "

// tailSize bounds what is remembered of the console.
const tailSize = 16 << 10

// consoleTap passes the serial port's output on and remembers its end, for
// boot errors and to tell a panic from a reset. The guest writes it one byte
// at a time.
type consoleTap struct {
	out io.Writer
	// line, if not nil, is called with every line after every byte of it, or
	// with the end of it if it is long. It must not keep the bytes.
	line func([]byte)

	mu   sync.Mutex
	ring [tailSize]byte
	n    uint64 // bytes ever written
	last []byte // the line so far, at most lineMax of its end
}

// lineMax bounds what of a line is shown to consoleTap.line.
const lineMax = 128

func newConsoleTap(out io.Writer, line func([]byte)) *consoleTap {
	return &consoleTap{out: out, line: line, last: make([]byte, 0, lineMax)}
}

func (c *consoleTap) Write(p []byte) (int, error) {
	c.mu.Lock()
	for _, b := range p {
		c.ring[c.n%tailSize] = b
		c.n++
		c.addToLine(b)
	}
	c.mu.Unlock()
	return c.out.Write(p)
}

// addToLine is called with c.mu held.
func (c *consoleTap) addToLine(b byte) {
	if b != '\n' {
		if len(c.last) == lineMax {
			c.last = c.last[:copy(c.last, c.last[lineMax/2:])]
		}
		c.last = append(c.last, b)
		if c.line != nil {
			c.line(c.last)
		}
		return
	}
	c.last = c.last[:0]
}

// Tail returns a copy of the remembered bytes, oldest first.
func (c *consoleTap) Tail() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n <= tailSize {
		return bytes.Clone(c.ring[:c.n])
	}
	at := c.n % tailSize
	return append(bytes.Clone(c.ring[at:]), c.ring[:at]...)
}

// Panic returns the text of the last kernel panic in the remembered output.
func (c *consoleTap) Panic() (string, bool) {
	tail := c.Tail()
	i := bytes.LastIndex(tail, []byte(panicMarker))
	if i < 0 {
		return "", false
	}
	msg, _, _ := bytes.Cut(tail[i+len(panicMarker):], []byte("\n"))
	return string(bytes.TrimRight(msg, "\r ")), true
}
