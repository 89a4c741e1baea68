package flatten_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

// What Linux shows of an image equals what tar unpacks of the same layer, in
// every detail.
func TestMountEqualsTar(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a Linux with EROFS, for which -short starts no machine")
	}
	if !inMachine(t) {
		return
	}
	layer := archive(t, append(everything(t),
		with(file("empty attribute", ""), func(e *ent) { e.PAXRecords = map[string]string{"SCHILY.xattr.user.empty": ""} }),
		with(file("odd attribute", ""), func(e *ent) { e.PAXRecords = map[string]string{"SCHILY.xattr.user.a%3Db%25c%41": "1"} }))...)
	f, _, err := build(t, flatten.Options{}, layer)
	require.NoError(t, err)
	requireSameAsTar(t, f.Name(), layer)
}

// The same with a large part of a real system, as tar itself writes it.
func TestMountRealFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a Linux with EROFS, for which -short starts no machine")
	}
	if !inMachine(t) {
		return
	}
	layer, err := exec.Command("tar", "--format=posix", "--xattrs", "--sparse", "--numeric-owner", "-C", "/",
		"-cf", "-", "--no-recursion", "usr", "usr/lib", "usr/share", "--recursion",
		"etc", "usr/lib/python3", "usr/share/zoneinfo").Output()
	require.NoError(t, err)
	f, stats, err := build(t, flatten.Options{}, layer)
	require.NoError(t, err)
	t.Logf("%+v", stats)
	requireSameAsTar(t, f.Name(), layer)
}

// A host directory in an image is what it was.
func TestMountTree(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a Linux with EROFS, for which -short starts no machine")
	}
	if !inMachine(t) {
		return
	}
	dir := untar(t, archive(t, everything(t)...))
	root, err := os.Open(dir)
	require.NoError(t, err)
	defer root.Close()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	require.NoError(t, err)
	defer f.Close()
	b := flatten.New(f, flatten.Options{})
	require.NoError(t, b.Tree(context.Background(), root))
	_, err = b.Close()
	require.NoError(t, err)
	require.Equal(t, treeManifest(t, dir), treeManifest(t, mount(t, f.Name())))
}

// inMachine says if this machine's kernel can mount EROFS, and otherwise runs
// the test in the rig, whose can.
func inMachine(t *testing.T) bool {
	known, err := os.ReadFile("/proc/filesystems")
	require.NoError(t, err)
	if os.Geteuid() == 0 && strings.Contains(string(known), "\terofs\n") {
		return true
	}
	require.NotEqual(t, "emulated", os.Getenv("KVMRIG"), "the rig's kernel lacks EROFS")
	rig, err := filepath.Abs("../../bin/kvmrig")
	require.NoError(t, err)
	_, err = os.Stat(rig)
	require.NoError(t, err, "needs root and EROFS, or the rig: make build")
	self, err := os.Executable()
	require.NoError(t, err)
	out, err := exec.Command(rig, "--emulate", "--fresh", "--timeout", "5m", "--",
		self, "-test.v", "-test.run", "^"+t.Name()+"$").CombinedOutput()
	require.NoError(t, err, "in the rig: %s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name(), "in the rig: %s", out)
	t.Logf("in the rig: %s", out)
	return false
}

// mount mounts an image by a loop device.
func mount(t *testing.T, image string) string {
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	require.NoError(t, err)
	defer ctl.Close()
	n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
	require.NoError(t, err)
	path := fmt.Sprintf("/dev/loop%d", n)
	loop, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer loop.Close()
	back, err := os.Open(image)
	require.NoError(t, err)
	defer back.Close()
	require.NoError(t, unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{
		Fd: uint32(back.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR},
	}))
	dir := t.TempDir()
	require.NoError(t, unix.Mount(path, dir, "erofs", unix.MS_RDONLY, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	return dir
}

func untar(t *testing.T, layer []byte) string {
	dir := t.TempDir()
	cmd := exec.Command("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-owner",
		"--delay-directory-restore", "-xpf", "-", "-C", dir)
	cmd.Stdin = bytes.NewReader(layer)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return dir
}

// requireSameAsTar compares what is mounted with what is unpacked. The root is
// the archive's business, and these archives do not describe it.
func requireSameAsTar(t *testing.T, image string, layer []byte) {
	notRoot := func(lines []string) []string {
		return slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, `"." `) })
	}
	want := notRoot(treeManifest(t, untar(t, layer)))
	got := notRoot(treeManifest(t, mount(t, image)))
	require.Equal(t, want, got)
	t.Logf("%d names are the same", len(got))
}

