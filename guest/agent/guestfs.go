package agent

import (
	"fmt"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// cgroupMount is where the guest's programs look for cgroup v2.
const cgroupMount = "/sys/fs/cgroup"

// mountPoint is one of the file systems that a Linux program expects.
type mountPoint struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
	optional               bool // the kernel may lack it
}

// apiMounts are mounted inside the root, so no symbolic link of the image
// leads out of it. /run and /tmp stay the image's own: images put things there
// that their programs need.
func apiMounts() []mountPoint {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return []mountPoint{
		{"proc", "/proc", "proc", safe, "", false},
		{"sysfs", "/sys", "sysfs", safe, "", false},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755", false},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666", false},
		{"shm", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", false},
		{"mqueue", "/dev/mqueue", "mqueue", safe, "", true},
		{"cgroup2", cgroupMount, "cgroup2", safe, "nsdelegate", true},
	}
}

// furnish mounts what programs expect in the root that has been entered, and
// fills in what the image lacks. It returns the cgroup v2 mount, if any. What
// a program can do without is only logged.
func furnish(r *proto.SetupRequest, log *slog.Logger) (string, error) {
	cgroup := cgroupMount
	for _, m := range apiMounts() {
		if err := os.MkdirAll(m.target, 0o755); err != nil && !os.IsExist(err) {
			return "", err
		}
		err := mount(m.source, m.target, m.fstype, m.flags, m.data)
		if err != nil && m.fstype == "cgroup2" {
			cgroup = ""
		}
		if err != nil && !m.optional {
			return "", err
		}
		if err != nil {
			log.Warn("mount", "err", err)
		}
	}
	// Commands are going to be called that may be scripts.
	if err := writeScripts(r); err != nil {
		return "", err
	}
	for _, step := range []func(*proto.SetupRequest) error{
		linkDevices, makeTmp, setHostname, writeHosts, writeResolvConf, setSysctls,
	} {
		if err := step(r); err != nil {
			log.Warn("setup", "err", err)
		}
	}
	return cgroup, nil
}

func linkDevices(*proto.SetupRequest) error {
	for _, l := range [][2]string{
		{"/proc/self/fd", "/dev/fd"},
		{"/proc/self/fd/0", "/dev/stdin"},
		{"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"},
	} {
		if err := os.Symlink(l[0], l[1]); err != nil && !os.IsExist(err) {
			return err
		}
	}
	// As udev would: every user of the guest may have these.
	for _, dev := range []string{"/dev/fuse", "/dev/net/tun", "/dev/kvm"} {
		if err := os.Chmod(dev, 0o666); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

func makeTmp(*proto.SetupRequest) error {
	if _, err := os.Stat("/tmp"); err == nil {
		return nil // the image's own mode
	}
	if err := os.Mkdir("/tmp", 0o777); err != nil {
		return err
	}
	return os.Chmod("/tmp", 0o777|os.ModeSticky)
}

func setHostname(r *proto.SetupRequest) error {
	if r.GetHostname() == "" {
		return nil
	}
	if err := unix.Sethostname([]byte(r.GetHostname())); err != nil {
		return &Error{Op: "set hostname", Err: err}
	}
	return fillIn("/etc/hostname", r.GetHostname()+"\n")
}

func writeHosts(r *proto.SetupRequest) error {
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	if r.GetHostname() != "" {
		hosts += "127.0.1.1\t" + r.GetHostname() + "\n"
	}
	return fillIn("/etc/hosts", hosts)
}

func writeResolvConf(r *proto.SetupRequest) error {
	if len(r.GetNameservers()) == 0 {
		return nil
	}
	var b strings.Builder
	for _, ns := range r.GetNameservers() {
		fmt.Fprintf(&b, "nameserver %s\n", ns)
	}
	return fillIn("/etc/resolv.conf", b.String())
}

// fillIn writes a file that is missing or empty. A link that leads nowhere is
// replaced; one that leads somewhere is the image's business.
func fillIn(file, content string) error {
	info, err := os.Stat(file)
	if err == nil && (info.Size() > 0 || !info.Mode().IsRegular()) {
		return nil
	}
	if os.IsNotExist(err) {
		_ = os.Remove(file)
		if err := os.MkdirAll("/etc", 0o755); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(content)
	return err
}

// setSysctls sets what programs in containers are used to.
func setSysctls(*proto.SetupRequest) error {
	var first error
	for _, s := range [][2]string{
		{"net/ipv4/ip_unprivileged_port_start", "0"},
		{"net/ipv4/ping_group_range", "0 2147483647"},
		{"vm/max_map_count", "262144"},
		{"fs/inotify/max_user_instances", "8192"},
		{"fs/inotify/max_user_watches", "524288"},
	} {
		err := os.WriteFile("/proc/sys/"+s[0], []byte(s[1]), 0)
		if err != nil && !os.IsNotExist(err) && first == nil {
			first = &Error{Op: "sysctl", Path: s[0], Err: err}
		}
	}
	return first
}

// raiseLoopback brings up lo; the kernel gives it its addresses. It waits for
// the kernel now and then, so it is done beside other things.
func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return &Error{Op: "raise lo", Err: err}
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return &Error{Op: "raise lo", Err: err}
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return &Error{Op: "raise lo", Err: err}
	}
	return nil
}
