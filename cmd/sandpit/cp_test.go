package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/kvm/kvmtest"
)

func TestHostCopyOperands(t *testing.T) {
	for in, want := range map[string]operand{
		"file": {"", "file"}, "box:/etc": {"box", "/etc"}, "box:": {"box", ""}, "./a:b": {"", "./a:b"}, "/a:b": {"", "/a:b"},
		"a/b:c": {"", "a/b:c"}, ":x": {"", ":x"}, "-": {"", "-"}, "box:a:b": {"box", "a:b"}, ".box:/x": {"", ".box:/x"},
	} {
		require.Equal(t, want, parseOperand(in), in)
	}
}

func TestHostCopyDestination(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(dir+"/dir", 0o755))
	require.NoError(t, os.WriteFile(dir+"/file", nil, 0o600))
	for _, tt := range []struct {
		src, dst string
		isDir    bool
		want     string // below dir; "" is an error
	}{
		{"a/b", "/dir", false, "/dir/b"},
		{"a/b", "/dir/", true, "/dir/b"},
		{"a/b/", "/dir", true, "/dir/b"},
		{"a/b/.", "/dir", true, "/dir"},
		{".", "/dir", true, "/dir"},
		{"/", "/dir", true, "/dir"},
		{"a/b", "/file", false, "/file"},
		{"a/b", "/file", true, ""},
		{"a/b", "/new", false, "/new"},
		{"a/b", "/new", true, "/new"},
		{"a/b", "/new/", true, "/new"},
		{"a/b", "/new/", false, ""},
		{"..", "/dir", true, ""},
		{"a/b", "/file/x", false, ""},
	} {
		got, err := destination(tt.src, dir+tt.dst, tt.isDir, os.Stat)
		if tt.want == "" {
			require.Error(t, err, "%+v", tt)
			continue
		}
		require.NoError(t, err, "%+v", tt)
		require.Equal(t, filepath.Clean(dir+tt.want), filepath.Clean(got), "%+v", tt)
	}
}

func TestHostCopyComplaints(t *testing.T) {
	for _, tt := range []struct{ src, dst, says string }{
		{"a", "b", "NAME:PATH"},
		{"x:/a", "y:/b", "both"},
		{"x:", "b", "path is missing"},
		{"a", "no-such-sandbox:/b", "no sandbox of this name"},
	} {
		cmd, _ := sandpit(t, "cp", tt.src, tt.dst)
		r := finish(t, cmd)
		require.Equal(t, 125, r.status)
		require.Contains(t, r.stderr, tt.says)
		require.Empty(t, r.stdout)
	}
}

