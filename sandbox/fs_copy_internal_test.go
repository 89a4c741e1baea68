package sandbox

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// makeTree makes a tree with everything that is copied.
func makeTree(t testing.TB, dir string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir+"/sub/deeper/empty", 0o755))
	t.Cleanup(func() { // so that anybody can remove it
		_ = filepath.WalkDir(filepath.Dir(dir), func(p string, d fs.DirEntry, err error) error {
			if d != nil && d.IsDir() {
				return os.Chmod(p, 0o755)
			}
			return nil
		})
	})
	random := make([]byte, 300_000)
	_, _ = rand.Read(random)
	for name, content := range map[string][]byte{
		"small": []byte("small"), "empty": nil, "large": random, "sub/chunk": random[:64<<10], "sub/deeper/\xff\n name": []byte("bytes"),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o640))
	}
	for i := range 100 {
		require.NoError(t, os.WriteFile(fmt.Sprintf("%s/sub/many-%d", dir, i), random[:i*50], 0o604))
	}
	require.NoError(t, os.Symlink("../small", dir+"/sub/link"))
	require.NoError(t, os.Symlink("/etc", dir+"/away"))
	require.NoError(t, os.Symlink("nowhere", dir+"/dangling"))
	require.NoError(t, os.Link(dir+"/small", dir+"/other-name"))
	require.NoError(t, os.Chmod(dir+"/small", 0o755|fs.ModeSetuid))
	require.NoError(t, os.Chtimes(dir+"/large", time.Unix(1, 0), time.Unix(1_000_000_000, 123_456_789)))
	require.NoError(t, os.Chmod(dir+"/sub/deeper", 0o555))
	require.NoError(t, os.Chtimes(dir+"/sub", time.Unix(1, 0), time.Unix(-5, 1)))
}

// describe is a tree as text: names, modes, sizes, times, contents, targets.
func describe(t testing.TB, dir string, setuid bool) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := os.Lstat(p)
		require.NoError(t, err)
		mode := info.Mode()
		if !setuid {
			mode &^= fs.ModeSetuid | fs.ModeSetgid
		}
		rel, err := filepath.Rel(dir, p)
		require.NoError(t, err)
		switch {
		case mode.IsRegular():
			content, err := os.ReadFile(p)
			require.NoError(t, err)
			fmt.Fprintf(&b, "%q %v %v %x\n", rel, mode, info.ModTime().UnixNano(), sha256.Sum256(content))
		case mode.IsDir():
			fmt.Fprintf(&b, "%q %v %v\n", rel, mode, info.ModTime().UnixNano())
		default:
			to, err := os.Readlink(p)
			require.NoError(t, err)
			fmt.Fprintf(&b, "%q %v %q\n", rel, mode, to)
		}
		return nil
	}))
	return b.String()
}

