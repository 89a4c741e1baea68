package sandbox_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// One sandbox serves the subtests; what each does to it is in a directory of
// its own. Much of FS is tested without a VM too, over an agent in process.
func TestFS(t *testing.T) {
	needVM(t)
	sb := create(t, "fs", sandbox.Config{Memory: 256, Workdir: "/tmp"})
	for name, do := range map[string]func(*testing.T, *sandbox.Sandbox, *sandbox.FS, string){
		"conformance": testFSConformance, "errors": testFSErrors, "trees": testFSTrees, "sparse": testFSSparse,
		"bulk": testFSBulk, "cancelled": testFSCancelled, "disk full": testFSDiskFull, "connections": testFSConnections,
	} {
		t.Run(name, func(t *testing.T) {
			dir := "/root/" + strings.ReplaceAll(name, " ", "-")
			require.NoError(t, sb.FS().MkdirAll(t.Context(), dir, 0o755))
			do(t, sb, sb.FS(), dir)
		})
	}
}

func testFSConformance(t *testing.T, _ *sandbox.Sandbox, f *sandbox.FS, dir string) {
	ctx := t.Context()
	require.NoError(t, f.MkdirAll(ctx, dir+"/a/b", 0o755))
	require.NoError(t, f.WriteFile(ctx, dir+"/a/b/file.txt", []byte("hello"), 0o600))
	require.NoError(t, f.WriteFile(ctx, dir+"/empty", nil, 0o644))
	require.NoError(t, f.Symlink(ctx, "a/b", dir+"/link"))
	require.NoError(t, fstest.TestFS(f.DirFS(ctx, dir), "a/b/file.txt", "empty", "link"))
	// A file system of the kernel's own, whose sizes say nothing.
	release, err := fs.ReadFile(f.DirFS(ctx, "/proc/sys"), "kernel/ostype")
	require.NoError(t, err)
	require.Equal(t, "Linux\n", string(release))
	matches, err := fs.Glob(f.DirFS(ctx, "/"), "etc/pass*")
	require.NoError(t, err)
	require.Contains(t, matches, "etc/passwd")
}

func testFSErrors(t *testing.T, _ *sandbox.Sandbox, f *sandbox.FS, dir string) {
	ctx := t.Context()
	_, err := f.Open(ctx, dir+"/none")
	require.Equal(t, &fs.PathError{Op: "open", Path: dir + "/none", Err: syscall.ENOENT}, err)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = f.Stat(ctx, "/etc/passwd/x")
	require.Equal(t, &fs.PathError{Op: "stat", Path: "/etc/passwd/x", Err: syscall.ENOTDIR}, err)
	require.ErrorIs(t, f.Mkdir(ctx, "/etc", 0o755), fs.ErrExist)
	require.ErrorIs(t, f.Remove(ctx, "/etc"), syscall.ENOTEMPTY)
	require.ErrorIs(t, f.WriteFile(ctx, "/etc", nil, 0o644), syscall.EISDIR)
	require.NotErrorIs(t, f.WriteFile(ctx, "/proc/version", []byte("x"), 0o644), syscall.ESPIPE, "it is written at no offset")
	require.NoError(t, f.WriteFile(ctx, "/proc/sys/vm/swappiness", []byte("17"), 0))
	got, err := f.ReadFile(ctx, "/proc/sys/vm/swappiness")
	require.NoError(t, err)
	require.Equal(t, "17\n", string(got))
	var link *os.LinkError
	require.ErrorAs(t, f.Rename(ctx, dir+"/none", dir+"/other"), &link)
	require.Equal(t, dir+"/other", link.New)
	_, err = f.Open(ctx, "/dev/console")
	require.ErrorIs(t, err, errors.ErrUnsupported)
	// What package os does, done in the guest.
	require.NoError(t, f.WriteFile(ctx, dir+"/f", []byte("x"), 0o666))
	info, err := f.Stat(ctx, dir+"/f")
	require.NoError(t, err)
	require.Equal(t, "-rw-r--r--", info.Mode().String(), "the umask is 022")
	require.NoError(t, f.Chmod(ctx, dir+"/f", 0o750|fs.ModeSetuid))
	require.NoError(t, f.Chown(ctx, dir+"/f", 12, 34))
	require.NoError(t, f.Chtimes(ctx, dir+"/f", time.Time{}, time.Unix(1_000_000_000, 5)))
	info, err = f.Lstat(ctx, dir+"/f")
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o750), info.Mode(), "a change of the owner takes the setuid bit")
	require.Equal(t, time.Unix(1_000_000_000, 5), info.ModTime())
	st := info.Sys().(*syscall.Stat_t)
	require.Equal(t, []uint32{12, 34}, []uint32{st.Uid, st.Gid})
}

