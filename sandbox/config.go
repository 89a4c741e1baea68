package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Config describes a sandbox. The zero value is a sandbox with one vCPU and
// 512 MiB that runs the embedded default image.
type Config struct {
	// CPUs is the number of virtual CPUs, 1 to 32. Default 1. It may exceed
	// the host's.
	CPUs int `json:"cpus"`
	// Memory is the guest's memory in MiB. Default 512; at least MinMemory and
	// at most what the host has.
	Memory int `json:"memory_mib"`

	// Image is reserved for OCI references, directories and disk images, which
	// this version does not read. It must be empty: the embedded default
	// image, a small userland with a shell.
	Image string `json:"image,omitempty"`
	// Kernel is the path of a kernel to boot instead of the bundled one:
	// vmlinux, bzImage or PVH. It needs what the bundled one has built in
	// (see the kernel's README).
	Kernel string `json:"kernel,omitempty"`

	// Env are variables ("K=V") for every command, under a command's own.
	Env []string `json:"env,omitempty"`
	// Workdir is the directory commands run in, absolute. Default "/".
	Workdir string `json:"workdir,omitempty"`
	// User runs the commands: name, uid, name:group or uid:gid, names being
	// the guest's. Default root.
	User string `json:"user,omitempty"`
	// Hostname is the guest's, at most 64 bytes. Default the sandbox's name,
	// shortened if need be.
	Hostname string `json:"hostname,omitempty"`
	// Shell is what Shell runs. Default /bin/sh.
	Shell string `json:"shell,omitempty"`

	// Ephemeral sandboxes leave no state behind: at their end the directory is
	// deleted.
	Ephemeral bool `json:"ephemeral,omitempty"`
	// LogLevel is of the monitor's own log. Default slog.LevelInfo.
	LogLevel slog.Level `json:"log_level,omitempty"`
}

// Limits of a Config.
const (
	DefaultCPUs   = 1
	DefaultMemory = 512 // MiB
	// MaxCPUs is what the bundled kernel is built for (CONFIG_NR_CPUS).
	MaxCPUs = 32
	// MinMemory, in MiB, is what the bundled kernel, its agent and one small
	// command need.
	MinMemory = 128
	// MaxNameLen is the length of the longest name, in bytes.
	MaxNameLen = 128
	// maxHostname is the kernel's (sethostname(2), HOST_NAME_MAX).
	maxHostname = 64
)

// clone is a copy that shares nothing with c.
func (c Config) clone() Config {
	c.Env = slices.Clone(c.Env)
	return c
}

// withDefaults returns a copy of c with its zero fields filled in, or a
// *ConfigError.
func (c Config) withDefaults(name string) (Config, error) {
	c = c.clone()
	if c.CPUs == 0 {
		c.CPUs = DefaultCPUs
	}
	if c.Memory == 0 {
		c.Memory = DefaultMemory
	}
	if c.Workdir == "" {
		c.Workdir = "/"
	}
	if c.Hostname == "" {
		c.Hostname = hostname(name)
	}
	if c.Shell == "" {
		c.Shell = "/bin/sh"
	}
	var bad ConfigError
	checkName(&bad, name)
	if c.CPUs < 1 || c.CPUs > MaxCPUs {
		bad.add("CPUs", "%d: want 1 to %d, which is what the kernel is built for", c.CPUs, MaxCPUs)
	}
	checkMemory(&bad, c.Memory)
	if c.Image != "" {
		bad.add("Image", "%q: images are not available in this version; leave it empty for the embedded default image", c.Image)
	}
	if c.Kernel != "" {
		c.Kernel = checkKernel(&bad, c.Kernel)
	}
	checkEnv(&bad, c.Env)
	if !strings.HasPrefix(c.Workdir, "/") || strings.ContainsRune(c.Workdir, 0) {
		bad.add("Workdir", "%q: want an absolute path", c.Workdir)
	}
	if !strings.HasPrefix(c.Shell, "/") || strings.ContainsRune(c.Shell, 0) {
		bad.add("Shell", "%q: want an absolute path", c.Shell)
	}
	if len(c.Hostname) > maxHostname || strings.ContainsFunc(c.Hostname, func(r rune) bool {
		return !strings.ContainsRune(nameChars, r)
	}) {
		bad.add("Hostname", "%q: want 1 to %d of A-Z a-z 0-9 . _ -", c.Hostname, maxHostname)
	}
	return c, bad.orNil()
}

const (
	alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	nameChars    = alphanumeric + "._-"
)

func checkName(bad *ConfigError, name string) {
	switch {
	case name == "":
		bad.add("name", "it is empty")
	case len(name) > MaxNameLen:
		bad.add("name", "%d bytes long: want at most %d", len(name), MaxNameLen)
	case !strings.ContainsRune(alphanumeric, rune(name[0])),
		strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(nameChars, r) }):
		bad.add("name", "%q: want a letter or digit, then any of A-Z a-z 0-9 . _ -", name)
	}
}

func checkMemory(bad *ConfigError, mib int) {
	if mib < MinMemory {
		bad.add("Memory", "%d MiB: the kernel needs at least %d to boot", mib, MinMemory)
		return
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		bad.add("Memory", "the host's memory is not known: %v", err)
		return
	}
	if host := info.Totalram * uint64(info.Unit) >> 20; uint64(mib) > host {
		bad.add("Memory", "%d MiB: this host has %d", mib, host)
	}
}

// checkKernel returns the kernel's absolute path.
func checkKernel(bad *ConfigError, path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		bad.add("Kernel", "%v", err)
		return path
	}
	switch info, err := os.Stat(abs); {
	case err != nil:
		bad.add("Kernel", "%v", err)
	case !info.Mode().IsRegular():
		bad.add("Kernel", "%s: not a regular file", abs)
	}
	return abs
}

func checkEnv(bad *ConfigError, env []string) {
	for _, kv := range env {
		if k, _, ok := strings.Cut(kv, "="); !ok || k == "" || strings.ContainsRune(kv, 0) {
			bad.add("Env", "%q: want NAME=VALUE", kv)
		}
	}
}

// hostname is a name as a hostname: one longer than the kernel takes is cut
// and told apart by 8 hexadecimal digits of its digest.
func hostname(name string) string {
	if len(name) <= maxHostname {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return fmt.Sprintf("%s-%s", name[:maxHostname-9], hex.EncodeToString(sum[:4]))
}
