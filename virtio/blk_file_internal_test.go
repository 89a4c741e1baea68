package virtio

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Interrupted and short transfers go on where they stopped.
func TestTransfer(t *testing.T) {
	src := []byte("0123456789abcdefghijklmnopqrstuvwxyz")
	for most := 1; most <= len(src); most++ {
		interrupted := false
		call := func(_ int, bufs [][]byte, off int64) (int, error) {
			if interrupted = !interrupted; interrupted {
				return -1, unix.EINTR
			}
			n := 0
			for _, b := range bufs {
				k := copy(b, src[off:off+int64(min(most-n, len(src)-int(off)))])
				off += int64(k)
				n += k
				if n == most {
					break
				}
			}
			return n, nil
		}
		got := make([]byte, 30)
		bufs := [][]byte{got[:1], got[1:1], got[1:12], got[12:13], got[13:]}
		keep := append([][]byte(nil), bufs...)
		n, err := transfer("test", 0, call, bufs, 3)
		require.NoError(t, err)
		require.Equal(t, 30, n)
		require.Equal(t, src[3:33], got, "%d at a time", most)
		require.Equal(t, keep, bufs, "the caller's list was changed")

		n, err = transfer("test", 0, call, bufs, 10)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.Equal(t, len(src)-10, n)
	}
	n, err := transfer("test", 0, func(int, [][]byte, int64) (int, error) { return -1, unix.EIO }, [][]byte{{1}}, 0)
	require.ErrorIs(t, err, unix.EIO)
	require.Zero(t, n)
	n, err = transfer("test", 0, nil, [][]byte{{}}, 0)
	require.NoError(t, err)
	require.Zero(t, n)
	require.Equal(t, [][]byte{[]byte("cd")}, after([][]byte{[]byte("ab"), {}, []byte("cd")}, 2))
	require.Equal(t, [][]byte{[]byte("d")}, after([][]byte{[]byte("ab"), {}, []byte("cd")}, 3))
}

func TestBoundedBuffer(t *testing.T) {
	b := newBoundedBuffer(7)
	var in, out bytes.Buffer
	p := make([]byte, 5)
	for i := range 1000 {
		q := []byte{byte(i), byte(i >> 1), byte(i >> 2), byte(i >> 3)}[:i%5]
		if len(q) > 0 && b.len() < 7 {
			n, ok := b.write(q, nil)
			require.True(t, ok)
			in.Write(q[:n])
		}
		out.Write(p[:b.read(p[:i%4])])
		require.LessOrEqual(t, b.len(), 7)
	}
	b.close()
	for b.len() > 0 {
		out.Write(p[:b.readWait(p)])
	}
	require.Equal(t, in.Bytes(), out.Bytes())
	require.Zero(t, b.readWait(p))
	_, ok := b.write(p, nil)
	require.False(t, ok)
	done := make(chan struct{})
	close(done)
	b = newBoundedBuffer(1)
	b.write(p[:1], nil)
	_, ok = b.write(p[:1], done)
	require.False(t, ok)
}
