package main

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/erofs/go-erofs"

	"github.com/sandpit-vm/sandpit/guest/userland"
)

// buildTime is the time of everything in the image: any fixed value serves.
var buildTime = time.Unix(1767225600, 0) // 2026-01-01 00:00:00 UTC

// node is an entry of the tree: a directory, a file (data) or a symbolic link.
type node struct {
	path     string
	mode     fs.FileMode
	uid, gid int
	data     string
	link     string
}

// tree lists the image's contents, parents first. /bin and /sbin are links
// into /usr, as distributions have them today.
func tree(binary []byte) []node {
	dir := func(p string, mode fs.FileMode) node { return node{path: p, mode: fs.ModeDir | mode} }
	file := func(p, data string) node { return node{path: p, mode: 0o644, data: data} }
	link := func(p, to string) node { return node{path: p, mode: fs.ModeSymlink | 0o777, link: to} }

	list := []node{
		dir("/", 0o755),
		dir("/dev", 0o755), dir("/proc", 0o755), dir("/sys", 0o755), dir("/run", 0o755),
		dir("/mnt", 0o755), dir("/media", 0o755), dir("/opt", 0o755), dir("/srv", 0o755),
		dir("/tmp", 0o777|fs.ModeSticky),
		dir("/root", 0o700),
		dir("/home", 0o755),
		{path: "/home/user", mode: fs.ModeDir | 0o755, uid: 1000, gid: 1000},
		dir("/var", 0o755), dir("/var/cache", 0o755), dir("/var/lib", 0o755), dir("/var/log", 0o755),
		dir("/var/tmp", 0o777|fs.ModeSticky), link("/var/run", "../run"),
		dir("/usr", 0o755), dir("/usr/bin", 0o755), dir("/usr/sbin", 0o755), dir("/usr/lib", 0o755),
		dir("/usr/share", 0o755), dir("/usr/local", 0o755), dir("/usr/local/bin", 0o755), dir("/usr/local/sbin", 0o755),
		link("/bin", "usr/bin"), link("/sbin", "usr/sbin"), link("/lib", "usr/lib"),
		dir("/etc", 0o755), dir("/etc/ssl", 0o755), dir("/etc/ssl/certs", 0o755), dir("/etc/profile.d", 0o755),
		file("/etc/passwd", passwd), file("/etc/group", group), file("/etc/hosts", hosts),
		file("/etc/profile", profile), file("/etc/shells", "/bin/sh\n"),
		file("/etc/nsswitch.conf", nsswitch), file("/etc/os-release", osRelease),
		link("/etc/mtab", "../proc/self/mounts"),
		{path: "/usr/bin/userland", mode: 0o755, data: string(binary)},
	}
	for _, c := range userland.Links() {
		list = append(list, link(c.Path, c.Target))
	}
	return list
}

const passwd = `root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
user:x:1000:1000:user:/home/user:/bin/sh
`

const group = `root:x:0:
tty:x:5:
disk:x:6:
kvm:x:36:
users:x:100:user
user:x:1000:
nogroup:x:65534:
`

const hosts = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
`

const profile = `# Read by login shells.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
PS1='\w \$ '
for script in /etc/profile.d/*.sh; do
	if [ -r "$script" ]; then . "$script"; fi
done
unset script
`

const nsswitch = `passwd: files
group: files
hosts: files dns
`

const osRelease = `NAME="Sandpit"
ID=sandpit
PRETTY_NAME="Sandpit default image"
HOME_URL="https://github.com/sandpit-vm/sandpit"
`

// buildImage writes the tree as an EROFS file system.
func buildImage(binary []byte) ([]byte, error) {
	f, err := os.CreateTemp("", "mkroot-*.erofs")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()

	w := erofs.Create(f, erofs.WithBlockSize(4096), erofs.WithBuildTime(uint64(buildTime.Unix()), 0))
	for _, n := range tree(binary) {
		if err := add(w, n); err != nil {
			return nil, fmt.Errorf("%s: %w", n.path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("erofs: %w", err)
	}
	return os.ReadFile(f.Name())
}

func add(w *erofs.Writer, n node) error {
	name := path.Clean(n.path)
	switch {
	case n.mode.IsDir():
		if err := w.Mkdir(name, n.mode.Perm()); err != nil {
			return err
		}
		if err := w.Chmod(name, n.mode&(fs.ModePerm|fs.ModeSticky)); err != nil {
			return err
		}
	case n.mode&fs.ModeSymlink != 0:
		if err := w.Symlink(n.link, name); err != nil {
			return err
		}
	default:
		f, err := w.Create(name)
		if err != nil {
			return err
		}
		if _, err := f.Write([]byte(n.data)); err != nil {
			return err
		}
		if err := f.Chmod(n.mode.Perm()); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	if err := w.Chown(name, n.uid, n.gid); err != nil {
		return err
	}
	return w.Chtimes(name, buildTime, buildTime)
}
