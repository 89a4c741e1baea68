package proto

import (
	"encoding/binary"
	"errors"
	"net"

	"github.com/containerd/ttrpc"
)

// Frames that the guest sends: a chunk of output and what is around it, at
// most. ttrpc alone would take 4 MiB each.
const (
	frameHeader   = 10 // length, stream, type, flags
	maxReplyFrame = MaxChunk + 4<<10
)

// NewClient makes a ttrpc client of a connection to the agent, for
// NewAgentClient. The guest is not trusted: a frame that is longer than the
// protocol allows ends the connection before memory is set aside for it.
func NewClient(conn net.Conn, opts ...ttrpc.ClientOpts) *ttrpc.Client {
	return ttrpc.NewClient(newLimitedConn(conn), opts...)
}

func newLimitedConn(conn net.Conn) *limitedConn { return &limitedConn{Conn: conn} }

var errFrameTooLong = errors.New("the agent sent a frame that is too long")

// limitedConn checks the length of every frame that passes. One goroutine
// reads.
type limitedConn struct {
	net.Conn
	head [frameHeader]byte
	have int // bytes of the header seen
	rest int // bytes of the frame still to come
	err  error
}

// Read hands on what it reads, up to the end of a header that is refused.
func (c *limitedConn) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.Conn.Read(p)
	if checkErr := c.check(p[:n]); checkErr != nil {
		c.err = checkErr
		c.Conn.Close()
		return 0, checkErr
	}
	return n, err
}

func (c *limitedConn) check(p []byte) error {
	for len(p) > 0 {
		if c.rest > 0 {
			n := min(c.rest, len(p))
			c.rest -= n
			p = p[n:]
			continue
		}
		n := copy(c.head[c.have:], p)
		c.have += n
		p = p[n:]
		if c.have < frameHeader {
			return nil
		}
		c.have = 0
		length := binary.BigEndian.Uint32(c.head[:4])
		if length > maxReplyFrame {
			return errFrameTooLong
		}
		c.rest = int(length)
	}
	return nil
}
