package sandbox

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"testing/iotest"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/agent"
	"github.com/sandpit-vm/sandpit/guest/proto"
)

// inProcess is an FS whose guest is this machine: the agent runs in this
// process. Tests keep to their own directories.
func inProcess(t testing.TB) (*FS, *ttrpc.Client) {
	t.Helper()
	a, err := agent.New(agent.Config{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = a.Run(ctx)
	}()
	go func() { _ = a.Serve(l) }()
	dial := func(context.Context) (net.Conn, error) { return net.Dial("unix", socket) }
	conn, err := dial(ctx)
	require.NoError(t, err)
	client := newSharedClient(conn, func() {})
	_, err = proto.NewAgentClient(client).Setup(ctx, &proto.SetupRequest{})
	require.NoError(t, err)
	t.Cleanup(func() {
		client.Close()
		l.Close()
		cancel()
		<-ended
	})
	return newFS("test", func(context.Context) (*ttrpc.Client, error) { return client, nil }, dial, func(err error) error { return err }), client
}

func TestFSConformance_InProcess(t *testing.T) {
	f, _ := inProcess(t)
	dir := t.TempDir()
	checkConformance(t, f, dir)
	// Byte for byte what os says.
	want, err := fs.ReadDir(os.DirFS(dir), ".")
	require.NoError(t, err)
	got, err := fs.ReadDir(f.DirFS(t.Context(), dir), ".")
	require.NoError(t, err)
	require.Len(t, got, len(want))
	for i := range want {
		a, err := want[i].Info()
		require.NoError(t, err)
		b, err := got[i].Info()
		require.NoError(t, err)
		require.Equal(t, fs.FormatFileInfo(a), fs.FormatFileInfo(b))
		require.Equal(t, a.Sys().(*syscall.Stat_t).Ino, b.Sys().(*syscall.Stat_t).Ino)
	}
}

// checkConformance makes a tree and holds it against package fstest.
func checkConformance(t *testing.T, f *FS, dir string) {
	t.Helper()
	ctx := t.Context()
	require.NoError(t, f.MkdirAll(ctx, dir+"/a/b/c", 0o755))
	require.NoError(t, f.WriteFile(ctx, dir+"/a/empty", nil, 0o644))
	require.NoError(t, f.WriteFile(ctx, dir+"/a/b/file.txt", []byte("hello"), 0o600))
	require.NoError(t, f.WriteFile(ctx, dir+"/large", bytes.Repeat([]byte("0123456789abcdef"), 20), 0o644))
	require.NoError(t, f.Symlink(ctx, "a/b", dir+"/link"))
	fsys := f.DirFS(ctx, dir)
	require.NoError(t, fstest.TestFS(fsys, "a/b/c", "a/empty", "a/b/file.txt", "large", "link"))
	sub, err := fs.Sub(fsys, "a")
	require.NoError(t, err)
	require.NoError(t, fstest.TestFS(sub, "b/file.txt", "empty"))
	var walked []string
	require.NoError(t, fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		walked = append(walked, p)
		return err
	}))
	require.Equal(t, []string{".", "a", "a/b", "a/b/c", "a/b/file.txt", "a/empty", "large", "link"}, walked)
	to, err := fs.ReadLink(fsys, "link")
	require.NoError(t, err)
	require.Equal(t, "a/b", to)
	_, err = fs.Stat(fsys, "../x")
	require.ErrorIs(t, err, fs.ErrInvalid)
}