func TestCopyTrees_InProcess(t *testing.T) {
	f, _ := inProcess(t)
	ctx, dir := t.Context(), t.TempDir()
	src := dir + "/src"
	makeTree(t, src)
	want := describe(t, src, false)
	for name, do := range map[string]func(string, string, CopyOptions) error{
		"from host": func(a, b string, o CopyOptions) error { return f.CopyFromHost(ctx, a, b, o) },
		"to host":   func(a, b string, o CopyOptions) error { return f.CopyToHost(ctx, a, b, o) },
		"in guest":  func(a, b string, o CopyOptions) error { return f.Copy(ctx, a, b, o) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(dir, name)
			require.NoError(t, os.Mkdir(dir, 0o755))
			dst := dir + "/dst"
			require.NoError(t, do(src, dst, CopyOptions{}))
			require.Equal(t, want, describe(t, dst, true), "setuid bits are dropped")
			require.NoError(t, do(src, dst, CopyOptions{}), "over itself")
			all := dir + "/all"
			require.NoError(t, do(src, all, CopyOptions{KeepSetuid: true, KeepOwner: os.Geteuid() == 0}))
			require.Equal(t, describe(t, src, true), describe(t, all, true))
			requireNoTemporaries(t, dir)

			// Into what exists: added to; files and links are replaced, and
			// not written through.
			old := dir + "/old"
			require.NoError(t, os.MkdirAll(old+"/sub", 0o700))
			require.NoError(t, os.WriteFile(dir+"/victim", []byte("victim"), 0o600))
			require.NoError(t, os.WriteFile(old+"/kept", []byte("kept"), 0o600))
			for _, name := range []string{"small", "large", "dangling"} {
				require.NoError(t, os.Symlink("../victim", filepath.Join(old, name)))
			}
			require.NoError(t, do(src, old, CopyOptions{}))
			victim, err := os.ReadFile(dir + "/victim")
			require.NoError(t, err)
			require.Equal(t, "victim", string(victim))
			require.FileExists(t, old+"/kept")
			info, err := os.Lstat(old + "/small")
			require.NoError(t, err)
			require.True(t, info.Mode().IsRegular())

			// A link where a directory belongs is not followed.
			require.NoError(t, os.MkdirAll(dir+"/trap/real", 0o755))
			require.NoError(t, os.Symlink("real", dir+"/trap/sub"))
			require.ErrorIs(t, do(src, dir+"/trap", CopyOptions{}), syscall.ENOTDIR)
			left, err := os.ReadDir(dir + "/trap/real")
			require.NoError(t, err)
			require.Empty(t, left)

			// Single things.
			require.NoError(t, do(src+"/large", dir+"/one", CopyOptions{}))
			requireSame(t, src+"/large", dir+"/one")
			require.NoError(t, do(src+"/small", dir+"/one", CopyOptions{}))
			requireSame(t, src+"/small", dir+"/one")
			require.NoError(t, do(src+"/sub/link", dir+"/link", CopyOptions{}))
			to, err := os.Readlink(dir + "/link")
			require.NoError(t, err)
			require.Equal(t, "../small", to)
			require.ErrorIs(t, do(src+"/none", dir+"/none", CopyOptions{}), fs.ErrNotExist)
			require.ErrorIs(t, do(src+"/small", dir+"/none/x", CopyOptions{}), fs.ErrNotExist)
			require.Error(t, do(src+"/small", dst, CopyOptions{}), "a file over a directory")
			require.Error(t, do(src, dir+"/one", CopyOptions{}), "a directory over a file")
			requireNoTemporaries(t, dir)

			// What is neither file, directory nor link.
			require.NoError(t, os.Mkdir(dir+"/odd", 0o755))
			require.NoError(t, unix.Mkfifo(dir+"/odd/fifo", 0o600))
			require.Error(t, do(dir+"/odd", dir+"/odd2", CopyOptions{}))
			if name != "in guest" {
				var skipped []string
				require.NoError(t, do(dir+"/odd", dir+"/odd2", CopyOptions{Skipped: func(name string) { skipped = append(skipped, name) }}))
				require.Equal(t, []string{dir + "/odd/fifo"}, skipped)
				require.NoError(t, do(src+"/sub/link", dir+"/followed", CopyOptions{FollowSource: true}))
				requireSame(t, src+"/small", dir+"/followed")
			} else {
				require.ErrorIs(t, do(dst, dst+"/within/it", CopyOptions{}), syscall.EINVAL)
				require.ErrorIs(t, do(dst, dst, CopyOptions{}), syscall.EINVAL)
			}
		})
	}
	require.Error(t, f.CopyToHost(ctx, src, dir+"/x", CopyOptions{MaxEntries: -1, MaxBytes: -1}))
	require.ErrorIs(t, f.CopyToHost(ctx, src, dir+"/few", CopyOptions{MaxEntries: 10}), errTooManyFiles)
	require.ErrorIs(t, f.CopyToHost(ctx, src, dir+"/little", CopyOptions{MaxBytes: 100_000}), errTooManyBytes)
	requireNoTemporaries(t, dir)
}

func requireSame(t testing.TB, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	require.NoError(t, err)
	y, err := os.ReadFile(b)
	require.NoError(t, err)
	require.True(t, bytes.Equal(x, y), "%s and %s differ", a, b)
}

func requireNoTemporaries(t testing.TB, dir string) {
	t.Helper()
	require.Eventually(t, func() bool {
		found := false
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			found = found || strings.HasPrefix(filepath.Base(p), ".sandpit-")
			return err
		})
		return err == nil && !found
	}, 10*time.Second, 10*time.Millisecond, "a temporary file is left")
}

