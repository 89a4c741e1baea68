package qcow2

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/virtio"
)

var _ virtio.BlockBackend = (*Image)(nil)

// Random programs on images that qemu-img made leave what qemu-img reads, and a
// clean bill of health; what QEMU writes in between is read.
func TestAgainstQEMU(t *testing.T) {
	needQEMU(t)
	rounds := 5
	if testing.Short() {
		rounds = 1
	}
	for i, options := range []string{
		"cluster_size=512",
		"cluster_size=512,refcount_bits=64",
		"cluster_size=1k,compat=0.10",
		"cluster_size=4k,refcount_bits=1",
		"cluster_size=8k,refcount_bits=2",
		"cluster_size=16k,refcount_bits=4",
		"cluster_size=64k,compat=0.10",
		"cluster_size=64k",
		"cluster_size=64k,preallocation=metadata",
		"cluster_size=64k,lazy_refcounts=on,refcount_bits=8",
		"cluster_size=64k,preallocation=falloc",
		"cluster_size=256k,refcount_bits=32",
		"cluster_size=2M",
	} {
		t.Run(options, func(t *testing.T) {
			const size = 6<<20 + 5*sector
			r := rand.New(rand.NewPCG(uint64(i), 4))
			dir := t.TempDir()
			name, raw := filepath.Join(dir, "disk.qcow2"), filepath.Join(dir, "disk.raw")
			qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", options, name, fmt.Sprint(size))
			d := &diskModel{want: make([]byte, size), r: r}
			for round := range rounds {
				f := openFile(t, name)
				d.im = openImage(t, f)
				require.EqualValues(t, size, d.im.Size())
				for range 80 {
					d.step(t)
				}
				d.verify(t)
				require.NoError(t, d.im.Close())
				require.NoError(t, d.im.Close(), "again")
				require.NoError(t, f.Close())
				qemuCheck(t, name, false)
				require.NoError(t, os.WriteFile(raw, d.want, 0o600))
				qemu(t, "qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", name, raw)

				off := r.Int64N(size - 300<<10)
				n := r.Int64N(300 << 10)
				qemu(t, "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -P %d %d %d", round+1, off, n), name)
				copy(d.want[off:], bytes.Repeat([]byte{byte(round + 1)}, int(n)))
			}
			f := openFile(t, name)
			d.im = openImage(t, f)
			d.verify(t)
			require.NoError(t, d.im.Close())
		})
	}
}

// A snapshot keeps what the disk held, whatever is written afterwards.
func TestSnapshotsStay(t *testing.T) {
	for _, options := range []string{"cluster_size=512", "cluster_size=64k", "cluster_size=64k,compat=0.10", "cluster_size=4k,compression_type=zstd"} {
		t.Run(options, func(t *testing.T) {
			s := madeByQEMU(t, options, 2<<20)
			name := filepath.Join(t.TempDir(), "disk.qcow2")
			require.NoError(t, os.WriteFile(name, s.image, 0o600))
			export := func(snapshot string) []byte {
				out := filepath.Join(t.TempDir(), "raw")
				args := []string{"qemu-img", "convert", "-f", "qcow2", "-O", "raw"}
				if snapshot != "" {
					args = append(args, "-l", snapshot)
				}
				qemu(t, append(args, name, out)...)
				p, err := os.ReadFile(out)
				require.NoError(t, err)
				return p
			}
			one, two := export("one"), export("two")
			d := &diskModel{want: export(""), r: rand.New(rand.NewPCG(1, 5))}
			f := openFile(t, name)
			d.im = openImage(t, f)
			d.verify(t)
			for range 200 {
				d.step(t)
			}
			d.verify(t)
			require.NoError(t, d.im.Close())
			qemuCheck(t, name, false)
			require.True(t, bytes.Equal(d.want, export("")))
			require.True(t, bytes.Equal(one, export("one")))
			require.True(t, bytes.Equal(two, export("two")))
			qemu(t, "qemu-img", "snapshot", "-d", "one", name)
			qemuCheck(t, name, false)
			d.im = openImage(t, openFile(t, name))
			for range 50 {
				d.step(t)
			}
			d.verify(t)
			require.NoError(t, d.im.Close())
			qemuCheck(t, name, false)
			require.True(t, bytes.Equal(two, export("two")))
		})
	}
}

// diskModel is an image beside the bytes that it should hold.
type diskModel struct {
	im   *Image
	want []byte
	r    *rand.Rand
}

// step runs a request of any bytes.
func (d *diskModel) step(t *testing.T) {
	size := int64(len(d.want))
	n := d.r.Int64N([]int64{600, 9000, 70 << 10, 1 << 20, size}[d.r.IntN(5)])
	off := d.r.Int64N(size - n + 1)
	if d.r.IntN(10) == 0 {
		off = size - n
	}
	part := d.want[off:][:n]
	switch k := d.r.IntN(20); {
	case k < 10:
		c := byte(d.r.IntN(256))
		for i := range part {
			part[i] = c + byte(i/512)
		}
		done, err := d.im.PwriteV(pieces(part, d.r), off)
		require.NoError(t, err)
		require.EqualValues(t, n, done)
	case k < 12:
		require.NoError(t, d.im.Discard(off, n))
		cs := d.im.ClusterSize()
		from, to := (off+cs-1)/cs*cs, (off+n)/cs*cs
		if off+n == size {
			to = size
		}
		if from < to {
			clear(d.want[from:to])
		}
	case k < 14:
		require.NoError(t, d.im.WriteZeroes(off, n, k == 12))
		clear(part)
	case k < 16:
		require.NoError(t, d.im.Sync())
	default:
		got := make([]byte, n)
		require.NoError(t, readAll(d.im, got, off))
		require.True(t, bytes.Equal(part, got), "%d bytes at %d", n, off)
	}
}

func (d *diskModel) verify(t *testing.T) {
	got := make([]byte, len(d.want))
	require.NoError(t, readAll(d.im, got, 0))
	for i := range got {
		if got[i] != d.want[i] {
			require.Equal(t, d.want[i], got[i], "byte %d", i)
		}
	}
}