// Errors are those of package os for the same names.
func TestFSErrors_InProcess(t *testing.T) {
	f, _ := inProcess(t)
	ctx, dir := t.Context(), t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/file", []byte("x"), 0o644))
	require.NoError(t, os.MkdirAll(dir+"/full/x", 0o755))
	require.NoError(t, unix.Mkfifo(dir+"/fifo", 0o644))
	require.NoError(t, os.Symlink("loop", dir+"/loop"))
	long := strings.Repeat("n", 300)
	deep := strings.Repeat("/deep", 1000)
	for name, both := range map[string][2]func(p string) error{
		"stat":  {func(p string) error { _, err := f.Stat(ctx, p); return err }, func(p string) error { _, err := os.Stat(p); return err }},
		"lstat": {func(p string) error { _, err := f.Lstat(ctx, p); return err }, func(p string) error { _, err := os.Lstat(p); return err }},
		"open":  {func(p string) error { _, err := f.Open(ctx, p); return err }, func(p string) error { _, err := os.Open(p); return err }},
		"create": {func(p string) error {
			_, err := f.OpenFile(ctx, p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			return err
		}, func(p string) error { _, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); return err }},
		"read":     {func(p string) error { _, err := f.ReadFile(ctx, p); return err }, func(p string) error { _, err := os.ReadFile(p); return err }},
		"write":    {func(p string) error { return f.WriteFile(ctx, p, nil, 0o600) }, func(p string) error { return os.WriteFile(p, nil, 0o600) }},
		"readdir":  {func(p string) error { _, err := f.ReadDir(ctx, p); return err }, func(p string) error { _, err := os.ReadDir(p); return err }},
		"mkdir":    {func(p string) error { return f.Mkdir(ctx, p, 0o755) }, func(p string) error { return os.Mkdir(p, 0o755) }},
		"mkdirall": {func(p string) error { return f.MkdirAll(ctx, p+"/y", 0o755) }, func(p string) error { return os.MkdirAll(p+"/y", 0o755) }},
		"remove":   {func(p string) error { return f.Remove(ctx, p) }, func(p string) error { return os.Remove(p) }},
		"readlink": {func(p string) error { _, err := f.Readlink(ctx, p); return err }, func(p string) error { _, err := os.Readlink(p); return err }},
		"chmod":    {func(p string) error { return f.Chmod(ctx, p, 0o700) }, func(p string) error { return os.Chmod(p, 0o700) }},
		"chown":    {func(p string) error { return f.Chown(ctx, p, -1, -1) }, func(p string) error { return os.Chown(p, -1, -1) }},
		"chtimes":  {func(p string) error { return f.Chtimes(ctx, p, time.Time{}, time.Unix(5, 0)) }, func(p string) error { return os.Chtimes(p, time.Time{}, time.Unix(5, 0)) }},
		"truncate": {func(p string) error { return f.Truncate(ctx, p, 5) }, func(p string) error { return os.Truncate(p, 5) }},
		"rename":   {func(p string) error { return f.Rename(ctx, p, dir+"/full") }, func(p string) error { return os.Rename(p, dir+"/full") }},
		"link":     {func(p string) error { return f.Link(ctx, p, dir+"/full") }, func(p string) error { return os.Link(p, dir+"/full") }},
		"symlink":  {func(p string) error { return f.Symlink(ctx, "x", p) }, func(p string) error { return os.Symlink("x", p) }},
	} {
		for _, p := range []string{"", dir + "/none", dir + "/none/x", dir + "/file", dir + "/file/x", dir + "/full", dir + "/loop", dir + "/fifo", dir + "/" + long, dir + deep, dir + "/nul\x00"} {
			if strings.HasSuffix(p, "/fifo") && (name == "open" || name == "read" || name == "write") {
				continue // os would wait
			}
			if p == "" && (name == "truncate" || name == "mkdirall" || name == "readdir") || name == "remove" && (strings.HasSuffix(p, "/file") || strings.HasSuffix(p, "/loop") || strings.HasSuffix(p, "/fifo")) {
				continue // would succeed, or concern /
			}
			if (name == "create" || name == "write" || name == "mkdir" || name == "mkdirall" || name == "symlink") && strings.HasSuffix(p, "/none") {
				continue
			}
			got, want := both[0](p), both[1](p)
			require.Equal(t, want == nil, got == nil, "%s %.80q: %.300v, os: %.300v", name, p, got, want)
			if want == nil {
				continue
			}
			var a, b syscall.Errno
			require.ErrorAs(t, want, &b, "%s %.80q", name, p)
			require.ErrorAs(t, got, &a, "%s %.80q: %.300v", name, p, got)
			require.Equal(t, b, a, "%s %.80q: %.300v, os: %.300v", name, p, got, want)
			var pe *fs.PathError
			var le *os.LinkError
			require.Equal(t, errors.As(want, &le), errors.As(got, &le), "%s %.80q: %.300v", name, p, got)
			require.Equal(t, errors.As(want, &pe), errors.As(got, &pe), "%s %.80q: %.300v", name, p, got)
			if pe != nil {
				require.Equal(t, name == "remove", pe.Op == "remove", got.Error())
			}
		}
	}
	for _, p := range []string{"/fifo"} {
		_, err := f.Open(ctx, dir+p)
		require.ErrorIs(t, err, errors.ErrUnsupported)
		require.ErrorIs(t, f.WriteFile(ctx, dir+p, nil, 0o600), errors.ErrUnsupported)
	}
	_, err := f.Open(ctx, "/dev/tty")
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = f.OpenFile(ctx, dir+"/file", 1<<30, 0)
	require.ErrorIs(t, err, syscall.EINVAL)
	require.ErrorIs(t, f.Truncate(ctx, dir+"/file", -1), syscall.EINVAL)
	require.ErrorIs(t, f.RemoveAll(ctx, dir+"/full/."), syscall.EINVAL)
	require.NoError(t, f.RemoveAll(ctx, dir+"/full"))
	require.NoError(t, f.RemoveAll(ctx, dir+"/full"))
	ok, err := f.Exists(ctx, dir+"/full")
	require.NoError(t, err)
	require.False(t, ok)
	ok, err = f.Exists(ctx, dir+"/file/x")
	require.NoError(t, err)
	require.False(t, ok)
	ok, err = f.Exists(ctx, dir)
	require.NoError(t, err)
	require.True(t, ok)
}

