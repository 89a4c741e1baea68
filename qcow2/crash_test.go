package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// needQEMU finds QEMU's tools.
func needQEMU(t testing.TB) {
	t.Helper()
	for _, tool := range []string{"qemu-img", "qemu-io"} {
		if _, err := exec.LookPath(tool); err != nil {
			if testing.Short() {
				t.Skip(err)
			}
			t.Fatalf("%v: apt-get install qemu-utils", err)
		}
	}
}

func qemu(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	require.NoError(t, err, "%v: %s", args, out)
	return string(out)
}

// qemuCheck fails if qemu-img finds corruptions, or leaks if none are allowed.
func qemuCheck(t testing.TB, name string, leaks bool) {
	t.Helper()
	out, err := exec.Command("qemu-img", "check", "-f", "qcow2", name).CombinedOutput()
	var exit *exec.ExitError
	if leaks && errors.As(err, &exit) && exit.ExitCode() == 3 {
		return
	}
	require.NoError(t, err, "%s", out)
}

// start is an image for the crash tests, and what its disk holds.
type start struct {
	name    string
	image   []byte
	content []uint64
}

func emptyStarts() []start {
	var list []start
	for _, l := range []layout{
		{version: 3, clusterBits: 9, refOrder: 4, size: 300 << 10, autoclear: 6},
		{version: 3, clusterBits: 9, refOrder: 6, size: 3 << 20}, // its refcount table grows
		{version: 2, clusterBits: 12, refOrder: 4, size: 1 << 20},
		{version: 3, clusterBits: 12, refOrder: 0, size: 1 << 20},
		{version: 3, clusterBits: 16, refOrder: 2, size: 4 << 20},
	} {
		list = append(list, start{
			fmt.Sprintf("v%d-%d-%d", l.version, l.clusterBits, l.refOrder), build(l), make([]uint64, l.size/sector),
		})
	}
	return list
}

// madeByQEMU is an image with compressed clusters, ordinary ones, and snapshots.
func madeByQEMU(t testing.TB, options string, size int64) start {
	needQEMU(t)
	s := start{name: options, content: make([]uint64, size/sector)}
	dir := t.TempDir()
	raw, name := filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2")
	r := rand.New(rand.NewPCG(7, 7))
	var p []byte
	for i := range s.content {
		if i%100 < 60 {
			s.content[i] = r.Uint64N(3)*1000 + uint64(i/32)
		}
		p = append(p, stamped(s.content[i], 1)...)
	}
	require.NoError(t, os.WriteFile(raw, p, 0o600))
	qemu(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", options, raw, name)
	patch := func(first, n int64) {
		qemu(t, "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -P 0x11 %d %d", first*sector, n*sector), name)
		for i := first; i < first+n; i++ {
			s.content[i] = 0x1111111111111111
		}
	}
	all := int64(len(s.content))
	patch(all/8, all/8)
	qemu(t, "qemu-img", "snapshot", "-c", "one", name)
	patch(all/6, all/3)
	qemu(t, "qemu-img", "snapshot", "-c", "two", name)
	patch(all*3/4, all/8)
	var err error
	s.image, err = os.ReadFile(name)
	require.NoError(t, err)
	return s
}

func starts(t testing.TB) []start {
	list := emptyStarts()
	if testing.Short() {
		return list
	}
	return append(list,
		madeByQEMU(t, "cluster_size=512,refcount_bits=8", 300<<10),
		madeByQEMU(t, "cluster_size=4096,compat=0.10", 1<<20),
		madeByQEMU(t, "cluster_size=64k,compression_type=zstd", 4<<20))
}

func play(t testing.TB, s start, seed uint64) *player {
	f := &memFile{data: slices.Clone(s.image), record: true}
	im, err := open(f, int64(len(f.data)), false)
	require.NoError(t, err)
	p := newPlayer(im, f, rand.New(rand.NewPCG(seed, 1)))
	copy(p.want, s.content)
	return p
}

