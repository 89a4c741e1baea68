package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Kind says what a frame means.
type Kind uint8

// The frames, with their direction.
const (
	KindHello   Kind = 1 + iota // host → L1: Hello. Client → warm rig: Hello.
	KindReady                   // L1 → host: Ready
	KindStart                   // host → L1: Spec
	KindStarted                 // L1 → host: Started
	KindExit                    // L1 → host: Exit; the command's last frame
	KindSignal                  // host → L1: uint32 signal number, to the process group
	KindAbort                   // host → L1: kill the command and forget its streams
	KindResize                  // host → L1: uint16 rows, uint16 columns
	KindData                    // both: bytes of a stream
	KindEOF                     // both: end of a stream
	KindCredit                  // both: uint32 bytes of a stream that were consumed
	KindPing                    // host → L1
	KindPong                    // L1 → host
	KindStatus                  // warm rig → client: Status
	KindStop                    // client → warm rig: end
	kindEnd
)

// Stream is one of a command's three byte streams.
type Stream uint8

// The streams.
const (
	Stdin Stream = iota
	Stdout
	Stderr
	streamEnd
)

const (
	headerSize = 12

	// MaxData is the largest payload of a data frame. With its header it
	// fills the 32 KiB that Linux's virtio-console driver moves at once.
	MaxData = 32<<10 - headerSize

	// maxControl bounds every other payload; a Spec carries a whole
	// environment, whose limit in Linux is 2 MiB before base64.
	maxControl = 8 << 20

	// Window is the number of bytes of a stream that may be under way.
	Window = 256 << 10
)

// ErrProtocol is in the chain of every error about malformed frames.
var ErrProtocol = errors.New("rig protocol violated")

// Error is an error of this package.
type Error struct {
	Op  string // what was being done
	Err error
}

func (e *Error) Error() string { return "rig: " + e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Frame is one message. Payload is lent, not given.
type Frame struct {
	Kind    Kind
	Stream  Stream
	Command uint32
	Payload []byte
}

// Append appends the frame's encoding to dst.
func (f Frame) Append(dst []byte) []byte {
	dst = append(dst, byte(f.Kind), byte(f.Stream), 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, f.Command)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(f.Payload)))
	return append(dst, f.Payload...)
}

// Uint32 returns the number in a Credit or Signal frame.
func (f Frame) Uint32() uint32 { return binary.LittleEndian.Uint32(f.Payload) }

// Size returns the rows and columns in a Resize frame.
func (f Frame) Size() (rows, cols uint16) {
	return binary.LittleEndian.Uint16(f.Payload), binary.LittleEndian.Uint16(f.Payload[2:])
}

// parseHeader checks a header against the rules of its kind and returns the
// frame without its payload, and the payload's length.
func parseHeader(h *[headerSize]byte) (Frame, int, error) {
	f := Frame{Kind: Kind(h[0]), Stream: Stream(h[1]), Command: binary.LittleEndian.Uint32(h[4:])}
	n := binary.LittleEndian.Uint32(h[8:])
	lowest, highest := uint32(0), uint32(maxControl)
	switch f.Kind {
	case KindData:
		lowest, highest = 1, MaxData
	case KindSignal, KindResize, KindCredit:
		lowest, highest = 4, 4
	case KindEOF, KindAbort, KindPing, KindPong, KindStop:
		highest = 0
	}
	switch {
	case f.Kind == 0 || f.Kind >= kindEnd:
		return f, 0, fmt.Errorf("%w: frame kind %d", ErrProtocol, f.Kind)
	case f.Stream >= streamEnd:
		return f, 0, fmt.Errorf("%w: stream %d", ErrProtocol, f.Stream)
	case h[2] != 0 || h[3] != 0:
		return f, 0, fmt.Errorf("%w: reserved bytes are set", ErrProtocol)
	case n < lowest || n > highest:
		return f, 0, fmt.Errorf("%w: %d bytes in a frame of kind %d", ErrProtocol, n, f.Kind)
	}
	return f, int(n), nil
}
