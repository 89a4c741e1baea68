package assets

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// childEnv makes this test binary a process that opens the test asset in the
// directory it names, verifies it and exits.
const childEnv = "ASSETS_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		a := testAsset()
		f, err := a.Open(dir)
		if err == nil {
			err = a.Verify(f)
		}
		if err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// testAsset is 9 MiB: random bytes, many zeros, a ragged end.
func testAsset() Asset {
	data := make([]byte, 9<<20+123)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(data[:3<<20])
	rng.Read(data[6<<20 : 6<<20+5000])
	data[len(data)-1] = 7
	return pack("blob", data)
}

func pack(name string, data []byte) Asset {
	enc, err := zstd.NewWriter(nil, zstd.WithWindowSize(maxWindow), zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	return Asset{Name: name, SHA256: sha256.Sum256(data), Size: int64(len(data)), Compressed: enc.EncodeAll(data, nil)}
}

func (a Asset) path(dir string) string { return filepath.Join(dir, "assets", a.fileName()) }

func open(t *testing.T, a Asset, dir string) fs.FileInfo {
	t.Helper()
	f, err := a.Open(dir)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, a.Verify(f))
	off, err := f.Seek(0, io.SeekCurrent)
	require.NoError(t, err)
	require.Zero(t, off)
	_, err = f.Write([]byte("x"))
	require.Error(t, err, "the file must be read-only")
	fi, err := f.Stat()
	require.NoError(t, err)
	return fi
}

func inode(fi fs.FileInfo) uint64 { return fi.Sys().(*syscall.Stat_t).Ino }

func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	es, err := os.ReadDir(filepath.Join(dir, "assets"))
	require.NoError(t, err)
	for _, e := range es {
		list = append(list, e.Name())
	}
	return list
}

func TestOpen(t *testing.T) {
	a, dir := testAsset(), filepath.Join(t.TempDir(), "a", "cache")
	first := open(t, a, dir)
	second := open(t, a, dir)
	require.Equal(t, inode(first), inode(second), "the second call reuses the file")
	require.Equal(t, fs.FileMode(0o444), first.Mode())
	require.ElementsMatch(t, []string{a.fileName(), "lock"}, names(t, dir))
	for _, p := range []string{dir, filepath.Join(dir, "assets")} {
		fi, err := os.Stat(p)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o700), fi.Mode().Perm(), p)
	}
	blocks := first.Sys().(*syscall.Stat_t).Blocks * 512
	require.Less(t, blocks, int64(4<<20), "runs of zeros are holes")
}

func TestOpen_SparseShapes(t *testing.T) {
	dir := t.TempDir()
	page := bytes.Repeat([]byte{1}, holeSize)
	zero := make([]byte, 3*copySize)
	for name, data := range map[string][]byte{
		"empty":     nil,
		"one":       {1},
		"zero":      {0},
		"allzero":   zero,
		"endzero":   append(bytes.Clone(page), zero...),
		"startzero": append(bytes.Clone(zero), page...),
		"ragged":    append(bytes.Clone(zero), 0, 0, 9, 0),
	} {
		t.Run(name, func(t *testing.T) { open(t, pack(name, data), dir) })
	}
}

func TestOpen_DamagedCacheIsReplaced(t *testing.T) {
	a := testAsset()
	for name, damage := range map[string]func(t *testing.T, p string){
		"truncated": func(t *testing.T, p string) { require.NoError(t, os.Truncate(p, 4096)) },
		"empty":     func(t *testing.T, p string) { require.NoError(t, os.Truncate(p, 0)) },
		"grown":     func(t *testing.T, p string) { require.NoError(t, os.Truncate(p, a.Size+1)) },
		"altered in place": func(t *testing.T, p string) {
			require.NoError(t, os.Chmod(p, 0o644))
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteAt([]byte("evil"), 1000)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			require.NoError(t, os.Chmod(p, 0o444))
		},
		"copied": func(t *testing.T, p string) {
			now := time.Now()
			require.NoError(t, os.Chtimes(p, now, now))
		},
		"writable": func(t *testing.T, p string) { require.NoError(t, os.Chmod(p, 0o644)) },
		"symlink": func(t *testing.T, p string) {
			require.NoError(t, os.Rename(p, p+".real"))
			require.NoError(t, os.Symlink(filepath.Base(p)+".real", p))
		},
		"fifo": func(t *testing.T, p string) {
			require.NoError(t, os.Remove(p))
			require.NoError(t, unix.Mkfifo(p, 0o444))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			before := open(t, a, dir)
			damage(t, a.path(dir))
			after := open(t, a, dir)
			require.NotEqual(t, inode(before), inode(after))
			require.True(t, after.Mode().IsRegular())
		})
	}
}

