package rig

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Error is an error of this package: what was being done, and why it failed.
type Error struct {
	Op  string
	Err error
}

func (e *Error) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// What can be wrong with the host or with L1; test with errors.Is.
var (
	ErrNoQEMU      = errors.New("QEMU is missing")
	ErrNoKernel    = errors.New("no kernel for L1")
	ErrNoMemory    = errors.New("not enough memory for L1")
	ErrPanic       = errors.New("L1's kernel panicked")
	ErrBootTimeout = errors.New("L1 did not come up")
	ErrDied        = errors.New("L1 ended unexpectedly")
	ErrNotWarm     = errors.New("no warm rig is running")
)

// Mode says where a command runs.
type Mode int

// The modes.
const (
	Auto    Mode = iota // measure, then decide
	Direct              // on the host, whatever its KVM is
	Emulate             // in L1, whatever the host's KVM is
)

// The values of EnvVar, which a command finds in its environment.
const (
	EnvVar      = "KVMRIG"
	EnvDirect   = "direct"
	EnvEmulated = "emulated"
)

// Config describes a run. The zero value of each field is its default.
type Config struct {
	Args    []string      // the command; required
	Mode    Mode          //
	Timeout time.Duration // of the command, from its start; 0: none
	TTY     bool          // give the command a terminal
	Fresh   bool          // never use a warm rig
	Time    bool          // print the phases on standard error

	CPUs    int      // of L1; 0: defaultCPUs
	Memory  int      // of L1 in MiB; 0: 8192, or 80 % of the host's if less
	Shares  []string // directories that L1 may write
	Kernel  string   // an ELF file; "": the bundled kernel
	QEMU    string   // its executable; "": qemu-system-x86_64 in PATH
	Verbose bool     // L1's console on standard error
	Append  string   // more for L1's kernel command line

	Idle time.Duration // of a warm rig: how long it stays up unused; 0: 10 minutes

	// asked is what the caller set, before defaults: a warm rig must have
	// it, where any will do for the rest.
	asked struct {
		CPUs, Memory   int
		Kernel, Append string
	}
}

const (
	defaultMemory = 8192
	minMemory     = 256
	maxCPUs       = 32 // CONFIG_NR_CPUS of the bundled kernel
	// With several processors QEMU's emulation of nested guests was seen to
	// fail now and then, in several ways (7.2 and 10.0): L1's kernel runs on
	// with a nested guest's GS base, or a nested guest ends in a triple fault.
	defaultCPUs = 1
	maxShares   = 6 // QEMU's microvm has eight virtio-mmio slots
)

// validate returns c with its defaults, or all that is wrong with it.
func (c Config) validate() (Config, error) {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	c.asked.CPUs, c.asked.Memory, c.asked.Kernel, c.asked.Append = c.CPUs, c.Memory, c.Kernel, c.Append
	total := hostMemory()
	switch {
	case c.CPUs == 0:
		c.CPUs = defaultCPUs
	case c.CPUs < 1 || c.CPUs > maxCPUs:
		bad("--cpus %d: from 1 to %d", c.CPUs, maxCPUs)
	}
	switch {
	case c.Memory == 0:
		c.Memory = defaultMemory
		if total > 0 {
			c.Memory = min(c.Memory, total*8/10)
		}
	case c.Memory < minMemory:
		bad("--memory %d: at least %d MiB", c.Memory, minMemory)
	case total > 0 && c.Memory > total:
		bad("--memory %d: %w: the host has %d MiB", c.Memory, ErrNoMemory, total)
	}
	if c.Timeout < 0 {
		bad("--timeout %v: negative", c.Timeout)
	}
	if c.Idle == 0 {
		c.Idle = 10 * time.Minute
	}
	shares := make([]string, 0, len(c.Shares))
	for _, s := range c.Shares {
		// The real path: below a symbolic link L1 would mount elsewhere.
		p, err := filepath.Abs(s)
		if err == nil {
			p, err = filepath.EvalSymlinks(p)
		}
		if err != nil {
			bad("--share %s: %w", s, err)
			continue
		}
		if fi, err := os.Stat(p); err != nil {
			bad("--share %s: %w", s, err)
		} else if !fi.IsDir() {
			bad("--share %s: not a directory", s)
		} else if p == "/" {
			bad("--share /: L1 gets the whole root read-only; share directories below it")
		}
		shares = append(shares, p)
	}
	shares = outermost(shares)
	if len(shares) > maxShares {
		bad("%d shares: at most %d", len(shares), maxShares)
	}
	c.Shares = shares
	return c, errors.Join(errs...)
}

// outermost drops directories that are others or lie below others.
func outermost(dirs []string) []string {
	slices.Sort(dirs)
	var kept []string
	for _, d := range dirs {
		if !slices.ContainsFunc(kept, func(k string) bool { return d == k || strings.HasPrefix(d, k+"/") }) {
			kept = append(kept, d)
		}
	}
	return kept
}

// hostMemory returns the host's memory and swap in MiB, or 0.
func hostMemory() int {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	kib := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) > 1 && (fields[0] == "MemTotal:" || fields[0] == "SwapTotal:") {
			n, _ := strconv.Atoi(fields[1])
			kib += n
		}
	}
	return kib >> 10
}
