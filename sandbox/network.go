package sandbox

import (
	"fmt"
	"net/netip"
	"strings"
)

// PortMapping publishes a port of the guest on the host. Not yet available: a
// Config that has one is refused.
type PortMapping struct {
	// Host is the host's port; 0 picks a free one. Guest is the guest's.
	Host  uint16 `json:"host"`
	Guest uint16 `json:"guest"`
	// Proto is "tcp", the default, or "udp".
	Proto string `json:"proto,omitempty"`
	// Bind is the host's address. Default 127.0.0.1.
	Bind string `json:"bind,omitempty"`
}

func (p PortMapping) check() error {
	switch {
	case p.Guest == 0:
		return fmt.Errorf("no guest port is given")
	case p.Proto != "" && p.Proto != "tcp" && p.Proto != "udp":
		return fmt.Errorf("protocol %q: want tcp or udp", p.Proto)
	}
	if p.Bind != "" {
		if _, err := netip.ParseAddr(p.Bind); err != nil {
			return fmt.Errorf("bind address %q: want an IP address of the host", p.Bind)
		}
	}
	return nil
}

// NetworkConfig is the guest's network. There is none yet but the loopback: a
// Config that asks for more than Disabled is refused.
type NetworkConfig struct {
	// Disabled leaves the guest without a network.
	Disabled bool `json:"disabled,omitempty"`
	// Policy says where the guest may connect to.
	Policy NetworkPolicy `json:"policy,omitempty"`
	// Nameservers are addresses of DNS servers. Default the host's.
	Nameservers []string `json:"nameservers,omitempty"`
}

// NetworkPolicy names a set of rules.
type NetworkPolicy string

// The policies. NetworkPublic, the default, allows the public internet, and no
// private, link-local or metadata address, nor the host.
const (
	NetworkPublic NetworkPolicy = "public"
	NetworkAll    NetworkPolicy = "all"
	NetworkNone   NetworkPolicy = "none"
)

func (n NetworkConfig) check() error {
	switch n.Policy {
	case "", NetworkPublic, NetworkAll, NetworkNone:
	default:
		return fmt.Errorf("policy %q: want %s, %s or %s", n.Policy, NetworkPublic, NetworkAll, NetworkNone)
	}
	if n.Disabled && n.Policy != "" && n.Policy != NetworkNone {
		return fmt.Errorf("it is disabled and has the policy %q", n.Policy)
	}
	for _, s := range n.Nameservers {
		if _, err := netip.ParseAddr(s); err != nil {
			return fmt.Errorf("name server %q: want an IP address", s)
		}
	}
	return nil
}

// available tells whether all that is asked for exists.
func (n NetworkConfig) available() bool {
	return (n.Policy == "" || n.Policy == NetworkNone) && len(n.Nameservers) == 0
}

// Secret is a value that the guest uses and does not see: in its environment
// is a placeholder, which the host replaces in what the guest sends to the
// allowed hosts. Not yet available: a Config that has one is refused.
type Secret struct {
	// Env is the variable that holds the placeholder.
	Env string `json:"env"`
	// Value is the secret. It is never stored.
	Value string `json:"-"`
	// Hosts may be sent the secret: names, or "*." and a name for all below it.
	Hosts []string `json:"hosts"`
}

func (s Secret) check() error {
	switch {
	case s.Env == "" || strings.ContainsAny(s.Env, "=\x00"):
		return fmt.Errorf("variable %q: want a NAME", s.Env)
	case s.Value == "":
		return fmt.Errorf("%s: its value is empty", s.Env)
	case strings.ContainsAny(s.Value, "\x00\r\n"):
		return fmt.Errorf("%s: its value has a line break or a NUL, which no header can carry", s.Env)
	case len(s.Hosts) == 0:
		return fmt.Errorf("%s: no host may be sent it", s.Env)
	}
	for _, h := range s.Hosts {
		if name := strings.TrimPrefix(h, "*."); name == "" || strings.ContainsAny(name, "*/: \x00") {
			return fmt.Errorf("%s: host %q: want a name, or *. and a name", s.Env, h)
		}
	}
	return nil
}

// SecretEnv is a Secret for one host.
func SecretEnv(variable, value, host string) Secret {
	return Secret{Env: variable, Value: value, Hosts: []string{host}}
}