func TestFile_InProcess(t *testing.T) {
	f, _ := inProcess(t)
	checkFile(t, f, t.TempDir())
}

// checkFile holds a File against what an os.File does.
func checkFile(t *testing.T, f *FS, dir string) {
	t.Helper()
	ctx := t.Context()
	content := make([]byte, 3*proto.MaxChunk+777)
	_, _ = rand.Read(content)
	name := dir + "/f"
	file, err := f.Create(ctx, name)
	require.NoError(t, err)
	n, err := file.Write(content)
	require.NoError(t, err)
	require.Equal(t, len(content), n)
	_, err = file.Seek(0, io.SeekStart)
	require.NoError(t, err)
	got, err := io.ReadAll(iotest.HalfReader(file))
	require.NoError(t, err)
	require.Equal(t, content, got)
	small, err := f.Create(ctx, dir+"/small")
	require.NoError(t, err)
	_, err = small.Write(content[:100])
	require.NoError(t, err)
	_, err = small.Seek(0, io.SeekStart)
	require.NoError(t, err)
	require.NoError(t, iotest.TestReader(small, content[:100]))
	require.NoError(t, small.Close())
	require.NoError(t, f.Remove(ctx, dir+"/small"))
	_, err = file.WriteAt([]byte("XYZ"), 100)
	require.NoError(t, err)
	copy(content[100:], "XYZ")
	pos, err := file.Seek(-7, io.SeekEnd)
	require.NoError(t, err)
	require.EqualValues(t, len(content)-7, pos)
	rest, err := io.ReadAll(file)
	require.NoError(t, err)
	require.Equal(t, content[len(content)-7:], rest)
	_, err = file.ReadAt(make([]byte, 10), int64(len(content))-5)
	require.Equal(t, io.EOF, err)
	_, err = file.ReadAt(make([]byte, 1), -1)
	require.ErrorIs(t, err, syscall.EINVAL)
	require.NoError(t, file.Sync())
	require.NoError(t, file.Chmod(0o600))
	require.NoError(t, file.Truncate(1<<20))
	info, err := file.Stat()
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, info.Size())
	require.Equal(t, fs.FileMode(0o600), info.Mode())
	require.Equal(t, "f", info.Name())

	// The hole at the end comes as zeros.
	_, err = file.Seek(0, io.SeekStart)
	require.NoError(t, err)
	var out bytes.Buffer
	moved, err := io.Copy(&out, file)
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, moved)
	require.Equal(t, append(bytes.Clone(content), make([]byte, 1<<20-len(content))...), out.Bytes())
	_, err = file.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)

	require.NoError(t, file.Close())
	require.ErrorIs(t, file.Close(), fs.ErrClosed)
	_, err = file.Read(make([]byte, 1))
	require.ErrorIs(t, err, fs.ErrClosed)
	_, err = file.Seek(0, io.SeekStart)
	require.ErrorIs(t, err, fs.ErrClosed)

	file, err = f.OpenFile(ctx, name, os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	_, err = io.Copy(file, strings.NewReader("more"))
	require.NoError(t, err)
	_, err = file.WriteString("!")
	require.NoError(t, err)
	_, err = file.WriteAt([]byte("x"), 0)
	require.ErrorIs(t, err, fs.ErrInvalid)
	_, err = file.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.EBADF)
	require.NoError(t, file.Close())
	got, err = f.ReadFile(ctx, name)
	require.NoError(t, err)
	require.Len(t, got, 1<<20+5)
	require.Equal(t, "more!", string(got[1<<20:]))

	d, err := f.Open(ctx, dir)
	require.NoError(t, err)
	_, err = d.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.EISDIR)
	list, err := d.ReadDir(1)
	require.NoError(t, err)
	require.Equal(t, "f", list[0].Name())
	_, err = d.ReadDir(1)
	require.Equal(t, io.EOF, err)
	list, err = d.ReadDir(-1)
	require.NoError(t, err)
	require.Empty(t, list)
	require.NoError(t, d.Close())

	zero, err := f.Open(ctx, "/dev/zero")
	require.NoError(t, err)
	buf := bytes.Repeat([]byte{1}, 200000)
	_, err = io.ReadFull(zero, buf)
	require.NoError(t, err)
	require.Equal(t, make([]byte, 200000), buf)
	require.NoError(t, zero.Close())

	// A file whose size says nothing.
	mounts, err := f.ReadFile(ctx, "/proc/self/mounts")
	require.NoError(t, err)
	require.NotEmpty(t, mounts)

	short, cancel := context.WithCancel(ctx)
	file, err = f.Open(short, name)
	require.NoError(t, err)
	cancel()
	<-file.session.Done()
	_, err = file.Read(make([]byte, 1))
	require.ErrorIs(t, err, context.Canceled)
	require.Error(t, file.Close())
}

