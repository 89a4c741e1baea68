package sandbox_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/erofs/go-erofs"
	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/guest/defaultroot"
	"github.com/sandpit-vm/sandpit/sandbox"
)

// rootTree makes a small root file system in a directory: the default image's
// programs and a few files.
func rootTree(t *testing.T) string {
	t.Helper()
	f, err := defaultroot.Image().Open(filepath.Join(os.TempDir(), "sandpit-test-cache"))
	require.NoError(t, err)
	defer f.Close()
	image, err := erofs.Open(f)
	require.NoError(t, err)
	userland, err := fs.ReadFile(image, "usr/bin/userland")
	require.NoError(t, err)
	dir := t.TempDir()
	for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	require.NoError(t, os.WriteFile(dir+"/bin/userland", userland, 0o755))
	for _, name := range strings.Fields("sh cat id ls echo sync dd df mount stat true readlink head") {
		require.NoError(t, os.Symlink("userland", dir+"/bin/"+name))
	}
	require.NoError(t, os.WriteFile(dir+"/etc/passwd", []byte("root:x:0:0::/:/bin/sh\nme:x:1234:1234::/:/bin/sh\n"), 0o644))
	require.NoError(t, os.WriteFile(dir+"/hello", []byte("from the host\n"), 0o644))
	return dir
}

// once runs a script in a sandbox of its own.
func once(t *testing.T, cfg sandbox.Config, script string) string {
	t.Helper()
	ctx := deadline(t)
	cfg.Memory, cfg.Ephemeral = 256, true
	sb, err := sandbox.Create(ctx, "once", cfg)
	require.NoError(t, err)
	defer func() {
		status, err := sb.StopAndWait(ctx)
		require.NoError(t, err)
		require.True(t, status.Success, "%+v", status)
	}()
	out, err := sb.Shell(ctx, script).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func TestRootDir(t *testing.T) {
	needVM(t)
	dir := rootTree(t)
	require.Equal(t, "from the host\nchanged\n", once(t, sandbox.Config{Image: dir},
		"cat /hello; echo changed >/hello; cat /hello"))
	requireContent(t, dir+"/hello", "from the host\n")
	require.Equal(t, "1234\n", once(t, sandbox.Config{Root: sandbox.Dir{Path: dir}, User: "me"}, "id -u"))
}

func requireContent(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
}

// diskImage makes an ext4 disk of a directory.
func diskImage(t *testing.T, dir, path string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, nil, 0o644))
	require.NoError(t, os.Truncate(path, 64<<20))
	out, err := exec.Command("/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-d", dir, path).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// partitioned puts a disk into the second partition of another, after a small
// one that holds nothing (MBR: Microsoft's partition table of 1983).
func partitioned(t *testing.T, disk, path string) {
	t.Helper()
	content, err := os.ReadFile(disk)
	require.NoError(t, err)
	const mib, sector = 1 << 20, 512
	out := make([]byte, 3*mib+len(content))
	copy(out[3*mib:], content)
	entry := func(i int, start, size uint32) {
		e := out[446+16*i:]
		e[4] = 0x83 // Linux
		binary.LittleEndian.PutUint32(e[8:], start)
		binary.LittleEndian.PutUint32(e[12:], size)
	}
	entry(0, mib/sector, mib/sector)
	entry(1, 3*mib/sector, uint32(len(content)/sector))
	out[510], out[511] = 0x55, 0xaa
	require.NoError(t, os.WriteFile(path, out, 0o644))
}