func TestOpen_LeftoverTemporaryIsRemoved(t *testing.T) {
	a, dir := testAsset(), t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "assets"), 0o700))
	require.NoError(t, os.WriteFile(a.path(dir)+tmpSuffix, []byte("half"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "assets", "older-00.tmp"), []byte("half"), 0o444))
	open(t, a, dir)
	require.ElementsMatch(t, []string{a.fileName(), "lock"}, names(t, dir))
}

func child(t *testing.T, dir string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	var out bytes.Buffer
	cmd.Stderr = &out
	require.NoError(t, cmd.Start())
	return cmd, &out
}

func TestOpen_EightProcesses(t *testing.T) {
	a, dir := testAsset(), t.TempDir()
	type proc struct {
		cmd *exec.Cmd
		out *bytes.Buffer
	}
	var procs []proc
	for range 8 {
		cmd, out := child(t, dir)
		procs = append(procs, proc{cmd, out})
	}
	var wg sync.WaitGroup
	for range 8 { // and goroutines of this process
		wg.Go(func() {
			f, err := a.Open(dir)
			if err != nil {
				t.Error(err)
				return
			}
			f.Close()
		})
	}
	wg.Wait()
	for _, p := range procs {
		require.NoError(t, p.cmd.Wait(), p.out.String())
	}
	require.ElementsMatch(t, []string{a.fileName(), "lock"}, names(t, dir))
}

// A process killed at any moment leaves nothing that a later Open trips over.
func TestOpen_KilledWriter(t *testing.T) {
	a, dir := testAsset(), t.TempDir()
	rng := rand.New(rand.NewPCG(1, 2))
	interrupted := 0
	for range 25 {
		require.NoError(t, os.RemoveAll(a.path(dir)))
		cmd, _ := child(t, dir)
		time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond)
		require.NoError(t, cmd.Process.Kill())
		if cmd.Wait() != nil {
			interrupted++
		}
		if f, err := os.Open(a.path(dir)); err == nil {
			require.NoError(t, a.Verify(f), "a published file is whole")
			f.Close()
		}
		open(t, a, dir)
		require.ElementsMatch(t, []string{a.fileName(), "lock"}, names(t, dir))
	}
	t.Logf("%d of 25 writers were killed before they finished", interrupted)
}

func TestOpen_BadAsset(t *testing.T) {
	good := testAsset()
	for name, spoil := range map[string]func(*Asset){
		"digest":     func(a *Asset) { a.SHA256[0] ^= 1 },
		"short":      func(a *Asset) { a.Size-- },
		"long":       func(a *Asset) { a.Size++ },
		"truncated":  func(a *Asset) { a.Compressed = a.Compressed[:len(a.Compressed)/2] },
		"not zstd":   func(a *Asset) { a.Compressed = []byte("hello, world") },
		"no content": func(a *Asset) { a.Compressed = nil },
	} {
		t.Run(name, func(t *testing.T) {
			a, dir := good, t.TempDir()
			spoil(&a)
			_, err := a.Open(dir)
			require.ErrorIs(t, err, ErrCorrupt)
			require.Equal(t, []string{"lock"}, names(t, dir))
		})
	}
	for _, name := range []string{"", ".x", "a/b", "..", "a\x00"} {
		_, err := Asset{Name: name}.Open(t.TempDir())
		require.ErrorIs(t, err, fs.ErrInvalid, "%q", name)
	}
	_, err := good.Open("")
	require.ErrorIs(t, err, fs.ErrInvalid)
}