// everything is a layer with all that the format knows. Directories come before
// what is in them, as they have to for tar's implied ones not to be of now.
func everything(t testing.TB) []ent {
	long := strings.Repeat("n", 255)
	random := bytes.Repeat([]byte("0123456789abcdef"), 5000)
	xattr := func(e ent, kv ...string) ent {
		e.PAXRecords = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			e.PAXRecords["SCHILY.xattr."+kv[i]] = kv[i+1]
		}
		return e
	}
	acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff" +
		"\x10\x00\x06\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
	caps := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	special := func(name string, typ byte, major, minor int64) ent {
		return ent{Header: tar.Header{Typeflag: typ, Name: name, Mode: 0o620, Gid: 5, Devmajor: major, Devminor: minor, ModTime: when}}
	}
	ents := []ent{
		dir("d", 0o755), dir("d/sticky", 0o1777), dir("d/setgid", 0o2750), dir("d/none", 0),
		file("empty", ""), file("small", "hello\n"), file("block", string(random[:4096])), file("odd", string(random[:70001])),
		with(file("setuid", "x"), func(e *ent) { e.Mode = 0o4755 }), with(file("setgid", "x"), func(e *ent) { e.Mode = 0o2755 }),
		with(file("big ids", "x"), func(e *ent) { e.Uid, e.Gid = 4_000_000_000, 70_000 }),
		with(file("old", "x"), func(e *ent) { e.ModTime = time.Unix(-1_000_000, 500) }),
		with(file("new", "x"), func(e *ent) { e.ModTime = time.Unix(1<<33, 999_999_999) }),
		file("d/\xff\xfe not utf-8 \x01", "x"), file("d/"+long, "x"), file("d/ b", ""), file("d/-c", ""), file("d/!", ""),
		symlink("to small", "small"), symlink("dangling", "/no/where"), symlink("long link", strings.Repeat("y/", 2000)),
		symlink("d/\xe9t\xe9", "\xe9"), link("d/hard", "small"), link("harder", "d/hard"), link("linked link", "to small"),
		special("char", tar.TypeChar, 1, 3), special("block dev", tar.TypeBlock, 259, 1<<20-1), special("fifo", tar.TypeFifo, 0, 0),
		link("linked fifo", "fifo"),
		xattr(file("caps", "x"), "security.capability", caps), xattr(file("caps again", "x"), "security.capability", caps),
		xattr(file("user", "x"), "user.one", "1", "user.two", "a\x00b\n=", "user."+long[:200], string(random[:3000])),
		xattr(with(file("acl", "x"), func(e *ent) { e.Mode = 0o664 }), "system.posix_acl_access", acl),
		xattr(dir("acl dir", 0o755), "system.posix_acl_default", acl, "trusted.x", "y"),
		xattr(dir("d/many", 0o755), "user.large", string(random[:3000])),
		file("zeros", strings.Repeat("\x00", 300_000)), file("holes", strings.Repeat("\x00", 200_000)+"x"+strings.Repeat("\x00", 400_000)+"y"),
	}
	// Directories that end anywhere around the end of a block.
	for _, n := range []int{13, 14, 15, 16, 17, 31} {
		for length := 200; length <= 255; length += 5 {
			d := fmt.Sprintf("d/%d of %d", n, length)
			ents = append(ents, dir(d, 0o755))
			for i := range n {
				ents = append(ents, link(fmt.Sprintf("%s/%03d%s", d, i, long[3:length]), "small"))
			}
		}
	}
	for i := range 1000 {
		ents = append(ents, file(fmt.Sprintf("d/many/%d-%s", i, long[:i%200]), fmt.Sprint(i)))
	}
	return ents
}

// In the guest, overlayfs is over the image: what only looks like its own is
// shown as it was, and is not obeyed.
func TestMountUnderOverlay(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a Linux with EROFS, for which -short starts no machine")
	}
	if !inMachine(t) {
		return
	}
	xattrs := func(kv ...string) func(*ent) {
		return func(e *ent) {
			e.PAXRecords = map[string]string{}
			for i := 0; i < len(kv); i += 2 {
				e.PAXRecords["SCHILY.xattr."+kv[i]] = kv[i+1]
			}
		}
	}
	names := []string{"trusted.overlay.opaque", "trusted.overlay.redirect", "trusted.overlay.whiteout", "trusted.overlay.overlay.opaque", "user.overlay.opaque"}
	values := []string{"y", "/secret", "", "y", "y"}
	var kv []string
	for i := range names {
		kv = append(kv, names[i], values[i])
	}
	f, _, err := build(t, flatten.Options{}, archive(t,
		with(dir("d", 0o755), xattrs(kv...)), file("d/f", "f"), dir("secret", 0o700), file("secret/s", "s"),
		with(file("meta", "data"), xattrs("trusted.overlay.metacopy", "", "trusted.overlay.redirect", "/secret/s")),
		with(file("gone", ""), func(e *ent) { e.Typeflag = tar.TypeChar })))
	require.NoError(t, err)
	lower, merged, upper := mount(t, f.Name()), t.TempDir(), t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", upper, "tmpfs", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(upper, 0)) })
	require.NoError(t, os.Mkdir(upper+"/u", 0o755))
	require.NoError(t, os.Mkdir(upper+"/w", 0o755))
	require.NoError(t, unix.Mount("overlay", merged, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s/u,workdir=%s/w,metacopy=on", lower, upper, upper)))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(merged, 0)) })

	entries, err := os.ReadDir(merged)
	require.NoError(t, err)
	require.Len(t, entries, 3)
	for path, want := range map[string]string{"d/f": "f", "meta": "data", "secret/s": "s"} {
		b, err := os.ReadFile(filepath.Join(merged, path))
		require.NoError(t, err)
		require.Equal(t, want, string(b))
	}
	got := xattrLine(t, filepath.Join(merged, "d"))
	for i, name := range names {
		require.Contains(t, got, fmt.Sprintf(" %s=%x", name, values[i]))
	}
}