// Ten GiB with a MiB in them cost a MiB, in every direction.
func TestCopySparse_InProcess(t *testing.T) {
	f, _ := inProcess(t)
	ctx, dir := t.Context(), t.TempDir()
	src := dir + "/sparse"
	makeSparse(t, src, 10<<30)
	for name, do := range map[string]func(string, string, CopyOptions) error{
		"from host": func(a, b string, o CopyOptions) error { return f.CopyFromHost(ctx, a, b, o) },
		"to host":   func(a, b string, o CopyOptions) error { return f.CopyToHost(ctx, a, b, o) },
		"in guest":  func(a, b string, o CopyOptions) error { return f.Copy(ctx, a, b, o) },
	} {
		dst := filepath.Join(dir, name)
		begin := time.Now()
		require.NoError(t, do(src, dst, CopyOptions{}), name)
		t.Log(name, time.Since(begin))
		requireSparse(t, dst, 10<<30)
	}
}

// makeSparse makes a file of that size with 1 MiB of data in three places.
func makeSparse(t testing.TB, name string, size int64) {
	t.Helper()
	f, err := os.Create(name)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(size))
	for i, at := range []int64{4 << 10, size / 3 &^ 4095, size - 300<<10} {
		_, err := f.WriteAt(bytes.Repeat([]byte{byte('a' + i)}, 300<<10), at)
		require.NoError(t, err)
	}
}

func requireSparse(t testing.TB, name string, size int64) {
	t.Helper()
	f, err := os.Open(name)
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(t, err)
	require.Equal(t, size, info.Size())
	require.Less(t, info.Sys().(*syscall.Stat_t).Blocks*512, int64(4<<20), "the holes were filled")
	buf := make([]byte, 300<<10)
	for i, at := range []int64{4 << 10, size / 3 &^ 4095, size - 300<<10} {
		_, err := f.ReadAt(buf, at)
		require.NoError(t, err)
		require.Equal(t, bytes.Repeat([]byte{byte('a' + i)}, 300<<10), buf)
	}
}

// A copy whose context ends leaves neither the file nor a piece of it.
func TestCopyCancelled_InProcess(t *testing.T) {
	f, _ := inProcess(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/src", make([]byte, 64<<20), 0o600))
	for name, do := range map[string]func(context.Context, string, string, CopyOptions) error{
		"from host": f.CopyFromHost, "to host": f.CopyToHost, "in guest": f.Copy,
	} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o755))
		dst := filepath.Join(dir, name, "dst")
		ctx, cancel := context.WithCancel(t.Context())
		// It is cancelled when something of it is there.
		go func() {
			for ctx.Err() == nil {
				if list, _ := os.ReadDir(filepath.Dir(dst)); len(list) > 0 {
					cancel()
				}
			}
		}()
		err := do(ctx, dir+"/src", dst, CopyOptions{})
		cancel()
		if err == nil {
			continue // it was faster
		}
		require.ErrorIs(t, err, context.Canceled, name)
		requireNoTemporaries(t, filepath.Dir(dst))
		require.NoFileExists(t, dst)
	}
}

func TestCopyDiskFull_InProcess(t *testing.T) {
	if os.Geteuid() != 0 && testing.Short() {
		t.Skip("needs root to mount")
	}
	f, _ := inProcess(t)
	dir := t.TempDir()
	small := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size=1m"), "this test mounts, as root")
	t.Cleanup(func() { require.NoError(t, unix.Unmount(small, 0)) })
	require.NoError(t, os.WriteFile(dir+"/src", make([]byte, 4<<20), 0o600))
	for name, do := range map[string]func(context.Context, string, string, CopyOptions) error{
		"from host": f.CopyFromHost, "to host": f.CopyToHost, "in guest": f.Copy,
	} {
		err := do(t.Context(), dir+"/src", small+"/dst", CopyOptions{})
		require.ErrorIs(t, err, syscall.ENOSPC, name)
		var pe *fs.PathError
		require.True(t, errors.As(err, &pe), name)
		left, err := os.ReadDir(small)
		require.NoError(t, err)
		require.Empty(t, left, name)
		require.NoFileExists(t, small+"/dst")
	}
	err := f.WriteFile(t.Context(), small+"/f", make([]byte, 4<<20), 0o600)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorContains(t, err, small+"/f")
}
