package l1

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/rig/wire"
)

// What L1 asks of its kernel, beyond what runs any static program:
//
//	CONFIG_PVH, CONFIG_BLK_DEV_INITRD                  QEMU's -kernel and -initrd
//	CONFIG_SERIAL_8250_CONSOLE                         the panic that a person must see
//	CONFIG_VIRTIO_MMIO, _CMDLINE_DEVICES               QEMU's microvm
//	CONFIG_VIRTIO_CONSOLE                              the port
//	CONFIG_NET_9P_VIRTIO, CONFIG_9P_FS                 the host's root, shares
//	CONFIG_OVERLAY_FS, CONFIG_TMPFS, CONFIG_TMPFS_XATTR  writes that stay in L1
//	CONFIG_DEVTMPFS, CONFIG_UNIX98_PTYS, CONFIG_PROC_FS, CONFIG_SYSFS
//	CONFIG_CGROUPS, _MEMCG, _PIDS, _SCHED              a cgroup per command
//	CONFIG_KVM, CONFIG_KVM_AMD                         what it is all for
//	CONFIG_MULTIUSER, CONFIG_FUTEX, CONFIG_EPOLL, CONFIG_UNIX, CONFIG_INET (loopback)

const (
	lower = "/lower"
	rw    = "/rw"
	root  = "/newroot"
)

// A mountPoint is one mount(2) call.
type mountPoint struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
	optional               bool // the kernel may lack it
}

func (m mountPoint) mount() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil && !m.optional {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
	if err != nil && !m.optional {
		return fmt.Errorf("mount %s on %s (%s): %w", m.fstype, m.target, m.data, err)
	}
	return nil
}

func mountAll(points []mountPoint) error {
	for _, m := range points {
		if err := m.mount(); err != nil {
			return err
		}
	}
	return nil
}

const secure = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mountEarly mounts the kernel's own file systems on the initramfs, and has the
// first memory cgroup made while nothing else runs: the kernel then patches its
// allocator's code, and QEMU 7.2 may run a processor through code that another
// one is patching. (Measured: one panic in 30 boots when eight commands start at
// once, all of them in the allocator.)
func mountEarly() error {
	if err := mountAll([]mountPoint{
		{source: "proc", target: "/proc", fstype: "proc", flags: secure},
		{source: "sysfs", target: "/sys", fstype: "sysfs", flags: secure},
		{source: "dev", target: "/dev", fstype: "devtmpfs", flags: unix.MS_NOSUID, data: "mode=0755"},
		{source: "cgroup2", target: cgroupRoot, fstype: "cgroup2", flags: secure, optional: true},
	}); err != nil {
		return err
	}
	if err := delegateCgroups(); err != nil {
		return err
	}
	first := cgroupRoot + "/first"
	if err := os.Mkdir(first, 0o755); err != nil {
		return nil // a kernel without cgroups
	}
	return os.Remove(first)
}

// nineP returns the mount options. 512000 is the most that the virtio
// transport carries in one message (its 128 descriptors less the header).
func nineP(cache string) string {
	return "trans=virtio,version=9p2000.L,msize=512000,cache=" + cache
}

// mountRoot builds the overlay at root.
func mountRoot() error {
	if err := mountAll([]mountPoint{
		{source: "host", target: lower, fstype: "9p", flags: unix.MS_RDONLY, data: nineP("loose") + ",ro"},
		{source: "rw", target: rw, fstype: "tmpfs", data: "mode=0755,size=90%"},
	}); err != nil {
		return err
	}
	if err := errors.Join(os.Mkdir(rw+"/upper", 0o755), os.Mkdir(rw+"/work", 0o755)); err != nil {
		return err
	}
	return mountPoint{source: "overlay", target: root, fstype: "overlay",
		data: "lowerdir=" + lower + ",upperdir=" + rw + "/upper,workdir=" + rw + "/work,volatile"}.mount()
}

// enterRoot makes the overlay the root directory and completes it.
func enterRoot(h wire.Hello) error {
	for _, d := range []string{"/proc", "/sys", "/dev"} {
		if err := os.MkdirAll(root+d, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(d, root+d, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", d, err)
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := mountAll([]mountPoint{
		{source: "devpts", target: "/dev/pts", fstype: "devpts", flags: unix.MS_NOSUID | unix.MS_NOEXEC, data: "gid=5,mode=620,ptmxmode=666"},
		{source: "shm", target: "/dev/shm", fstype: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=1777"},
		{source: "mqueue", target: "/dev/mqueue", fstype: "mqueue", flags: secure, optional: true},
		{source: "run", target: "/run", fstype: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=0755"},
		{source: "debugfs", target: "/sys/kernel/debug", fstype: "debugfs", flags: secure, optional: true},
		{source: "tracefs", target: "/sys/kernel/tracing", fstype: "tracefs", flags: secure, optional: true},
	}); err != nil {
		return err
	}
	for _, s := range h.Shares {
		m := mountPoint{source: s.Tag, target: string(s.Path), fstype: "9p", data: nineP("mmap")}
		if err := m.mount(); err != nil {
			return err
		}
	}
	return errors.Join(devLinks(), unix.Sethostname([]byte(h.Hostname)), raiseLimits())
}

// devLinks makes the links that udev would make.
func devLinks() error {
	for name, to := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(to, filepath.Join("/dev", name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	// What udev's rules and a distribution's packages grant everyone.
	for _, node := range []string{"/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/vsock"} {
		_ = os.Chmod(node, 0o666)
	}
	return nil
}

// loopbackUp brings lo up; the kernel then gives it its addresses.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}

// raiseLimits gives commands what a distribution's service manager gives them.
func raiseLimits() error {
	lim := unix.Rlimit{Cur: 1024, Max: 1 << 20}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("file limit: %w", err)
	}
	return nil
}

const cgroupRoot = "/sys/fs/cgroup"

// delegateCgroups hands every controller down to the commands' cgroups.
func delegateCgroups() error {
	b, err := os.ReadFile(cgroupRoot + "/cgroup.controllers")
	if err != nil {
		return nil // a kernel without cgroups: commands share the root
	}
	names := strings.Fields(string(b))
	if len(names) == 0 || os.WriteFile(cgroupRoot+"/cgroup.subtree_control", []byte("+"+strings.Join(names, " +")), 0) == nil {
		return nil
	}
	for _, c := range names { // one that refuses spoils the others
		_ = os.WriteFile(cgroupRoot+"/cgroup.subtree_control", []byte("+"+c), 0)
	}
	return nil
}
