package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// laterFlags are flags, as Docker has them, of what the library does not offer
// yet: it says so itself, and what to do instead. They are not in the help.
type laterFlags struct {
	volumes, mounts, ports, secrets []string
	network                         string
}

func (f *laterFlags) add(fl *pflag.FlagSet) {
	fl.StringArrayVarP(&f.volumes, "volume", "v", nil, "mount SOURCE:TARGET[:ro]")
	fl.StringArrayVar(&f.mounts, "mount", nil, "mount type=TYPE,source=SOURCE,target=TARGET[,readonly]")
	fl.StringArrayVarP(&f.ports, "publish", "p", nil, "publish [ADDRESS:]HOST:GUEST[/tcp|/udp]")
	fl.StringVar(&f.network, "network", "", "network policy: none, public or all")
	fl.StringArrayVar(&f.secrets, "secret", nil, "NAME@HOST[,HOST…]: the variable NAME for these hosts only")
	for _, name := range []string{"volume", "mount", "publish", "network", "secret"} {
		_ = fl.MarkHidden(name)
	}
}

// apply puts the flags into a configuration.
func (f *laterFlags) apply(cfg *sandbox.Config) error {
	for _, v := range f.volumes {
		m, err := parseVolume(v)
		if err != nil {
			return fmt.Errorf("--volume %q: %w", v, err)
		}
		cfg.Mounts = append(cfg.Mounts, m)
	}
	for _, v := range f.mounts {
		m, err := parseMount(v)
		if err != nil {
			return fmt.Errorf("--mount %q: %w", v, err)
		}
		cfg.Mounts = append(cfg.Mounts, m)
	}
	for _, v := range f.ports {
		p, err := parsePort(v)
		if err != nil {
			return fmt.Errorf("--publish %q: %w", v, err)
		}
		cfg.Ports = append(cfg.Ports, p)
	}
	for _, v := range f.secrets {
		name, hosts, ok := strings.Cut(v, "@")
		if !ok || name == "" || hosts == "" {
			return fmt.Errorf("--secret %q: want NAME@HOST[,HOST…], NAME being a variable of the environment", v)
		}
		cfg.Secrets = append(cfg.Secrets, sandbox.Secret{Env: name, Value: os.Getenv(name), Hosts: strings.Split(hosts, ",")})
	}
	if f.network != "" {
		cfg.Network.Policy = sandbox.NetworkPolicy(f.network)
	}
	return nil
}

// isHostPath tells a path of the host from the name of a volume.
func isHostPath(source string) bool { return sandbox.IsLocalImage(source) }

func parseVolume(text string) (sandbox.Mount, error) {
	parts := strings.Split(text, ":")
	if len(parts) < 2 || len(parts) > 3 {
		return sandbox.Mount{}, errors.New("want SOURCE:TARGET[:OPTION,…]")
	}
	m := sandbox.Mount{Kind: sandbox.MountVolume, Source: parts[0], Target: parts[1]}
	if isHostPath(m.Source) {
		m.Kind = sandbox.MountBind
	}
	if len(parts) == 3 {
		for o := range strings.SplitSeq(parts[2], ",") {
			if !mountOption(&m, o) {
				return m, fmt.Errorf("option %q: want ro, rw, noexec, nosuid or nodev", o)
			}
		}
	}
	return m, nil
}

func mountOption(m *sandbox.Mount, option string) bool {
	switch option {
	case "ro", "readonly":
		m.ReadOnly = true
	case "noexec":
		m.NoExec = true
	case "nosuid":
		m.NoSUID = true
	case "nodev":
		m.NoDev = true
	case "rw":
	default:
		return false
	}
	return true
}

func parseMount(text string) (sandbox.Mount, error) {
	m := sandbox.Mount{Kind: sandbox.MountBind}
	for field := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "type":
			m.Kind = sandbox.MountKind(value)
		case "source", "src":
			m.Source = value
		case "target", "dst", "destination":
			m.Target = value
		case "size", "tmpfs-size":
			var s sizeMiB
			if err := s.Set(value); err != nil {
				return m, err
			}
			m.Size = int(s)
		default:
			if value != "" || !mountOption(&m, key) {
				return m, fmt.Errorf("%q: want type, source, target, size, readonly, noexec, nosuid or nodev", field)
			}
		}
	}
	return m, nil
}

func parsePort(text string) (sandbox.PortMapping, error) {
	var p sandbox.PortMapping
	const want = "want [ADDRESS:]HOST:GUEST[/tcp|/udp]"
	ports, proto, _ := strings.Cut(text, "/")
	p.Proto = proto
	i := strings.LastIndex(ports, ":")
	if i < 0 {
		return p, errors.New(want)
	}
	host, guest := ports[:i], ports[i+1:]
	if j := strings.LastIndex(host, ":"); j >= 0 {
		p.Bind, host = strings.Trim(host[:j], "[]"), host[j+1:]
		if _, err := netip.ParseAddr(p.Bind); err != nil {
			return p, errors.New(want)
		}
	}
	h, hostErr := strconv.ParseUint(host, 10, 16)
	g, guestErr := strconv.ParseUint(guest, 10, 16)
	if hostErr != nil || guestErr != nil {
		return p, errors.New(want)
	}
	p.Host, p.Guest = uint16(h), uint16(g)
	return p, nil
}