// No name in an archive leads out of the directory.
func TestHostUnpackNames(t *testing.T) {
	u := &unpacker{dir: "work"}
	for in, want := range map[string]string{"a": "/work/a", "/a/b": "/work/a/b", "./a/": "/work/a", "a..b": "/work/a..b", ".": "/work"} {
		got, err := u.name(in)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, in := range []string{"..", "../a", "a/../../b", "/../a", "a/.."} {
		_, err := u.name(in)
		require.ErrorContains(t, err, "leads out", in)
	}
}

// One sandbox, everything that cp does.
func TestCopy(t *testing.T) {
	kvmtest.NeedKVM(t)
	first, home := sandpit(t, "create", "--memory", "256", "box")
	require.Zero(t, finish(t, first).status)
	run := func(stdin io.Reader, args ...string) result {
		cmd, _ := sandpit(t, args...)
		cmd.Env = first.Env
		cmd.Stdin = stdin
		return finish(t, cmd)
	}
	guest := func(script string) string {
		r := run(nil, "exec", "box", "--", "sh", "-c", script)
		require.Zero(t, r.status, r.stderr)
		return r.stdout
	}
	defer func() {
		require.Zero(t, run(nil, "rm", "-f", "box").status)
		requireNothingLeft(t, home)
	}()
	host := t.TempDir()
	require.NoError(t, os.MkdirAll(host+"/src/sub", 0o755))
	require.NoError(t, os.WriteFile(host+"/src/file", []byte("file"), 0o640))
	require.NoError(t, os.WriteFile(host+"/src/sub/large", bytes.Repeat([]byte("large"), 100_000), 0o600))
	require.NoError(t, os.Symlink("file", host+"/src/link"))
	require.NoError(t, os.Chown(host+"/src/file", 12, 34))
	require.NoError(t, os.Chmod(host+"/src/file", 0o750|fs.ModeSetuid))

	require.Equal(t, result{}, run(nil, "cp", host+"/src", "box:/root"))
	require.Equal(t, "750 0:0\nfile\n500000\n", guest("cd /root/src && stat -c '%a %u:%g' file && readlink link && stat -c %s sub/large"))
	require.Equal(t, result{}, run(nil, "cp", "-a", host+"/src/.", "box:root/archive"))
	require.Equal(t, "4750 12:34\n", guest("stat -c '%a %u:%g' /root/archive/file"))
	require.Equal(t, result{}, run(nil, "cp", "-L", host+"/src/link", "box:/root/followed"))
	require.Equal(t, "file", guest("cat /root/followed"))

	require.Equal(t, result{}, run(nil, "cp", "box:/root/src", host+"/out"))
	got, err := os.ReadFile(host + "/out/sub/large")
	require.NoError(t, err)
	require.Len(t, got, 500_000)
	require.Equal(t, result{}, run(nil, "cp", "box:/root/src/link", host))
	to, err := os.Readlink(host + "/link")
	require.NoError(t, err)
	require.Equal(t, "file", to)
	require.Equal(t, result{}, run(nil, "cp", "-a", "box:/root/archive/file", host+"/owned"))
	info, err := os.Stat(host + "/owned")
	require.NoError(t, err)
	require.EqualValues(t, 12, info.Sys().(*syscall.Stat_t).Uid)
	require.NotZero(t, info.Mode()&fs.ModeSetuid)

	// A socket is left out, and said so.
	guest("mkfifo '/root/src/pipe\033[2J'")
	r := run(nil, "cp", "box:/root/src", host+"/odd")
	require.Zero(t, r.status)
	require.Contains(t, r.stderr, `pipe\x1b[2J is left out`)
	require.Equal(t, result{}, run(nil, "cp", "-q", "box:/root/src", host+"/odd2"))
	guest("rm /root/src/pipe*")

	r = run(nil, "cp", "box:/no/such", host)
	require.Equal(t, 125, r.status)
	require.Contains(t, r.stderr, "/no/such: no such file or directory")
	r = run(nil, "cp", host+"/src/file", "box:/root/none/")
	require.Equal(t, 125, r.status)
	require.Contains(t, r.stderr, "no directory /root/none/")

	t.Run("archives", func(t *testing.T) {
		packed := run(nil, "cp", "box:/root/src", "-")
		require.Zero(t, packed.status, packed.stderr)
		var names []string
		for _, h := range entries(t, packed.stdout) {
			names = append(names, h.Name)
		}
		require.Equal(t, []string{"src/", "src/file", "src/link", "src/sub/", "src/sub/large"}, names)

		guest("mkdir /root/unpacked")
		require.Equal(t, result{}, run(strings.NewReader(packed.stdout), "cp", "-", "box:/root/unpacked"))
		again := run(nil, "cp", "box:/root/unpacked/src", "-")
		require.Equal(t, entries(t, packed.stdout), entries(t, again.stdout), "times, permissions and all")

		// As another program makes them.
		out, err := exec.Command("tar", "-C", host, "-c", "src").Output()
		require.NoError(t, err)
		guest("mkdir /root/other; ln -s /etc/passwd /root/other/trap")
		require.Equal(t, result{}, run(bytes.NewReader(out), "cp", "-a", "-", "box:/root/other"))
		require.Equal(t, "4750 12:34\n", guest("stat -c '%a %u:%g' /root/other/src/file"))

		// A link in the way is replaced; a name that leads out is refused.
		require.Equal(t, result{}, run(archive(t, "trap"), "cp", "-", "box:/root/other"))
		require.Equal(t, "evil", guest("cat /root/other/trap"))
		require.Contains(t, guest("cat /etc/passwd"), "root:")
		r := run(archive(t, "../../etc/passwd"), "cp", "-", "box:/root/other")
		require.Equal(t, 125, r.status)
		require.Contains(t, r.stderr, "leads out of /root/other")
		r = run(strings.NewReader("this is no archive, but it is long enough"), "cp", "-", "box:/root/other")
		require.Equal(t, 125, r.status)
		require.Contains(t, r.stderr, "standard input")
		r = run(nil, "cp", "-", "box:/etc/passwd")
		require.Contains(t, r.stderr, "not a directory")
	})
}

// entries is an archive as values that compare: a file's digest is in Uname. A
// link's time is not kept.
func entries(t *testing.T, archive string) (all []tar.Header) {
	t.Helper()
	for tr := tar.NewReader(strings.NewReader(archive)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return all
		}
		require.NoError(t, err)
		sum := sha256.New()
		_, err = io.Copy(sum, tr)
		require.NoError(t, err)
		e := tar.Header{Name: h.Name, Mode: h.Mode, Uid: h.Uid, Gid: h.Gid, Size: h.Size, Linkname: h.Linkname, Uname: hex.EncodeToString(sum.Sum(nil))}
		if h.Typeflag != tar.TypeSymlink {
			e.ModTime = h.ModTime
		}
		all = append(all, e)
	}
}

func archive(t *testing.T, name string) io.Reader {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	require.NoError(t, tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: 4, Typeflag: tar.TypeReg, ModTime: time.Unix(1, 0)}))
	_, err := tw.Write([]byte("evil"))
	require.NoError(t, err)
	require.NoError(t, tw.Close())
	return &b
}