func TestOpen_DirectoryOfOthers(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "assets"), 0o700))
	require.NoError(t, os.Chmod(filepath.Join(dir, "assets"), 0o777))
	_, err := testAsset().Open(dir)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.ErrorContains(t, err, "chmod 700 "+filepath.Join(dir, "assets"))
}

func TestOpen_HostFailures(t *testing.T) {
	a, dir := testAsset(), t.TempDir()

	t.Run("file in the way", func(t *testing.T) {
		p := filepath.Join(dir, "file")
		require.NoError(t, os.WriteFile(p, nil, 0o600))
		_, err := a.Open(p)
		requireError(t, err, unix.ENOTDIR, p, "move it away")
	})
	t.Run("file size limit", func(t *testing.T) {
		// EFBIG stands in for ENOSPC: it needs no mount, and takes the same way.
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "ulimit -f 100; exec "+os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+filepath.Join(dir, "small"))
		out, err := cmd.CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "file too large")
		require.Contains(t, string(out), "ulimit -f")
		require.Equal(t, []string{"lock"}, names(t, filepath.Join(dir, "small")))
	})
	t.Run("remedies", func(t *testing.T) {
		for errno, remedy := range map[syscall.Errno]string{
			unix.ENOSPC: "free some space in /c/assets",
			unix.EDQUOT: "free some space in /c/assets",
			unix.EROFS:  "SANDPIT_HOME",
			unix.EACCES: "make /c/assets writable",
		} {
			err := newError("write", "/c/assets/x", &fs.PathError{Op: "write", Path: "x", Err: errno})
			requireError(t, err, errno, "/c/assets/x", remedy)
		}
	})
}

func requireError(t *testing.T, err error, target error, parts ...string) {
	t.Helper()
	require.ErrorIs(t, err, target)
	var e *Error
	require.True(t, errors.As(err, &e))
	for _, p := range parts {
		require.Contains(t, err.Error(), p)
	}
}

// A user without rights: the directory is read-only, the cache filled or not.
func TestOpen_ReadOnlyHome(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "assets") // t.TempDir's parents are private to root
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	a := testAsset()
	run := func(cache string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "/proc/self/fd/3")
		exe, err := os.Open(os.Args[0])
		require.NoError(t, err)
		defer exe.Close()
		cmd.ExtraFiles = []*os.File{exe}
		cmd.Env = []string{childEnv + "=" + cache}
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}

	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.Mkdir(empty, 0o555))
	require.NoError(t, os.Chmod(dir, 0o755))
	out, err := run(empty)
	require.Error(t, err)
	require.Contains(t, out, "permission denied")
	require.Contains(t, out, "SANDPIT_HOME")

	full := filepath.Join(dir, "full")
	open(t, a, full)
	require.NoError(t, os.Chmod(full, 0o555))
	require.NoError(t, os.Chmod(filepath.Join(full, "assets"), 0o555))
	out, err = run(full)
	require.NoError(t, err, out)
	require.NoError(t, os.Chmod(filepath.Join(full, "assets"), 0o755))
}

func TestOpen_LeaksNoDescriptor(t *testing.T) {
	a, dir := testAsset(), t.TempDir()
	count := func() int {
		es, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(es)
	}
	before := count()
	for range 3 {
		open(t, a, dir)
		bad := a
		bad.SHA256[5] ^= 1
		_, err := bad.Open(dir)
		require.Error(t, err)
	}
	require.Equal(t, before, count())
}

func TestVerify_Altered(t *testing.T) {
	a := testAsset()
	p := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(p, make([]byte, a.Size), 0o600))
	f, err := os.Open(p)
	require.NoError(t, err)
	defer f.Close()
	require.ErrorIs(t, a.Verify(f), ErrCorrupt)
	require.True(t, strings.Contains(a.Verify(f).Error(), p))
}

func BenchmarkReuse(b *testing.B) {
	a, dir := testAsset(), b.TempDir()
	for b.Loop() {
		f, err := a.Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

func BenchmarkDecompress(b *testing.B) {
	a, dir := testAsset(), b.TempDir()
	b.SetBytes(a.Size)
	for b.Loop() {
		os.RemoveAll(a.path(dir))
		f, err := a.Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.Sys)/(1<<20), "MiB-sys")
}