func TestReadDirLarge_InProcess(t *testing.T) {
	f, _ := inProcess(t)
	dir := t.TempDir()
	for i := range 3000 {
		require.NoError(t, os.WriteFile(fmt.Sprintf("%s/%0100d", dir, i), nil, 0o600))
	}
	list, err := f.ReadDir(t.Context(), dir)
	require.NoError(t, err)
	require.Len(t, list, 3000)
	require.Equal(t, fmt.Sprintf("%0100d", 2999), list[2999].Name())
	d, err := f.Open(t.Context(), dir)
	require.NoError(t, err)
	defer d.Close()
	n := 0
	for {
		list, err := d.ReadDir(7)
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		n += len(list)
	}
	require.Equal(t, 3000, n)
}

// While the guest drains, what is open goes on and nothing new begins.
func TestFSDraining_InProcess(t *testing.T) {
	f, client := inProcess(t)
	ctx, name := t.Context(), t.TempDir()+"/f"
	file, err := f.Create(ctx, name)
	require.NoError(t, err)
	drained := make(chan error, 1)
	go func() {
		_, err := proto.NewAgentClient(client).Drain(ctx, &proto.DrainRequest{Wait: true})
		drained <- err
	}()
	require.Eventually(t, func() bool { _, err := f.Stat(ctx, name); return errors.Is(err, ErrDraining) }, 10*time.Second, time.Millisecond)
	_, err = f.Open(ctx, name)
	require.ErrorIs(t, err, ErrDraining)
	require.ErrorIs(t, f.CopyToHost(ctx, name, name+"2", CopyOptions{}), ErrDraining)
	_, err = file.WriteString("still")
	require.NoError(t, err)
	select {
	case <-drained:
		t.Fatal("the drain does not wait for an open file")
	default:
	}
	require.NoError(t, file.Close())
	require.NoError(t, <-drained)
	got, err := os.ReadFile(name)
	require.NoError(t, err)
	require.Equal(t, "still", string(got))
}

func TestFSManyFiles_InProcess(t *testing.T) {
	f, _ := inProcess(t)
	ctx, name := t.Context(), t.TempDir()+"/f"
	require.NoError(t, f.WriteFile(ctx, name, []byte("x"), 0o600))
	var files []*File
	for {
		file, err := f.Open(ctx, name)
		if err != nil {
			require.ErrorContains(t, err, "too many files")
			break
		}
		files = append(files, file)
	}
	require.Len(t, files, 128)
	for _, file := range files {
		require.NoError(t, file.Close())
	}
	require.Eventually(t, func() bool {
		file, err := f.Open(ctx, name)
		return err == nil && file.Close() == nil
	}, 10*time.Second, time.Millisecond)
}
