package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// Conn reads and writes frames on a byte stream.
type Conn struct {
	c io.Closer
	r *bufio.Reader
	// payload is reused by every Receive.
	payload []byte

	mu  sync.Mutex // guards w and out: frames are written whole
	w   io.Writer
	out []byte
}

// NewConn returns a Conn over rwc, which Close closes.
func NewConn(rwc io.ReadWriteCloser) *Conn {
	return &Conn{c: rwc, r: bufio.NewReaderSize(rwc, 64<<10), w: rwc}
}

// Close closes the byte stream; a blocked Receive then returns, if the stream
// supports that.
func (c *Conn) Close() error { return c.c.Close() }

// Send writes one frame. It blocks while the other side does not read.
func (c *Conn) Send(f Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = f.Append(c.out[:0])
	if _, err := c.w.Write(c.out); err != nil {
		return &Error{Op: "send", Err: err}
	}
	if cap(c.out) > 2*MaxData {
		c.out = nil
	}
	return nil
}

// WriteEncoded writes whole frames that were encoded with Frame.Append.
func (c *Conn) WriteEncoded(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.w.Write(b); err != nil {
		return &Error{Op: "send", Err: err}
	}
	return nil
}

// SendJSON writes one frame whose payload is v as JSON.
func (c *Conn) SendJSON(k Kind, command uint32, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return &Error{Op: "encode", Err: err}
	}
	if len(b) > maxControl {
		return &Error{Op: "send", Err: fmt.Errorf("arguments and environment are too long: %d bytes encoded, at most %d", len(b), maxControl)}
	}
	return c.Send(Frame{Kind: k, Command: command, Payload: b})
}

// SendUint32 writes a Signal or Credit frame.
func (c *Conn) SendUint32(k Kind, command uint32, s Stream, v uint32) error {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	return c.Send(Frame{Kind: k, Command: command, Stream: s, Payload: b[:]})
}

// SendSize writes a Resize frame.
func (c *Conn) SendSize(command uint32, rows, cols uint16) error {
	return c.SendUint32(KindResize, command, 0, uint32(rows)|uint32(cols)<<16)
}

// Receive reads one frame. Its payload is valid until the next Receive. At the
// end of the stream between frames the error is io.EOF itself.
func (c *Conn) Receive() (Frame, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(c.r, h[:]); err != nil {
		if err == io.EOF {
			return Frame{}, err
		}
		return Frame{}, &Error{Op: "receive", Err: err}
	}
	f, n, err := parseHeader(&h)
	if err != nil {
		return Frame{}, &Error{Op: "receive", Err: err}
	}
	// The buffer grows with what has arrived, not with what was announced.
	const step = 64 << 10
	c.payload = c.payload[:0]
	for len(c.payload) < n {
		at, chunk := len(c.payload), min(n-len(c.payload), step)
		c.payload = append(c.payload, make([]byte, chunk)...)
		if _, err := io.ReadFull(c.r, c.payload[at:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return Frame{}, &Error{Op: "receive", Err: err}
		}
	}
	f.Payload = c.payload
	return f, nil
}

// JSON decodes the payload of f.
func (f Frame) JSON(v any) error {
	if err := json.Unmarshal(f.Payload, v); err != nil {
		return &Error{Op: "decode", Err: fmt.Errorf("%w: %w", ErrProtocol, err)}
	}
	return nil
}
