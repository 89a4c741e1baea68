package sandbox

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// inherit fills in what the configuration leaves to the image. What the image
// says is checked like what a caller says: it comes from a stranger.
func (c *Config) inherit(image ImageConfig) error {
	var bad ConfigError
	c.Env = mergeEnv(image.Env, c.Env)
	checkEnv(&bad, c.Env)
	if c.Workdir == "" {
		c.Workdir = image.WorkingDir
		if c.Workdir != "" && !strings.HasPrefix(c.Workdir, "/") {
			c.Workdir = "/" + c.Workdir // as other runtimes take it
		}
		checkWorkdir(&bad, c.Workdir)
	}
	if c.Workdir == "" {
		c.Workdir = "/"
	}
	if c.User == "" {
		c.User = image.User
	}
	if c.Cmd == nil && c.Entrypoint == nil {
		c.Cmd = image.Cmd
	}
	if c.Entrypoint == nil {
		c.Entrypoint = image.Entrypoint
	}
	if c.StopSignal == "" {
		c.StopSignal = image.StopSignal
		if _, err := stopSignal(c.StopSignal); err != nil {
			bad.add("StopSignal", "%v", err)
		}
	}
	if len(image.Labels) > 0 {
		labels := maps.Clone(image.Labels)
		maps.Copy(labels, c.Labels)
		c.Labels = labels
	}
	checkRecord(&bad, c)
	if len(bad.Problems) > 0 {
		return fmt.Errorf("%w: the image's configuration: %w", ErrImageContent, &bad)
	}
	return nil
}

// mergeEnv puts variables over others; the order of first mention stays.
func mergeEnv(under, over []string) []string {
	at := make(map[string]int, len(under)+len(over))
	var out []string
	for _, list := range [][]string{under, over} {
		for _, kv := range list {
			name, _, _ := strings.Cut(kv, "=")
			if i, ok := at[name]; ok {
				out[i] = kv
				continue
			}
			at[name] = len(out)
			out = append(out, kv)
		}
	}
	return out
}

// stopSignal reads a signal's name or number; 0 is none.
func stopSignal(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return 0, fmt.Errorf("signal %d: want 1 to 64", n)
		}
		return n, nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	// SIGRTMIN and SIGRTMAX with an offset, as some images have them.
	for base, n := range map[string]int{"SIGRTMIN": 34, "SIGRTMAX": 64} {
		if rest, ok := strings.CutPrefix(name, base); ok {
			off, err := strconv.Atoi("0" + strings.TrimLeft(rest, "+-"))
			if err == nil && strings.HasPrefix(rest, "-") {
				off = -off
			}
			if err == nil && n+off >= 34 && n+off <= 64 {
				return n + off, nil
			}
		}
	}
	if n := unix.SignalNum(name); n != 0 {
		return int(n), nil
	}
	return 0, fmt.Errorf("signal %q: there is none of that name", s)
}

// MainCommand prepares the sandbox's own command: its Entrypoint with args or,
// without args, with its Cmd. Without any of them it is the sandbox's Shell.
func (s *Sandbox) MainCommand(ctx context.Context, args ...string) *Cmd {
	if len(args) == 0 {
		args = s.cfg.Cmd
	}
	line := append(append([]string{}, s.cfg.Entrypoint...), args...)
	if len(line) == 0 {
		line = []string{s.cfg.Shell}
	}
	return s.Command(ctx, line[0], line[1:]...)
}
