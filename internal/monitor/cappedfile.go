package monitor

import (
	"io"
	"sync"
)

// consoleCap bounds the console's log: the guest decides how much it writes.
const consoleCap = 1 << 20

// cappedFile passes on at most n bytes and drops the rest. It never fails: the
// guest's console must not stop because the host's disk is full.
type cappedFile struct {
	mu  sync.Mutex
	out io.Writer
	n   int
	buf []byte
}

func newCappedFile(out io.Writer, n int) *cappedFile { return &cappedFile{out: out, n: n} }

// Write gathers a line before it is written: a serial port delivers a byte at
// a time.
func (c *cappedFile) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range p {
		if c.n == 0 {
			break
		}
		c.n--
		c.buf = append(c.buf, b)
		if b == '\n' || len(c.buf) >= 4096 || c.n == 0 {
			c.flush()
		}
	}
	return len(p), nil
}

// Flush writes an unfinished line.
func (c *cappedFile) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flush()
}

// flush is Flush with c.mu held. What cannot be written is dropped.
func (c *cappedFile) flush() {
	if len(c.buf) > 0 {
		c.out.Write(c.buf)
		c.buf = c.buf[:0]
	}
}
