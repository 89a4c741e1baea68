package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// newPatcher patches a directory of the test's.
func newPatcher(t *testing.T) (*patcher, string) {
	t.Helper()
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	p := &patcher{root: fd}
	t.Cleanup(func() {
		require.NoError(t, p.finish())
		unix.Close(fd)
	})
	return p, dir
}

func ids() (uid, gid uint32) { return uint32(os.Getuid()), uint32(os.Getgid()) }

func file(path, data string) *proto.PatchRequest {
	uid, gid := ids()
	return &proto.PatchRequest{Kind: proto.PatchRequest_FILE, Path: path, Data: []byte(data), HasOwner: true, Uid: uid, Gid: gid}
}

func dir(path string) *proto.PatchRequest {
	uid, gid := ids()
	return &proto.PatchRequest{Kind: proto.PatchRequest_MKDIR, Path: path, HasOwner: true, Uid: uid, Gid: gid}
}

func requireContent(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
}

func TestPatch_Files(t *testing.T) {
	p, root := newPatcher(t)
	f := file("/etc/deep/conf", "one\n")
	f.HasMode, f.Mode = true, 0o4750
	require.NoError(t, p.apply(f))
	require.NoError(t, p.apply(&proto.PatchRequest{Kind: proto.PatchRequest_DATA, Data: []byte("two\n")}))
	require.NoError(t, p.apply(&proto.PatchRequest{Kind: proto.PatchRequest_APPEND, Path: "/etc/deep/conf", Data: []byte("three\n")}))
	require.NoError(t, p.apply(&proto.PatchRequest{Done: true}))
	requireContent(t, root+"/etc/deep/conf", "one\ntwo\nthree\n")
	info, err := os.Stat(root + "/etc/deep/conf")
	require.NoError(t, err)
	require.Equal(t, os.ModeSetuid|0o750, info.Mode())

	require.ErrorContains(t, p.apply(file("/etc/deep/conf", "x")), "file already exists; set Replace")
	f = file("/etc/deep/conf", "new")
	f.Replace = true
	require.NoError(t, p.apply(f))
	require.NoError(t, p.finish())
	requireContent(t, root+"/etc/deep/conf", "new")

	f = file("/etc", "now a file")
	f.Replace = true
	require.NoError(t, p.apply(f))
	require.NoError(t, p.finish())
	requireContent(t, root+"/etc", "now a file")
	require.NoError(t, p.apply(&proto.PatchRequest{Kind: proto.PatchRequest_REMOVE, Path: "/etc"}))
	require.NoFileExists(t, root+"/etc")
	require.NoError(t, p.apply(&proto.PatchRequest{Kind: proto.PatchRequest_REMOVE, Path: "/nothing/here"}))
}

func TestPatch_DirectoriesAndLinks(t *testing.T) {
	p, root := newPatcher(t)
	require.NoError(t, p.apply(dir("/a/b")))
	d := dir("/a/b")
	d.HasMode, d.Mode = true, 0o1777
	require.NoError(t, p.apply(d), "a directory that exists is no error")
	info, err := os.Stat(root + "/a/b")
	require.NoError(t, err)
	require.Equal(t, os.ModeDir|os.ModeSticky|0o777, info.Mode())
	uid, gid := ids()
	link := &proto.PatchRequest{Kind: proto.PatchRequest_SYMLINK, Path: "/a/link", Target: "/etc/passwd", HasOwner: true, Uid: uid, Gid: gid}
	require.NoError(t, p.apply(link))
	target, err := os.Readlink(root + "/a/link")
	require.NoError(t, err)
	require.Equal(t, "/etc/passwd", target)
	require.ErrorContains(t, p.apply(link), "file already exists")
	require.NoError(t, p.apply(file("/f", "")))
	require.ErrorContains(t, p.apply(dir("/f")), "file already exists")
}

// Links of the image lead where they lead inside, never outside.
func TestPatch_LinksStayInside(t *testing.T) {
	p, root := newPatcher(t)
	outside := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outside, "victim"), []byte("mine"), 0o644))
	require.NoError(t, os.Mkdir(root+"/data", 0o755))
	for name, target := range map[string]string{
		"absolute": outside, "up": strings.Repeat("../", 20) + strings.TrimPrefix(outside, "/"),
		"magic": "/proc/self/root/" + outside,
	} {
		require.NoError(t, os.Symlink(target, filepath.Join(root, name)))
		for _, r := range []*proto.PatchRequest{
			file("/"+name+"/new", "x"),
			{Kind: proto.PatchRequest_APPEND, Path: "/" + name + "/victim", Data: []byte("x")},
			{Kind: proto.PatchRequest_REMOVE, Path: "/" + name + "/victim"},
			dir("/" + name + "/newdir"),
		} {
			// Refused, or done inside the root; what counts is outside.
			_ = p.apply(r)
		}
	}
	require.NoError(t, os.Symlink("/data", root+"/inside"))
	require.NoError(t, p.apply(file("/inside/f", "in")))
	require.NoError(t, p.finish())
	requireContent(t, root+"/data/f", "in")
	requireContent(t, outside+"/victim", "mine")
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

func TestPatch_Refused(t *testing.T) {
	p, root := newPatcher(t)
	require.NoError(t, unix.Mkfifo(root+"/fifo", 0o600))
	for reason, r := range map[string]*proto.PatchRequest{
		"not an absolute path":         file("etc/x", ""),
		"the root itself":              file("/..", ""),
		"not a regular file":           {Kind: proto.PatchRequest_APPEND, Path: "/fifo"},
		"no such file":                 {Kind: proto.PatchRequest_APPEND, Path: "/none"},
		"data without a file":          {Kind: proto.PatchRequest_DATA, Data: []byte("x")},
		"at once: more than":           {Kind: proto.PatchRequest_FILE, Path: "/big", Data: make([]byte, proto.MaxPatchData+1)},
		"invalid argument":             file("/a\x00b", ""),
		"symlink /x: invalid argument": {Kind: proto.PatchRequest_SYMLINK, Path: "/x", Target: "a\x00b"},
	} {
		err := p.apply(r)
		require.Error(t, err, reason)
		if !strings.Contains(reason, "invalid") {
			require.ErrorContains(t, err, reason)
		}
	}
}

// FuzzPatch: whatever is asked for, nothing outside the root changes.
func FuzzPatch(f *testing.F) {
	f.Add(int32(1), "/a/b", "/x", true, uint32(0o755))
	f.Add(int32(5), "/l", "../../..", true, uint32(0))
	f.Add(int32(6), "/l/../x", "", false, uint32(0))
	f.Fuzz(func(t *testing.T, kind int32, path, target string, replace bool, mode uint32) {
		p, _ := newPatcher(t)
		uid, gid := ids()
		link := &proto.PatchRequest{Kind: proto.PatchRequest_SYMLINK, Path: "/l", Target: target, HasOwner: true, Uid: uid, Gid: gid}
		_ = p.apply(link)
		_ = p.apply(&proto.PatchRequest{
			Kind: proto.PatchRequest_Kind(kind % 7), Path: path, Target: target, Replace: replace,
			HasMode: true, Mode: mode, HasOwner: true, Uid: uid, Gid: gid,
		})
	})
}
