package kvm

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// page is a run page of three pages, as KVM's are, with an exit in it.
func page(kind ExitKind, union ...byte) []byte {
	p := make([]byte, 3*4096)
	binary.LittleEndian.PutUint32(p[runExitReason:], uint32(kind))
	copy(p[runUnion:], union)
	return p
}

func pio(dir, size uint8, port uint16, count uint32, off uint64) []byte {
	u := []byte{dir, size}
	u = binary.LittleEndian.AppendUint16(u, port)
	u = binary.LittleEndian.AppendUint32(u, count)
	return binary.LittleEndian.AppendUint64(u, off)
}

func mmio(addr uint64, data [8]byte, n uint32, write byte) []byte {
	u := binary.LittleEndian.AppendUint64(nil, addr)
	u = append(u, data[:]...)
	u = binary.LittleEndian.AppendUint32(u, n)
	return append(u, write)
}

func TestDecodeExit_PIO(t *testing.T) {
	p := page(ExitIO, pio(_KVM_EXIT_IO_OUT, 2, 0x3f8, 3, 4096)...)
	copy(p[4096:], "aabbcc")
	e, err := decodeExit(p)
	require.NoError(t, err)
	require.Equal(t, ExitIO, e.Kind)
	require.True(t, e.Write)
	require.EqualValues(t, 0x3f8, e.Addr)
	require.EqualValues(t, 2, e.Size)
	require.EqualValues(t, 3, e.Count)
	require.Equal(t, "aa", string(e.Data), "the first element only")
	require.Equal(t, 2, cap(e.Data))
	var all []string
	for d := range e.Elements() {
		require.Equal(t, 2, cap(d))
		all = append(all, string(d))
	}
	require.Equal(t, []string{"aa", "bb", "cc"}, all)
	for range e.Elements() {
		break // stopping early is allowed
	}

	e, err = decodeExit(page(ExitIO, pio(_KVM_EXIT_IO_IN, 4, 1, 1, 3*4096-4)...))
	require.NoError(t, err)
	require.False(t, e.Write)
	require.Len(t, slices.Collect(e.Elements()), 1)
	copy(e.Data, "abcd")
}

func TestDecodeExit_T84_PIOLengths(t *testing.T) {
	for name, u := range map[string][]byte{
		"size 0":          pio(1, 0, 1, 1, 4096),
		"size 9":          pio(1, 9, 1, 1, 4096),
		"size 255":        pio(1, 255, 1, 1, 4096),
		"count 0":         pio(1, 1, 1, 0, 4096),
		"count huge":      pio(1, 8, 1, 1<<32-1, 4096),
		"past the end":    pio(1, 4, 1, 1, 3*4096-3),
		"at the end":      pio(1, 1, 1, 1, 3*4096),
		"offset huge":     pio(1, 1, 1, 1, 1<<63),
		"offset wraps":    pio(1, 4, 1, 1, 1<<64-2),
		"in kvm_run":      pio(1, 1, 1, 1, uint64(runExitReason)),
		"runs into limit": pio(1, 2, 1, 4097, 4096),
	} {
		_, err := decodeExit(page(ExitIO, u...))
		require.ErrorIs(t, err, ErrMalformedExit, name)
	}
}

func TestDecodeExit_T84_MMIOLengths(t *testing.T) {
	data := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
	for n := range uint32(10) {
		p := page(ExitMMIO, mmio(0xd0000000, data, n, 1)...)
		e, err := decodeExit(p)
		if n < 1 || n > 8 {
			require.ErrorIs(t, err, ErrMalformedExit)
			continue
		}
		require.NoError(t, err)
		require.True(t, e.Write)
		require.EqualValues(t, 0xd0000000, e.Addr)
		require.Equal(t, data[:n], e.Data)
		require.Equal(t, int(n), cap(e.Data))
		require.Len(t, slices.Collect(e.Elements()), 1)
	}
	_, err := decodeExit(page(ExitMMIO, mmio(0, data, 1<<32-1, 0)...))
	require.ErrorIs(t, err, ErrMalformedExit)
}

