package proto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	pb "google.golang.org/protobuf/proto"
)

// OutputPort is the monitor's vsock port for what commands write, see
// OutputRecord. It is open only where SetupRequest.capture is set, and for one
// connection, the agent's first.
const OutputPort = 1025

// The streams of an OutputRecord.
const (
	StreamStdout = 1
	StreamStderr = 2
)

// maxOutputRecord leaves room for the ID and the fields' tags and lengths.
const maxOutputRecord = MaxChunk + MaxExecID + 64

// AppendOutputRecord appends a record with its length to b.
func AppendOutputRecord(b []byte, r *OutputRecord) ([]byte, error) {
	head := len(b)
	b, err := pb.MarshalOptions{}.MarshalAppend(append(b, 0, 0, 0, 0), r)
	if err != nil {
		return nil, fmt.Errorf("output record: %w", err)
	}
	binary.BigEndian.PutUint32(b[head:], uint32(len(b)-head-4))
	return b, nil
}

// OutputReader reads the records of a connection, which the guest writes: it
// takes none that the protocol does not allow.
type OutputReader struct {
	r   io.Reader
	buf []byte
}

// NewOutputReader returns a reader of r.
func NewOutputReader(r io.Reader) *OutputReader {
	return &OutputReader{r: r, buf: make([]byte, maxOutputRecord)}
}

// Next returns the next record; io.EOF between two of them is the end. After
// any other error there is no telling where a record begins.
func (o *OutputReader) Next() (*OutputRecord, error) {
	var head [4]byte
	if _, err := io.ReadFull(o.r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxOutputRecord {
		return nil, fmt.Errorf("output record of %d bytes: more than %d", n, maxOutputRecord)
	}
	if _, err := io.ReadFull(o.r, o.buf[:n]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	var r OutputRecord
	if err := pb.Unmarshal(o.buf[:n], &r); err != nil {
		return nil, errors.New("malformed output record")
	}
	switch {
	case !ValidExecID(r.GetId()):
		return nil, errors.New("output record without a valid exec id")
	case r.GetStream() != StreamStdout && r.GetStream() != StreamStderr:
		return nil, fmt.Errorf("output record of an unknown stream %d", r.GetStream())
	case len(r.GetData()) > MaxChunk:
		return nil, fmt.Errorf("output record with %d bytes: more than %d", len(r.GetData()), MaxChunk)
	}
	return &r, nil
}

// ValidExecID tells whether id can be ExecStart.id.
func ValidExecID(id string) bool {
	if id == "" || len(id) > MaxExecID {
		return false
	}
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}