func TestRootDisk(t *testing.T) {
	needVM(t)
	work := t.TempDir()
	raw, parts, qcow := work+"/disk.raw", work+"/parts.img", work+"/disk.qcow2"
	diskImage(t, rootTree(t), raw)
	partitioned(t, raw, parts)
	out, err := exec.Command("qemu-img", "convert", "-O", "qcow2", parts, qcow).CombinedOutput()
	require.NoError(t, err, "%s", out)

	for _, path := range []string{raw, parts, qcow} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			before, err := os.ReadFile(path)
			require.NoError(t, err)
			const change = "cat /hello; echo changed >/hello; sync; cat /hello"
			require.Equal(t, "from the host\nchanged\n", once(t,
				sandbox.Config{Root: sandbox.Disk{Path: path, ReadOnly: true}}, change))
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, bytes.Equal(before, after), "a read-only disk was written")
			require.Equal(t, "from the host\nchanged\n", once(t, sandbox.Config{Image: path}, change))
			require.Equal(t, "changed\n", once(t, sandbox.Config{Image: path}, "cat /hello"))
		})
	}
	out, err = exec.Command("qemu-img", "check", qcow).CombinedOutput()
	require.NoError(t, err, "%s", out)

	// Two at once would destroy it.
	first := create(t, "first", sandbox.Config{Image: raw, Memory: 256})
	_, err = sandbox.Create(deadline(t), "second", sandbox.Config{Root: sandbox.Disk{Path: raw, ReadOnly: true}})
	require.ErrorContains(t, err, "another sandbox uses this disk image")
	require.NoError(t, first.Kill(deadline(t)))

	// A disk without a root is an error that says what it holds.
	require.NoError(t, os.WriteFile(work+"/xfs.raw", append([]byte("XFSB"), make([]byte, 1<<20)...), 0o644))
	_, err = sandbox.Create(deadline(t), "xfs", sandbox.Config{Image: work + "/xfs.raw"})
	require.ErrorContains(t, err, "xfs")
	require.ErrorContains(t, err, "ext4")
	list, err := sandbox.List(deadline(t))
	require.NoError(t, err)
	require.Len(t, list, 1)
}

// An image is persistent memory in the guest: mapped, not copied, and nothing
// that the guest does changes it. A small guest has a large image as a disk.
func TestRootIsPersistentMemory(t *testing.T) {
	needVM(t)
	out := once(t, sandbox.Config{}, `head -c 4096 /dev/pmem0 | sha256sum >/before
dd if=/dev/zero of=/dev/pmem0 bs=4096 count=1 conv=notrunc; sync; echo 3 >/proc/sys/vm/drop_caches
head -c 4096 /dev/pmem0 | sha256sum >/after
cmp /before /after && echo unchanged; ls /dev/pmem0`)
	require.Contains(t, out, "unchanged\n/dev/pmem0\n")
	dir := rootTree(t)
	big, err := os.Create(dir + "/big")
	require.NoError(t, err)
	defer big.Close()
	for block, off := bytes.Repeat([]byte("x"), 1<<20), int64(0); off < 1100<<20; off += int64(len(block)) {
		_, err := big.WriteAt(block, off)
		require.NoError(t, err)
	}
	out = once(t, sandbox.Config{Image: dir}, "[ -e /dev/vda ] && echo disk; [ -e /dev/pmem0 ] || echo no pmem; head -c 3 /big")
	require.Equal(t, "disk\nno pmem\nxxx", out)
}

// A full upper is an ordinary error in the guest, and no more than that.
func TestUpper(t *testing.T) {
	needVM(t)
	for name, cfg := range map[string]sandbox.Config{
		"smallest": {UpperSize: 32},
		"grown":    {UpperSize: 200},
		"tmpfs":    {UpperTmpfs: true, UpperSize: 40},
	} {
		t.Run(name, func(t *testing.T) {
			out := once(t, cfg, "dd if=/dev/zero of=/big bs=1M count=300 2>&1; rm /big; echo fine >/f; cat /f; df -m / | tail -n 1")
			require.Contains(t, out, "o space left on device")
			require.Contains(t, out, "\nfine\n")
		})
	}
	out := once(t, sandbox.Config{UpperSize: 8192}, "df -m / | tail -n 1")
	require.Regexp(t, `overlay\s+(79|80|81)\d\d\s`, out)
}

