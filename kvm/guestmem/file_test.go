package guestmem_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	content := bytes.Repeat([]byte("0123456789abcdef"), page/16+1) // a page and a bit
	require.NoError(t, os.WriteFile(path, content, 0o600))
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()

	const base = 4 << 30
	m, err := guestmem.NewFile(f, guestmem.Range{Base: base, Size: 4 * page})
	require.NoError(t, err)
	require.NoError(t, f.Close(), "the mapping needs no descriptor")
	all, err := m.Bytes(base, 4*page)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, all[:len(content)]))
	require.Equal(t, make([]byte, 4*page-len(content)), all[len(content):], "zeros follow the file's end")
	require.ErrorIs(t, m.Discard(guestmem.Range{Base: base, Size: page}), guestmem.ErrReadOnly)
	require.NoError(t, m.Close())
	require.NoError(t, m.Close())
	_, err = m.Bytes(base, 1)
	require.ErrorIs(t, err, guestmem.ErrOutOfRange)
}

func TestFile_LongerThanTheRange(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(100*page))
	m, err := guestmem.NewFile(f, guestmem.Range{Size: 2 * page})
	require.NoError(t, err)
	defer m.Close()
	require.Len(t, m.Regions()[0].Bytes(), 2*page)

	_, err = guestmem.NewFile(f, guestmem.Range{Size: page + 1})
	require.ErrorIs(t, err, guestmem.ErrUnaligned)
	require.NoError(t, f.Close())
	_, err = guestmem.NewFile(f, guestmem.Range{Size: page})
	require.ErrorIs(t, err, os.ErrClosed)
}
