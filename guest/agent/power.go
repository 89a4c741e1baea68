package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// exitPort is the exit device: a byte written there ends the machine with
// that code.
const exitPort = 0x500

// writeBack leaves the disks as an orderly shutdown should.
func writeBack(m *root, log *slog.Logger) {
	unix.Sync()
	if m == nil {
		return
	}
	if data, err := os.ReadFile("/proc/self/mounts"); err == nil {
		for _, target := range unmountOrder(string(data)) {
			if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
				log.Warn("unmount", "target", target, "err", err)
			}
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		log.Warn("remount read-only", "target", "/", "err", err)
	}
	if m.upper == nil {
		return
	}
	// The upper disk is mounted where the root has no path to; its open
	// directory is the way.
	upper := fmt.Sprintf("/proc/self/fd/%d", m.upper.Fd())
	if err := unix.Mount("", upper, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		log.Warn("remount read-only", "target", "upper", "err", err)
		_ = unix.Syncfs(int(m.upper.Fd()))
	}
}

// unmountOrder lists the mounts that hold something to write back, the last
// mounted first. The root and the kernel's own file systems stay.
func unmountOrder(mounts string) []string {
	var out []string
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 3 || f[1] == "/" {
			continue
		}
		switch f[2] {
		case "proc", "sysfs", "devtmpfs", "devpts", "tmpfs", "ramfs", "rootfs", "mqueue", "cgroup2", "cgroup",
			"bpf", "tracefs", "debugfs", "securityfs", "pstore", "nsfs", "binfmt_misc":
			continue
		}
		out = append(out, unescapeMount(f[1]))
	}
	slices.Reverse(out)
	return out
}

// unescapeMount undoes the octal escapes of /proc/mounts.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// powerOff ends the machine: by the exit device, else by a reset.
func powerOff(ports *os.File, code uint8) {
	if ports != nil {
		if _, err := ports.WriteAt([]byte{code}, exitPort); err == nil {
			time.Sleep(200 * time.Millisecond) // the machine ends here
		}
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	for {
		time.Sleep(time.Hour)
	}
}
