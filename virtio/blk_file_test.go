package virtio_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/virtio"
	vt "github.com/sandpit-vm/sandpit/virtio/virtiotest"
)

func TestFileBackend(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(name)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(1<<20))
	b, err := virtio.NewFileBackend(f, false)
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, b.Size())

	n, err := b.PwriteV([][]byte{[]byte("ab"), {}, []byte("cde")}, 1000)
	require.NoError(t, err)
	require.Equal(t, 5, n)
	require.NoError(t, b.Sync())
	p, q := make([]byte, 3), make([]byte, 2)
	n, err = b.PreadV([][]byte{p, q}, 1000)
	require.NoError(t, err)
	require.Equal(t, 5, n)
	require.Equal(t, "abcde", string(p)+string(q))

	for _, unmap := range []bool{false, true} {
		_, err = b.PwriteV([][]byte{bytes.Repeat([]byte{1}, 600<<10)}, 4096)
		require.NoError(t, err)
		require.NoError(t, b.WriteZeroes(4097, 500<<10, unmap))
		buf := make([]byte, 600<<10)
		_, err = b.PreadV([][]byte{buf}, 4096)
		require.NoError(t, err)
		require.EqualValues(t, 1, buf[0])
		require.Equal(t, make([]byte, 500<<10), buf[1:1+500<<10])
		require.EqualValues(t, 1, buf[1+500<<10])
	}
	require.NoError(t, b.Discard(0, 8192))
	st, err := f.Stat()
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, st.Size())

	t.Run("T53 file becomes shorter", func(t *testing.T) {
		require.NoError(t, f.Truncate(4096))
		n, err := b.PreadV([][]byte{make([]byte, 1000), make([]byte, 1000)}, 3000)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.Equal(t, 1096, n)

		d := &disk{Driver: vt.New(t, virtio.NewBlk(virtio.BlkConfig{Backend: b}), vt.Config{})}
		d.Start()
		r, st := d.do(blkIn, 7, nil, 1024)
		require.EqualValues(t, blkIOErr, st)
		require.EqualValues(t, 512, r.Used)
	})
	t.Run("T49 read-only", func(t *testing.T) {
		r, err := os.Open(name)
		require.NoError(t, err)
		defer r.Close()
		for _, set := range []bool{false, true} {
			b, err := virtio.NewFileBackend(r, set)
			require.NoError(t, err)
			require.True(t, b.ReadOnly())
			_, err = b.PwriteV([][]byte{{1}}, 0)
			require.Error(t, err)
			require.Error(t, b.WriteZeroes(0, 1, false))
			require.Error(t, b.Discard(0, 1))
		}
	})
	t.Run("not a disk", func(t *testing.T) {
		dir, err := os.Open(t.TempDir())
		require.NoError(t, err)
		defer dir.Close()
		null, err := os.Open("/dev/null")
		require.NoError(t, err)
		defer null.Close()
		w, err := os.OpenFile(name, os.O_WRONLY, 0)
		require.NoError(t, err)
		defer w.Close()
		for _, f := range []*os.File{dir, null, w} {
			_, err := virtio.NewFileBackend(f, false)
			require.Error(t, err)
		}
	})
}
