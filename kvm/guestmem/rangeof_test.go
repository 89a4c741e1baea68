package guestmem_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

func TestRangeOf(t *testing.T) {
	m, err := guestmem.NewHeap(guestmem.Range{Base: 0x1000, Size: 0x2000}, guestmem.Range{Base: 0x10000, Size: 0x1000})
	require.NoError(t, err)
	for _, r := range []guestmem.Range{{0x1000, 0x2000}, {0x1001, 1}, {0x2fff, 1}, {0x10000, 0x1000}, {0x10800, 0x10}} {
		b, err := m.Bytes(r.Base, r.Size)
		require.NoError(t, err)
		got, ok := m.RangeOf(b)
		require.True(t, ok)
		require.Equal(t, r, got)
	}
	b, err := m.Bytes(0x1000, 0x100)
	require.NoError(t, err)
	got, ok := m.RangeOf(b[0x10:0x20])
	require.True(t, ok)
	require.Equal(t, guestmem.Range{Base: 0x1010, Size: 0x10}, got)
	for _, other := range [][]byte{nil, b[:0], make([]byte, 10)} {
		_, ok := m.RangeOf(other)
		require.False(t, ok)
	}
}
