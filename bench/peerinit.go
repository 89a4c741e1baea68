package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// peerInitName is this program as the init of a peer's guest: it puts the root
// together as the agent of a sandbox does, without being one, and runs a script
// with the image's shell, over a port of the virtio console.
const peerInitName = "peerinit"

// peerPort is the port's name.
const peerPort = "bench"

// readAheadKB is what the agent sets, so that the guests differ in nothing but
// their disks.
const readAheadKB = "1024"

// peerInit does not return.
func peerInit() {
	port, err := openPort()
	if err == nil {
		if err = peerMain(port); err != nil {
			fmt.Fprintf(port, "%s: %v\n", peerInitName, err)
			time.Sleep(100 * time.Millisecond)
		}
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	os.Exit(1) // a panic, which resets too
}

func peerMain(port *os.File) error {
	const lower, upper, root = "/lower", "/upper", "/root"
	for _, m := range []struct{ source, target, fstype, options string }{
		{"/dev/vda", lower, "erofs", ""},
		{"upper", upper, "tmpfs", "mode=0755"},
		{"overlay", root, "overlay", "lowerdir=" + lower + ",upperdir=" + upper + "/upper,workdir=" + upper + "/work"},
		{"dev", root + "/dev", "devtmpfs", ""},
		{"proc", root + "/proc", "proc", ""},
	} {
		var flags uintptr
		switch m.fstype {
		case "erofs":
			flags = unix.MS_RDONLY
			if err := os.WriteFile("/sys/block/vda/queue/read_ahead_kb", []byte(readAheadKB), 0); err != nil {
				return err
			}
		case "overlay":
			if err := os.Mkdir(upper+"/upper", 0o755); err != nil {
				return err
			}
			if err := os.Mkdir(upper+"/work", 0o755); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.fstype, flags, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := unix.Chroot(root); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	cmd := exec.Command("/bin/bash", "-c", guestScript)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = port, port, port
	return cmd.Run()
}

// openPort opens the console's port of our name, once the host has told the
// driver of it, which may be after init has begun.
func openPort() (*os.File, error) {
	for _, m := range []struct{ target, fstype string }{{"/dev", "devtmpfs"}, {"/sys", "sysfs"}} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return nil, err
		}
		if err := unix.Mount(m.fstype, m.target, m.fstype, 0, ""); err != nil {
			return nil, err
		}
	}
	for range 3000 {
		ports, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, p := range ports {
			name, err := os.ReadFile(p)
			if err != nil || string(name) != peerPort+"\n" {
				continue
			}
			fd, err := unix.Open("/dev/"+filepath.Base(filepath.Dir(p)), unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			return os.NewFile(uintptr(fd), "port"), nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("no port %q", peerPort)
}