func testFSTrees(t *testing.T, sb *sandbox.Sandbox, f *sandbox.FS, dir string) {
	ctx, host := deadline(t), t.TempDir()
	src := host + "/src"
	require.NoError(t, os.MkdirAll(src+"/sub/empty", 0o755))
	random := make([]byte, 200_000)
	_, _ = rand.Read(random)
	for i := range 50 {
		require.NoError(t, os.WriteFile(fmt.Sprintf("%s/sub/%d \xff", src, i), random[:i*77], 0o640))
	}
	require.NoError(t, os.WriteFile(src+"/large", random, 0o600))
	require.NoError(t, os.Chmod(src+"/large", 0o711|fs.ModeSetuid))
	require.NoError(t, os.Symlink("/etc/passwd", src+"/sub/link"))
	require.NoError(t, os.Chtimes(src+"/sub", time.Time{}, time.Unix(12345, 678)))

	require.NoError(t, f.CopyFromHost(ctx, src, dir+"/in", sandbox.CopyOptions{}))
	// The guest's own programs see the same.
	out, err := sb.Shell(ctx, "cd "+dir+"/in && sha256sum large && stat -c '%a %u %Y' large sub && readlink sub/link && ls sub | wc -l").Output()
	require.NoError(t, err)
	large, err := os.Stat(src + "/large")
	require.NoError(t, err)
	sum := sha256.Sum256(random)
	require.Equal(t, fmt.Sprintf("%s  large\n711 0 %d\n755 0 12345\n/etc/passwd\n52\n", hex.EncodeToString(sum[:]), large.ModTime().Unix()), string(out))

	require.NoError(t, f.Copy(ctx, dir+"/in", dir+"/again", sandbox.CopyOptions{}))
	require.NoError(t, f.CopyToHost(ctx, dir+"/again", host+"/out", sandbox.CopyOptions{}))
	require.NoError(t, os.Chmod(src+"/large", 0o711))
	require.Equal(t, treeText(t, src), treeText(t, host+"/out"))
	require.NoError(t, f.RemoveAll(ctx, dir+"/in"))
	ok, err := f.Exists(ctx, dir+"/in")
	require.NoError(t, err)
	require.False(t, ok)
	requireNoTemporary(t, sb, dir)
}

func requireNoTemporary(t *testing.T, sb *sandbox.Sandbox, dir string) {
	t.Helper()
	require.Eventually(t, func() bool {
		out, err := sb.Shell(deadline(t), "find "+dir+" -name '.sandpit-*'").Output()
		return err == nil && len(out) == 0
	}, 30*time.Second, 100*time.Millisecond)
}

// treeText is a tree as text.
func treeText(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := os.Lstat(p)
		require.NoError(t, err)
		rel, err := filepath.Rel(dir, p)
		require.NoError(t, err)
		to, _ := os.Readlink(p)
		var content []byte
		stamp := info.ModTime()
		switch {
		case info.Mode().IsRegular():
			content, err = os.ReadFile(p)
			require.NoError(t, err)
		case to != "":
			stamp = time.Time{}
		}
		fmt.Fprintf(&b, "%q %v %v %q %x\n", rel, info.Mode(), stamp.UnixNano(), to, sha256.Sum256(content))
		return nil
	}))
	return b.String()
}

// A file of 10 GiB with a MiB of data costs a MiB, both ways and within.
func testFSSparse(t *testing.T, sb *sandbox.Sandbox, f *sandbox.FS, dir string) {
	ctx, host := deadline(t), t.TempDir()
	const size = 10 << 30
	data := bytes.Repeat([]byte("sparse! "), 128<<10)
	src, err := os.Create(host + "/src")
	require.NoError(t, err)
	defer src.Close()
	require.NoError(t, src.Truncate(size))
	_, err = src.WriteAt(data, size/2)
	require.NoError(t, err)
	require.NoError(t, f.CopyFromHost(ctx, host+"/src", dir+"/f", sandbox.CopyOptions{}))
	require.NoError(t, f.Copy(ctx, dir+"/f", dir+"/g", sandbox.CopyOptions{}))
	info, err := f.Stat(ctx, dir+"/g")
	require.NoError(t, err)
	require.EqualValues(t, size, info.Size())
	require.Less(t, info.Sys().(*syscall.Stat_t).Blocks, int64(4<<20/512))
	require.NoError(t, f.CopyToHost(ctx, dir+"/g", host+"/dst", sandbox.CopyOptions{}))
	dst, err := os.Open(host + "/dst")
	require.NoError(t, err)
	defer dst.Close()
	info, err = dst.Stat()
	require.NoError(t, err)
	require.EqualValues(t, size, info.Size())
	require.Less(t, info.Sys().(*syscall.Stat_t).Blocks, int64(4<<20/512))
	got := make([]byte, len(data))
	_, err = dst.ReadAt(got, size/2)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
}

