package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/guest/proto"
	"github.com/sandpit-vm/sandpit/guest/upper"
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

	// Image is the root file system: an OCI reference; or, beginning with "/",
	// "./" or "../", a directory or a disk image (.raw, .img, .qcow2) of the
	// host. Empty: the embedded default image, a small userland with a shell.
	Image string `json:"image,omitempty"`
	// Root is the same with options; at most one of the two is given.
	Root RootSource `json:"-"`
	// UpperSize, in MiB, is the size of the disk that takes the writes, 32 MiB to
	// 2 TiB; the host's disk is used as the guest writes. A full one is ENOSPC
	// in the guest. Default 4096.
	UpperSize int `json:"upper_size_mib,omitempty"`
	// UpperTmpfs keeps the writes in the guest's memory instead: at most half of
	// it, or UpperSize, and only as long as the sandbox runs.
	UpperTmpfs bool `json:"upper_tmpfs,omitempty"`
	// Patches change the root file system before the first command runs.
	Patches []Patch `json:"-"`

	// PullPolicy says when the registry is asked for the image.
	PullPolicy PullPolicy `json:"pull_policy,omitempty"`
	// RegistryAuth are the registry's credentials. Default those of Docker's
	// configuration and its helpers, or none. They are never stored.
	RegistryAuth *RegistryAuth `json:"-"`
	// RegistryInsecure allows plain HTTP, RegistryCAFile (PEM) adds a
	// certification authority.
	RegistryInsecure bool   `json:"registry_insecure,omitempty"`
	RegistryCAFile   string `json:"registry_ca_file,omitempty"`
	// ImageLimits bound what an image, or a Dir, may hold. Default 64 GiB in
	// 1,000,000 files.
	ImageLimits ImageLimits `json:"image_limits,omitzero"`
	// PullProgress is called as a pull goes on, one call at a time.
	PullProgress func(PullEvent) `json:"-"`

	// Kernel is the path of a kernel to boot instead of the bundled one:
	// vmlinux, bzImage or PVH. It needs what the bundled one has built in
	// (see the kernel's README).
	Kernel string `json:"kernel,omitempty"`

	// Env are variables ("K=V") for every command, over the image's and under a
	// command's own.
	Env []string `json:"env,omitempty"`
	// Workdir is the directory commands run in, absolute. Default the image's,
	// or "/".
	Workdir string `json:"workdir,omitempty"`
	// User runs the commands: name, uid, name:group or uid:gid, names being
	// the guest's. Default the image's, or root.
	User string `json:"user,omitempty"`
	// Entrypoint and Cmd make up the sandbox's own command, see
	// [Sandbox.MainCommand]. Default the image's; an Entrypoint that is not nil
	// leaves out the image's Cmd.
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
	// StopSignal asks the guest's processes to end when the sandbox stops:
	// "SIGTERM", "TERM" or "15". Default the image's, or SIGTERM.
	StopSignal string `json:"stop_signal,omitempty"`
	// Scripts are files that commands can be called by: name and content. They
	// are in /.msb/scripts, executable and read only, which comes first in every
	// command's PATH. One that begins with neither "#!" nor an ELF header is for
	// Shell. At most 1 MiB, each counted as 4 KiB at least.
	Scripts map[string]string `json:"scripts,omitempty"`
	// Rlimits are resource limits (setrlimit(2)) of every command, under its own.
	Rlimits []Rlimit `json:"rlimits,omitempty"`

	// IdleTimeout stops the sandbox, gracefully, when nothing has run in it and
	// nobody has wanted anything of it for so long: commands, terminals, file
	// operations and Touch count. A command that runs is never idle. Zero: never.
	IdleTimeout time.Duration `json:"idle_timeout_ns,omitempty"`
	// MaxDuration stops the sandbox, gracefully, when it has run for so long
	// since it was created, or started. Zero: never.
	MaxDuration time.Duration `json:"max_duration_ns,omitempty"`

	// Mounts, Ports, Network and Secrets are checked and not yet available:
	// what is more than nothing is refused.
	Mounts  []Mount       `json:"mounts,omitempty"`
	Ports   []PortMapping `json:"ports,omitempty"`
	Network NetworkConfig `json:"network,omitzero"`
	Secrets []Secret      `json:"secrets,omitempty"`

	// Labels are for the caller. They are put over the image's.
	Labels map[string]string `json:"labels,omitempty"`
	// Hostname is the guest's, at most 64 bytes. Default the sandbox's name,
	// shortened if need be.
	Hostname string `json:"hostname,omitempty"`
	// Shell is what Shell runs. Default /bin/sh.
	Shell string `json:"shell,omitempty"`

	// Trace, a file or the writing end of a pipe, gets a TraceEvent a line, as
	// JSON, for what happens in the machine from its construction to its end:
	// VM exits with registers decoded, queues, phases. The monitor writes it,
	// at most 32 MiB; the caller's descriptor stays the caller's to close. A
	// reader that is slow slows the guest, and after five seconds loses the rest.
	// It is not stored: a sandbox that is started again is not traced.
	Trace *os.File `json:"-"`

	// Replace stops and removes the sandbox that has the name, if there is one,
	// once everything for the new one is at hand.
	Replace bool `json:"-"`
	// Ephemeral sandboxes leave no state behind: at their end the directory is
	// deleted.
	Ephemeral bool `json:"ephemeral,omitempty"`
	// CaptureOutput keeps what commands write to stdout and stderr, whoever else
	// reads it, in the sandbox's log ([Sandbox.Logs]). Terminals are never
	// recorded.
	CaptureOutput bool `json:"capture_output,omitempty"`
	// LogLevel is of the monitor's own log. Default LogInfo.
	LogLevel LogLevel `json:"log_level,omitempty"`
}