func TestDecodeExit_Others(t *testing.T) {
	le := binary.LittleEndian
	internal := le.AppendUint32(le.AppendUint32(nil, 1), 2)
	internal = le.AppendUint64(le.AppendUint64(internal, 0x11), 0x22)
	for _, c := range []struct {
		page []byte
		want Exit
		str  string
	}{
		{page(ExitHLT), Exit{Kind: ExitHLT}, "HLT"},
		{page(ExitShutdown), Exit{Kind: ExitShutdown}, "SHUTDOWN"},
		{page(ExitInterrupted), Exit{Kind: ExitInterrupted}, "INTR"},
		{page(ExitIRQWindowOpen), Exit{Kind: ExitIRQWindowOpen}, "IRQ_WINDOW_OPEN"},
		{page(ExitUnknown, 7), Exit{Kind: ExitUnknown, Code: 7}, "UNKNOWN 0x7"},
		{page(ExitFailEntry, 0x21), Exit{Kind: ExitFailEntry, Code: 0x21}, "FAIL_ENTRY 0x21"},
		{page(ExitException, 6), Exit{Kind: ExitException, Code: 6}, "EXCEPTION 0x6"},
		{page(ExitIOAPICEOI, 0x31), Exit{Kind: ExitIOAPICEOI, Code: 0x31}, "IOAPIC_EOI 0x31"},
		{page(99), Exit{Kind: 99}, "exit 99"},
		{page(ExitInternalError, internal...), Exit{Kind: ExitInternalError, Code: 1}, "INTERNAL_ERROR 1 [0x11 0x22]"},
		{page(ExitSystemEvent, internal...), Exit{Kind: ExitSystemEvent, Code: 1}, "SYSTEM_EVENT 1 [0x11 0x22]"},
	} {
		e, err := decodeExit(c.page)
		require.NoError(t, err)
		require.Equal(t, c.str, e.String())
		e.all = nil
		require.Equal(t, c.want, e)
	}
	// A count of words that the kernel's array does not have.
	e, err := decodeExit(page(ExitInternalError, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff))
	require.NoError(t, err)
	require.Len(t, e.Words(), 16)

	msr := append(make([]byte, 12), 0x10, 0, 0, 0, 42)
	e, err = decodeExit(page(ExitWRMSR, msr...))
	require.NoError(t, err)
	require.EqualValues(t, 0x10, e.Addr)
	require.True(t, e.Write)
	require.Equal(t, []byte{42, 0, 0, 0, 0, 0, 0, 0}, e.Data)

	debug := append(make([]byte, 8), 0x34, 0x12, 0, 0, 0, 0, 0, 0, 6)
	e, err = decodeExit(page(ExitDebug, debug...))
	require.NoError(t, err)
	require.EqualValues(t, 0x1234, e.Addr)
	require.Len(t, e.Data, 16)
	require.EqualValues(t, 6, e.Data[0])
}

// FuzzDecodeExit: whatever is in the run page, an exit is described inside the
// page, or refused.
func FuzzDecodeExit(f *testing.F) {
	f.Add(uint32(ExitIO), pio(1, 2, 3, 4, 4096))
	f.Add(uint32(ExitMMIO), mmio(1, [8]byte{}, 8, 0))
	f.Add(uint32(ExitInternalError), make([]byte, 136))
	f.Add(uint32(ExitUnknown), []byte{1})
	f.Fuzz(func(t *testing.T, kind uint32, union []byte) {
		p := page(ExitKind(kind), union[:min(len(union), 256)]...)
		e, err := decodeExit(p)
		if err != nil {
			require.True(t, errors.Is(err, ErrMalformedExit))
			return
		}
		_ = e.String()
		require.LessOrEqual(t, len(e.Words()), 16)
		if e.Kind == ExitIO || e.Kind == ExitMMIO {
			require.Len(t, e.Data, int(e.Size))
			require.True(t, e.Size >= 1 && e.Size <= 8)
			n := uint32(0)
			for d := range e.Elements() {
				require.Len(t, d, int(e.Size))
				n++
			}
			require.Equal(t, e.Count, n)
		}
	})
}