// 256 MiB in and out (in the emulated rig 16), with their digests, in little
// memory on this side.
func testFSBulk(t *testing.T, sb *sandbox.Sandbox, f *sandbox.FS, dir string) {
	ctx, size := deadline(t), int64(scaled(scaled(256)))<<20
	var peak atomic.Uint64
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), m.HeapInuse))
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	sum := sha256.New()
	file, err := f.Create(ctx, dir+"/f")
	require.NoError(t, err)
	n, err := io.Copy(file, io.TeeReader(io.LimitReader(rand.Reader, size), sum))
	require.NoError(t, err)
	require.Equal(t, size, n)
	require.NoError(t, file.Close())
	want := hex.EncodeToString(sum.Sum(nil))
	out, err := sb.Command(ctx, "sha256sum", dir+"/f").Output()
	require.NoError(t, err)
	require.Equal(t, want, strings.Fields(string(out))[0])

	file, err = f.Open(ctx, dir+"/f")
	require.NoError(t, err)
	sum.Reset()
	n, err = io.Copy(sum, file)
	require.NoError(t, err)
	require.Equal(t, size, n)
	require.NoError(t, file.Close())
	require.Equal(t, want, hex.EncodeToString(sum.Sum(nil)))
	close(stop)
	<-stopped
	require.Less(t, peak.Load(), uint64(64<<20))
}

// A transfer that is cancelled leaves nothing, on either side.
func testFSCancelled(t *testing.T, sb *sandbox.Sandbox, f *sandbox.FS, dir string) {
	host := t.TempDir()
	src, err := os.Create(host + "/src")
	require.NoError(t, err)
	defer src.Close()
	_, err = io.CopyN(src, rand.Reader, 32<<20)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f.CopyFromHost(ctx, host+"/src", dir+"/f", sandbox.CopyOptions{}) }()
	require.Eventually(t, func() bool {
		list, err := f.ReadDir(context.Background(), dir)
		return err == nil && len(list) > 0
	}, 30*time.Second, time.Millisecond)
	cancel()
	if err := <-done; err != nil { // nil: it was faster
		require.ErrorIs(t, err, context.Canceled)
		ok, err := f.Exists(t.Context(), dir+"/f")
		require.NoError(t, err)
		require.False(t, ok)
	}
	requireNoTemporary(t, sb, dir)

	require.NoError(t, sb.Shell(deadline(t), "head -c 33554432 /dev/zero > "+dir+"/big").Run())
	ctx, cancel = context.WithCancel(deadline(t))
	defer cancel()
	require.NoError(t, os.Mkdir(host+"/to", 0o755))
	go func() { done <- f.CopyToHost(ctx, dir+"/big", host+"/to/f", sandbox.CopyOptions{}) }()
	require.Eventually(t, func() bool {
		list, err := os.ReadDir(host + "/to")
		return err == nil && len(list) > 0
	}, 30*time.Second, time.Millisecond)
	cancel()
	if err := <-done; err != nil {
		require.ErrorIs(t, err, context.Canceled)
		list, err := os.ReadDir(host + "/to")
		require.NoError(t, err)
		require.Empty(t, list)
	}
}

func testFSDiskFull(t *testing.T, sb *sandbox.Sandbox, f *sandbox.FS, dir string) {
	ctx := deadline(t)
	require.NoError(t, sb.Shell(ctx, "mount -t tmpfs -o size=1m tmpfs "+dir).Run())
	err := f.WriteFile(ctx, dir+"/f", make([]byte, 2<<20), 0o600)
	require.Equal(t, &fs.PathError{Op: "write", Path: dir + "/f", Err: syscall.ENOSPC}, err)
	require.NoError(t, f.Remove(ctx, dir+"/f"))
	src := t.TempDir() + "/src"
	require.NoError(t, os.WriteFile(src, make([]byte, 2<<20), 0o600))
	err = f.CopyFromHost(ctx, src, dir+"/f", sandbox.CopyOptions{})
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorContains(t, err, dir+"/f")
	list, err := f.ReadDir(ctx, dir)
	require.NoError(t, err)
	require.Empty(t, list)
}

// Any number of operations at once, and none keeps another from ending.
func testFSConnections(t *testing.T, sb *sandbox.Sandbox, f *sandbox.FS, dir string) {
	ctx := deadline(t)
	errs := make(chan error, 40)
	for i := range cap(errs) {
		go func() {
			name := fmt.Sprintf("%s/%d", dir, i)
			err := f.WriteFile(ctx, name, []byte(name), 0o600)
			var got []byte
			if err == nil {
				got, err = f.ReadFile(ctx, name)
			}
			if err == nil && string(got) != name {
				err = errors.New("wrong content")
			}
			errs <- err
		}()
	}
	for range cap(errs) {
		require.NoError(t, <-errs)
	}
	list, err := f.ReadDir(ctx, dir)
	require.NoError(t, err)
	require.Len(t, list, cap(errs))
	// Relative names are below the root, whatever the working directory.
	require.Equal(t, "/tmp", sb.Config().Workdir)
	ok, err := f.Exists(ctx, "etc/passwd")
	require.NoError(t, err)
	require.True(t, ok)
}
