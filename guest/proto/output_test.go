package proto

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func frameOf(t testing.TB, r *OutputRecord) []byte {
	t.Helper()
	b, err := AppendOutputRecord(nil, r)
	require.NoError(t, err)
	return b
}

func TestOutputReader(t *testing.T) {
	var in []byte
	want := []*OutputRecord{
		{Id: "a", Stream: StreamStdout, Data: []byte("hello")},
		{Id: strings.Repeat("x", MaxExecID), Stream: StreamStderr, Data: bytes.Repeat([]byte{0xff}, MaxChunk)},
		{Id: "b.c_d-e", Stream: StreamStdout},
	}
	for _, r := range want {
		in = append(in, frameOf(t, r)...)
	}
	o := NewOutputReader(bytes.NewReader(in))
	for _, r := range want {
		got, err := o.Next()
		require.NoError(t, err)
		require.Equal(t, r.Id, got.Id)
		require.Equal(t, r.Stream, got.Stream)
		require.True(t, bytes.Equal(r.Data, got.Data))
	}
	_, err := o.Next()
	require.Equal(t, io.EOF, err)
	for n := 1; n < len(frameOf(t, want[0])); n++ {
		_, err := NewOutputReader(bytes.NewReader(in[:n])).Next()
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%d bytes", n)
	}
}

func TestOutputReaderRefuses(t *testing.T) {
	for name, in := range map[string][]byte{
		"a long frame":    binary.BigEndian.AppendUint32(nil, maxOutputRecord+1),
		"no protobuf":     append(binary.BigEndian.AppendUint32(nil, 2), 0xff, 0xff),
		"no exec":         frameOf(t, &OutputRecord{Stream: 1}),
		"a strange exec":  frameOf(t, &OutputRecord{Id: "\x1b[2J", Stream: 1}),
		"a long exec":     frameOf(t, &OutputRecord{Id: strings.Repeat("x", MaxExecID+1), Stream: 1}),
		"no stream":       frameOf(t, &OutputRecord{Id: "a"}),
		"a third stream":  frameOf(t, &OutputRecord{Id: "a", Stream: 3}),
		"too much":        frameOf(t, &OutputRecord{Id: "a", Stream: 1, Data: make([]byte, MaxChunk+1)}),
		"an empty record": {0, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewOutputReader(bytes.NewReader(in)).Next()
			require.Error(t, err)
			require.NotEqual(t, io.EOF, err)
			require.Less(t, len(err.Error()), 200)
		})
	}
}

func FuzzOutputReader(f *testing.F) {
	f.Add(frameOf(f, &OutputRecord{Id: "a", Stream: 1, Data: []byte("x\n")}))
	f.Add(frameOf(f, &OutputRecord{Id: "a", Stream: 9}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		o := NewOutputReader(bytes.NewReader(in))
		for {
			r, err := o.Next()
			if err != nil {
				return
			}
			require.True(t, ValidExecID(r.GetId()))
			require.LessOrEqual(t, len(r.GetData()), MaxChunk)
			require.Contains(t, []uint32{StreamStdout, StreamStderr}, r.GetStream())
		}
	})
}