// LogLevel is how much the monitor logs: a level, and all that is graver.
type LogLevel = slog.Level

// Log levels.
const (
	LogError = slog.LevelError
	LogWarn  = slog.LevelWarn
	LogInfo  = slog.LevelInfo
	LogDebug = slog.LevelDebug
	LogTrace = slog.LevelDebug - 4 // all there is
)

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
	// DefaultUpperSize, in MiB.
	DefaultUpperSize = upper.DefaultSize >> 20
	// maxHostname is the kernel's (sethostname(2), HOST_NAME_MAX).
	maxHostname = 64
)

// clone is a copy that shares nothing with c.
func (c Config) clone() Config {
	c.Env = slices.Clone(c.Env)
	c.Entrypoint, c.Cmd = slices.Clone(c.Entrypoint), slices.Clone(c.Cmd)
	c.Labels = maps.Clone(c.Labels)
	c.Scripts = maps.Clone(c.Scripts)
	c.Rlimits = slices.Clone(c.Rlimits)
	c.Mounts, c.Ports, c.Secrets = slices.Clone(c.Mounts), slices.Clone(c.Ports), slices.Clone(c.Secrets)
	c.Network.Nameservers = slices.Clone(c.Network.Nameservers)
	c.Patches = slices.Clone(c.Patches)
	if c.RegistryAuth != nil {
		auth := *c.RegistryAuth
		c.RegistryAuth = &auth
	}
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
	if c.UpperSize == 0 && !c.UpperTmpfs {
		c.UpperSize = DefaultUpperSize
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
	checkImage(&bad, &c)
	if c.Kernel != "" {
		c.Kernel = checkKernel(&bad, c.Kernel)
	}
	checkEnv(&bad, c.Env)
	checkWorkdir(&bad, c.Workdir)
	if _, err := stopSignal(c.StopSignal); err != nil {
		bad.add("StopSignal", "%v", err)
	}
	checkPatches(&bad, c.Patches)
	checkGuest(&bad, &c)
	checkLater(&bad, &c)
	if !strings.HasPrefix(c.Shell, "/") || strings.ContainsRune(c.Shell, 0) {
		bad.add("Shell", "%q: want an absolute path", c.Shell)
	}
	if len(c.Hostname) > maxHostname || strings.ContainsFunc(c.Hostname, func(r rune) bool {
		return !strings.ContainsRune(nameChars, r)
	}) {
		bad.add("Hostname", "%q: want 1 to %d of A-Z a-z 0-9 . _ -", c.Hostname, maxHostname)
	}
	if len(bad.Problems) == 0 {
		checkRecord(&bad, &c)
	}
	return c, bad.orNil()
}

// checkImage completes Root and checks all that belongs to it.
func checkImage(bad *ConfigError, c *Config) {
	if c.Image != "" && c.Root != nil {
		bad.add("Root", "Image is given too: want one of the two")
		return
	}
	if c.Image != "" {
		c.Root = parseImage(bad, c.Image)
	}
	c.Root = checkRoot(bad, c.Root)
	if disk, ok := c.Root.(Disk); ok && !disk.ReadOnly && len(c.Patches) > 0 {
		bad.add("Patches", "the disk image itself would be changed; set ReadOnly for an upper that takes the changes")
	}
	switch c.PullPolicy {
	case "", PullIfMissing, PullAlways, PullNever:
	default:
		bad.add("PullPolicy", "%q: want %s, %s or %s", c.PullPolicy, PullIfMissing, PullAlways, PullNever)
	}
	const minUpper, maxUpper = upper.MinSize >> 20, upper.MaxSize >> 20
	if c.UpperSize != 0 && (c.UpperSize < minUpper || c.UpperSize > maxUpper) {
		bad.add("UpperSize", "%d MiB: want %d to %d", c.UpperSize, minUpper, maxUpper)
	}
}

// checkWorkdir accepts "", which is to be filled in.
func checkWorkdir(bad *ConfigError, dir string) {
	if dir != "" && !strings.HasPrefix(dir, "/") || strings.ContainsRune(dir, 0) {
		bad.add("Workdir", "%q: want an absolute path", dir)
	}
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

// maxEnv and maxEnvBytes are what the guest's agent takes for its default
// environment.
const (
	maxEnv      = proto.MaxArgs
	maxEnvBytes = proto.MaxArgBytes / 2
)

func checkEnv(bad *ConfigError, env []string) {
	size := 0
	for _, kv := range env {
		size += len(kv) + 1
	}
	if len(env) > maxEnv || size > maxEnvBytes {
		bad.add("Env", "%d variables of %d bytes: want at most %d of %d", len(env), size, maxEnv, maxEnvBytes)
	}
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
