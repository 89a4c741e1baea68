package devices

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestExit(t *testing.T) {
	var codes []uint8
	e := NewExit(func(c uint8) { codes = append(codes, c) })
	e.Write(0, []byte{0})
	e.Write(0, []byte{7})
	e.Write(0, []byte{255})
	require.Equal(t, []uint8{0, 7, 255}, codes)

	e.Write(1, []byte{1})
	e.Write(0, []byte{1, 2})
	e.Write(0, nil)
	require.Len(t, codes, 3, "one byte at offset 0 and nothing else")

	p := []byte{1, 2}
	e.Read(0, p)
	require.Equal(t, []byte{0, 0}, p)
}
