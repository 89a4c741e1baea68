package rig

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// tail remembers the last bytes that were written to it.
type tail struct {
	also io.Writer // gets everything too; or nil

	mu  sync.Mutex // guards buf
	buf []byte
}

const (
	tailBytes = 16 << 10
	tailLines = 25
)

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if n := len(t.buf); n > 2*tailBytes {
		t.buf = append(t.buf[:0], t.buf[n-tailBytes:]...)
	}
	if t.also != nil {
		_, _ = t.also.Write(p)
	}
	return len(p), nil
}

// String returns the last lines, indented.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimRight(string(bytes.ToValidUTF8(t.buf, []byte("?"))), "\r\n")
	if text == "" {
		return ""
	}
	lines := strings.Split(strings.ReplaceAll(text, "\r", ""), "\n")
	lines = lines[max(0, len(lines)-tailLines):]
	return "  | " + strings.Join(lines, "\n  | ")
}

func (t *tail) contains(s string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Contains(t.buf, []byte(s))
}