func TestPatches(t *testing.T) {
	needVM(t)
	src := t.TempDir()
	require.NoError(t, os.MkdirAll(src+"/tree/sub", 0o751))
	require.NoError(t, os.WriteFile(src+"/tree/sub/f", []byte("in a tree\n"), 0o640))
	require.NoError(t, os.Symlink("sub/f", src+"/tree/link"))
	big := bytes.Repeat([]byte("0123456789abcdef"), 200_000) // more than a message takes
	require.NoError(t, os.WriteFile(src+"/big", big, 0o600))
	cfg := sandbox.Config{
		Patches: []sandbox.Patch{
			{Kind: sandbox.PatchFile, Path: "/opt/app/conf", Content: "text\n", Mode: 0o640, UID: 1000, GID: 100},
			{Kind: sandbox.PatchAppend, Path: "/etc/passwd", Content: "new:x:5000:5000::/:/bin/sh\n"},
			{Kind: sandbox.PatchCopyFile, Path: "/opt/big", Source: src + "/big"},
			{Kind: sandbox.PatchCopyDir, Path: "/opt/tree", Source: src + "/tree"},
			{Kind: sandbox.PatchSymlink, Path: "/opt/link", Target: "app/conf"},
			{Kind: sandbox.PatchMkdir, Path: "/var/spool/x", Mode: fs.ModeSticky | 0o777},
			{Kind: sandbox.PatchRemove, Path: "/etc/shells"},
			{Kind: sandbox.PatchFile, Path: "/etc/os-release", Content: "ID=patched\n", Replace: true},
		},
		User: "new",
	}
	require.Equal(t, `640 1000:100
600 0:0 3200000
751 0:0
sub/f app/conf
1777
ID=patched
no shells
5000
`, once(t, cfg, `cd /opt
echo $(stat -c '%a %u:%g' app/conf)
stat -c '%a %u:%g %s' big
echo $(stat -c '%a %u:%g' tree)
echo $(readlink tree/link) $(readlink link)
stat -c %a /var/spool/x
cat /etc/os-release
[ -e /etc/shells ] || echo no shells
id -u`))

	for reason, p := range map[string]sandbox.Patch{
		"exists":         {Kind: sandbox.PatchFile, Path: "/etc/passwd", Content: "x"},
		"no such file":   {Kind: sandbox.PatchAppend, Path: "/etc/none", Content: "x"},
		"cross-device":   {Kind: sandbox.PatchFile, Path: "/proc/x", Content: "x"},
		"remove /dev":    {Kind: sandbox.PatchRemove, Path: "/dev"},
		"/opt/../../etc": {Kind: sandbox.PatchFile, Path: "/opt/../../etc/passwd", Content: "x"},
	} {
		_, err := sandbox.Create(deadline(t), "bad", sandbox.Config{Memory: 256, Patches: []sandbox.Patch{p}})
		require.ErrorContains(t, err, reason)
		_, err = sandbox.Get(deadline(t), "bad")
		require.ErrorIs(t, err, sandbox.ErrNotFound, "a sandbox whose patches failed leaves nothing")
	}
}

func TestConfig_RootSurvivesJSON(t *testing.T) {
	for _, root := range []sandbox.RootSource{
		nil, sandbox.OCI{Ref: "debian:12"}, sandbox.Dir{Path: "/srv"},
		sandbox.Disk{Path: "/d.qcow2", Format: "qcow2", FSType: "ext4", ReadOnly: true},
	} {
		data, err := json.Marshal(sandbox.Config{Root: root, CPUs: 2, RegistryAuth: &sandbox.RegistryAuth{Username: "u", Password: "secret"}})
		require.NoError(t, err)
		require.NotContains(t, string(data), "secret")
		var back sandbox.Config
		require.NoError(t, json.Unmarshal(data, &back))
		require.Equal(t, sandbox.Config{Root: root, CPUs: 2}, back)
	}
	var c sandbox.Config
	require.ErrorContains(t, json.Unmarshal([]byte(`{"root":{"floppy":{}}}`), &c), "floppy")
}
