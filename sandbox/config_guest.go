package sandbox

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// checkGuest checks what concerns the guest's commands and the sandbox's life.
func checkGuest(bad *ConfigError, c *Config) {
	for _, t := range []struct {
		field string
		d     time.Duration
	}{{"IdleTimeout", c.IdleTimeout}, {"MaxDuration", c.MaxDuration}} {
		if t.d < 0 {
			bad.add(t.field, "%v: want a positive time, or none", t.d)
		}
	}
	checkScripts(bad, c)
	for _, r := range c.Rlimits {
		if !slices.Contains(rlimitNames, r.Name) {
			bad.add("Rlimits", "%q: want one of %s", r.Name, strings.Join(rlimitNames, ", "))
		}
		if r.Soft > r.Hard {
			bad.add("Rlimits", "%s: the soft limit %d is above the hard limit %d", r.Name, r.Soft, r.Hard)
		}
	}
}

// rlimitNames are what the guest's agent knows, see Rlimit.
var rlimitNames = []string{"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"}

func checkScripts(bad *ConfigError, c *Config) {
	size := 0
	for _, name := range slices.Sorted(maps.Keys(c.Scripts)) {
		if name == "" || len(name) > 255 || name[0] == '.' || strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(nameChars, r) }) {
			bad.add("Scripts", "%q: want a file name of A-Z a-z 0-9 . _ - that does not begin with a dot", name)
		}
		size += max(len(script(c.Shell, c.Scripts[name])), 4096)
	}
	if size > proto.MaxScripts {
		bad.add("Scripts", "%d bytes, each script counted as 4096 at least: want at most %d; larger files are for Patches", size, proto.MaxScripts)
	}
}

// scripts are the Scripts as the guest gets them.
func (c *Config) scripts() map[string]string {
	out := make(map[string]string, len(c.Scripts))
	for name, content := range c.Scripts {
		out[name] = script(c.Shell, content)
	}
	return out
}

// script is a file that the kernel can execute: one that does not say what
// interprets it is for the shell.
func script(shell, content string) string {
	if strings.HasPrefix(content, "#!") || strings.HasPrefix(content, "\x7fELF") {
		return content
	}
	return "#!" + shell + "\n" + content
}

// checkLater checks the fields whose time has not come, and refuses them.
func checkLater(bad *ConfigError, c *Config) {
	const later = "not yet available in this version"
	for _, field := range []struct {
		name   string
		n      int
		check  func(i int) error
		remedy string
	}{
		{"Mounts", len(c.Mounts), func(i int) error { return c.Mounts[i].check() }, "; Patches and FS copy files into the sandbox"},
		{"Ports", len(c.Ports), func(i int) error { return c.Ports[i].check() }, ": the guest has no network but its loopback"},
		{"Secrets", len(c.Secrets), func(i int) error { return c.Secrets[i].check() }, ": the guest has no network but its loopback"},
	} {
		problem := false
		for i := range field.n {
			if err := field.check(i); err != nil {
				problem = true
				bad.add(field.name, "%v", err)
			}
		}
		if field.n > 0 && !problem {
			bad.add(field.name, "%s%s", later, field.remedy)
		}
	}
	if err := c.Network.check(); err != nil {
		bad.add("Network", "%v", err)
	} else if !c.Network.available() {
		bad.add("Network", "%s: the guest has no network but its loopback", later)
	}
}
