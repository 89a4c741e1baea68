package flatten_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

func TestTree(t *testing.T) {
	// As whoever runs the tests: what needs root is in TestMountTree.
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(outside, []byte("secret"), 0o600))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a/b/.wh.c"), 0o750))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a/f"), noise(100_000), 0o640))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a/.wh.f"), []byte("not a whiteout"), 0o640))
	require.NoError(t, os.Link(filepath.Join(dir, "a/f"), filepath.Join(dir, "hard")))
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "link")))
	require.NoError(t, os.Symlink("../../..", filepath.Join(dir, "a/up")))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	require.NoError(t, err)
	require.NoError(t, sparse.Truncate(10<<20))
	require.NoError(t, sparse.Close())
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer unix.Close(sock)
	require.NoError(t, unix.Bind(sock, &unix.SockaddrUnix{Name: filepath.Join(dir, "a/sock")}))
	if err := unix.Setxattr(filepath.Join(dir, "a"), "user.x", []byte("y"), 0); err != nil {
		require.ErrorIs(t, err, unix.ENOTSUP)
	}

	root, err := os.Open(dir)
	require.NoError(t, err)
	defer root.Close()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	require.NoError(t, err)
	defer f.Close()
	b := flatten.New(f, flatten.Options{})
	require.NoError(t, b.Layer(context.Background(), bytes.NewReader(archive(t, file("a/b/c", "c"), file("from below", "")))))
	require.NoError(t, b.Tree(context.Background(), root))
	stats, err := b.Close()
	require.NoError(t, err)
	fsck(t, f.Name())
	require.Equal(t, int64(1), stats.Sockets)

	require.NoError(t, os.Remove(filepath.Join(dir, "a/sock")))
	require.NoError(t, unix.Utimes(filepath.Join(dir, "a"), []unix.Timeval{{Sec: 1}, {Sec: 1}}))
	var got []string
	for _, line := range imageManifest(t, f) {
		if !strings.HasPrefix(line, `"a" `) && !strings.HasPrefix(line, `"a/b/c"`) && !strings.HasPrefix(line, `"from below"`) {
			got = append(got, line)
		}
	}
	var want []string
	for _, line := range treeManifest(t, dir) {
		if !strings.HasPrefix(line, `"a" `) {
			want = append(want, line)
		}
	}
	require.Equal(t, want, got)

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, flatten.New(discard{}, flatten.Options{}).Tree(ctx, root), context.Canceled)
	err = flatten.New(discard{}, flatten.Options{Limits: flatten.Limits{Entries: 5}}).Tree(context.Background(), root)
	require.ErrorIs(t, err, flatten.ErrLimit)
	err = flatten.New(discard{}, flatten.Options{Limits: flatten.Limits{Bytes: 1000}}).Tree(context.Background(), root)
	require.ErrorIs(t, err, flatten.ErrLimit)
	null, err := os.Open("/dev/null")
	require.NoError(t, err)
	defer null.Close()
	require.ErrorIs(t, flatten.New(discard{}, flatten.Options{}).Tree(context.Background(), null), unix.ENOTDIR)
}
