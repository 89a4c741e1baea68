package vmm

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/kvm/guestmem"
)

func pmemTestFile(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	require.NoError(t, f.Truncate(size))
	return f
}

// A vCPU that cannot run because a file was made shorter says so, and what to do
// about it; any other error, and any other file's, stays what it is.
func TestWhyNotRun_T53_TruncatedFile(t *testing.T) {
	const size = 4<<20 - 100 // not whole pages
	m := &Machine{}
	var files []*os.File
	for i := range 2 {
		f := pmemTestFile(t, size)
		r := guestmem.Range{Base: guestmem.GPA(4+i) << 30, Size: 4 << 20}
		mem, err := guestmem.NewFile(f, r)
		require.NoError(t, err)
		defer mem.Close()
		files = append(files, f)
		m.pmem = append(m.pmem, pmemFile{mem, fmt.Sprintf("pmem-%d (%s)", i, f.Name()), r.Base + size - 1})
	}
	fault := fmt.Errorf("KVM_RUN: %w", unix.EFAULT)
	require.Equal(t, fault, m.whyNotRun(fault), "both files are whole")

	require.NoError(t, files[1].Truncate(2<<20))
	err := m.whyNotRun(fault)
	require.ErrorIs(t, err, ErrTruncated)
	require.ErrorIs(t, err, unix.EFAULT)
	require.ErrorContains(t, err, "pmem-1 ("+files[1].Name()+")")
	require.ErrorContains(t, err, "made shorter")       // the cause
	require.ErrorContains(t, err, "renaming a new one") // the remedy
	other := fmt.Errorf("KVM_RUN: %w", unix.EIO)
	require.Equal(t, other, m.whyNotRun(other))

	require.NoError(t, files[1].Truncate(size)) // zeros now, but there
	require.Equal(t, fault, m.whyNotRun(fault))
}

func TestMapPMem_UnfitFiles(t *testing.T) {
	for want, f := range map[string]*os.File{
		"is empty: write the image again": pmemTestFile(t, 0),
		"is no regular file": func() *os.File {
			d, err := os.Open(t.TempDir())
			require.NoError(t, err)
			t.Cleanup(func() { d.Close() })
			return d
		}(),
	} {
		m := &Machine{cfg: Config{PMem: []PMemFile{{Name: "root", File: f}}}}
		err := m.mapPMem()
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "root: "+f.Name())
		require.Empty(t, m.pmem)
	}
}