// Whatever of the writes since the last barrier is lost at any moment, the image
// has no corruption, and each sector has what it had at the last Sync or what
// was written since.
func TestCrashAtEveryStep(t *testing.T) {
	points, checked, perSeed := 0, 0, 100
	if testing.Short() {
		perSeed = 15
	}
	for _, s := range starts(t) {
		t.Run(s.name, func(t *testing.T) {
			for seed := range uint64(3) {
				p := play(t, s, seed)
				// Few slices, so that they are written early.
				p.im.l2.limit, p.im.refs.limit = 8, 8
				for range 150 {
					require.NoError(t, p.step())
				}
				require.NoError(t, p.verify())
				r := rand.New(rand.NewPCG(seed, 2))
				for k := 0; k <= len(p.file.log); k += 1 + r.IntN(1+2*len(p.file.log)/perSeed) {
					for _, keep := range []float64{0, 0.5, 1} {
						got := crashed(s.image, p.file.log, k, keep, r)
						v := fsck(got)
						require.Zero(t, v.corruptions, "seed %d, operation %d, keep %v: %s", seed, k, keep, v.first)
						requireContent(t, got, p.admissible(s.content, k))
						points++
						if !testing.Short() && r.IntN(60) == 0 {
							name := filepath.Join(t.TempDir(), "crashed")
							require.NoError(t, os.WriteFile(name, got, 0o600))
							qemuCheck(t, name, true)
							checked++
						}
						if r.IntN(20) == 0 {
							continueOn(t, got, r)
						}
					}
				}
			}
		})
	}
	t.Logf("%d crashes, %d of them checked by qemu-img too", points, checked)
}

func requireContent(t *testing.T, image []byte, may [][]uint64) {
	im, err := open(&memFile{data: image}, int64(len(image)), true)
	require.NoError(t, err)
	buf := make([]byte, len(may)*sector)
	require.NoError(t, readAll(im, buf, 0))
	for i, list := range may {
		got := binary.BigEndian.Uint64(buf[i*sector:])
		ok := slices.ContainsFunc(list, func(s uint64) bool { return s&^maybeBit == got })
		require.True(t, ok, "sector %d has %d, not one of %d", i, got, list)
		require.NoError(t, checkStamp(buf[i*sector:][:sector], got))
	}
}

// continueOn writes to an image after a crash.
func continueOn(t *testing.T, image []byte, r *rand.Rand) {
	im, err := open(&memFile{data: image}, int64(len(image)), true)
	require.NoError(t, err)
	content := make([]uint64, im.Size()/sector)
	buf := make([]byte, im.Size())
	require.NoError(t, readAll(im, buf, 0))
	for i := range content {
		content[i] = binary.BigEndian.Uint64(buf[i*sector:])
	}
	p := play(t, start{"", image, content}, r.Uint64())
	for range 40 {
		require.NoError(t, p.step())
	}
	require.NoError(t, p.verify())
	require.NoError(t, p.im.Close())
	require.Zero(t, fsck(p.file.data).corruptions)
}

// A host that fails at any step gives errors, never a corrupt image.
func TestHostFailsAtEveryStep(t *testing.T) {
	hosts := 100
	if testing.Short() {
		hosts = 20
	}
	for _, s := range starts(t) {
		t.Run(s.name, func(t *testing.T) {
			for seed := range uint64(hosts) {
				p := play(t, s, seed%3)
				p.im.l2.limit, p.im.refs.limit = 8, 8
				r := rand.New(rand.NewPCG(seed, 3))
				in, times, errno := r.IntN(600), 1+r.IntN(3), unix.ENOSPC
				if seed%2 == 0 {
					errno = unix.EIO
				}
				p.file.fail = func(kind byte) error {
					// No fault in reading: the test reads too.
					if in--; kind == 'r' || kind == 'f' && seed%4 != 0 || in > 0 || in < -times {
						return nil
					}
					return os.NewSyscallError("test", errno)
				}
				for range 100 {
					require.NoError(t, p.step())
				}
				p.file.fail = nil
				require.NoError(t, p.verify())
				v := fsck(p.file.data)
				require.Zero(t, v.corruptions, "seed %d: %s", seed, v.first)
				if err := p.im.Close(); err == nil {
					v = fsck(p.file.data)
					require.Zero(t, v.corruptions, "seed %d: %s", seed, v.first)
					q := play(t, start{"", p.file.data, p.want}, 0)
					require.NoError(t, q.verify())
				} else {
					require.ErrorIs(t, err, unix.EIO, "only a failed flush is for ever")
				}
			}
		})
	}
}
