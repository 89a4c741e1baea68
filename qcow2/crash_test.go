package qcow2

import (
	"encoding/binary"
	"errors"
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

// Whatever of the writes since the last barrier is lost at any moment, the image
// has no corruption, and each sector has what it had at the last Sync or what
// was written since.
func TestCrashAtEveryStep(t *testing.T) {
	points, checked, perSeed := 0, 0, 50
	if testing.Short() {
		perSeed = 8
	}
	for _, s := range starts(t) {
		t.Run(s.name, func(t *testing.T) {
			for seed := range uint64(2) {
				p := play(t, s, seed)
				// Few slices, so that they are written early.
				p.im.l2.limit, p.im.refs.limit = 8, 8
				for range 150 {
					require.NoError(t, p.step())
				}
				require.NoError(t, p.verify())
				r := rand.New(rand.NewPCG(seed, 2))
				p.finish(t)
				for _, k := range moments(p.file.log, perSeed, r) {
					for _, keep := range []float64{0, 0.5, 0.5, 1} {
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

// moments picks n operations. Just before a flush the most is at stake, above all
// where an entry of a table or the header was written.
func moments(log []memOp, n int, r *rand.Rand) (list []int) {
	var flushes, rare []int
	entry := false
	for i, op := range log {
		switch {
		case op.kind == 'f':
			if flushes = append(flushes, i); entry {
				rare = append(rare, i)
			}
			entry = false
		case op.kind == 'w' && len(op.data)%sector != 0:
			entry = true
		}
	}
	for len(list) < n {
		list = append(list, r.IntN(len(log)+1), flushes[r.IntN(len(flushes))])
		if len(rare) > 0 {
			list = append(list, rare[r.IntN(len(rare))], rare[r.IntN(len(rare))])
		}
	}
	return list
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
		hosts = 8
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
					// A failed flush is for ever, and a failed write of the header.
					require.ErrorContains(t, err, "no longer be written to")
				}
			}
		})
	}
}
