package ociroot

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// reference is a parsed image reference.
type reference struct {
	name.Reference
	full string // the canonical name, under which index.json has it
}

const maxReference = 1024

// parseReference understands what other clients do: [REGISTRY/]PATH[:TAG] and
// [REGISTRY/]PATH[:TAG]@sha256:HEX, the default registry and the tag "latest"
// being assumed. A tag beside a digest is dropped: the digest says all.
func parseReference(s string, insecure bool) (reference, error) {
	if len(s) > maxReference {
		return reference{}, fmt.Errorf("%w: longer than %d bytes", ErrReference, maxReference)
	}
	var opts []name.Option
	if insecure {
		opts = append(opts, name.Insecure)
	}
	r, err := name.ParseReference(s, opts...)
	if err != nil {
		return reference{}, fmt.Errorf("%w: %w", ErrReference, err)
	}
	if !insecure && isLoopback(hostOf(r.Context().RegistryStr())) {
		return parseReference(s, true) // tries plain HTTP too, on this machine only
	}
	if err := checkPath(r.Context().RepositoryStr()); err != nil {
		return reference{}, err
	}
	if reg := r.Context().RegistryStr(); !isHost(reg) {
		return reference{}, fmt.Errorf("%w: %q is not a registry's host name", ErrReference, clean(reg))
	}
	if d, ok := r.(name.Digest); ok {
		if h, err := v1.NewHash(d.DigestStr()); err != nil || h.Algorithm != "sha256" {
			return reference{}, fmt.Errorf("%w: only sha256 digests are supported", ErrReference)
		}
	}
	return reference{r, familiar(r.Name())}, nil
}

// checkPath holds a repository's name against distribution-spec 1.1: it becomes
// part of an address, where "..", for one, has a meaning.
func checkPath(path string) error {
	const word = "abcdefghijklmnopqrstuvwxyz0123456789"
	for part := range strings.SplitSeq(path, "/") {
		ends := len(part) > 0 && strings.Contains(word, part[:1]) && strings.Contains(word, part[len(part)-1:])
		if !ends || strings.Trim(part, word+"._-") != "" || strings.Contains(part, "..") {
			return fmt.Errorf("%w: %q cannot be a part of an image's name", ErrReference, clean(part))
		}
	}
	return nil
}

func isHost(hostport string) bool {
	const rest = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]"
	host := hostOf(hostport)
	return host != "" && strings.Trim(hostport, rest) == "" && strings.Trim(host, ".") == host && !strings.Contains(host, "..")
}

// familiar is a full name as people write it: the default registry's API has
// another host name than its references.
func familiar(full string) string {
	if rest, ok := strings.CutPrefix(full, name.DefaultRegistry+"/"); ok {
		return strings.TrimPrefix(name.DefaultRegistry, "index.") + "/" + rest
	}
	return full
}

// Canonical is the full name of a reference: registry, path, and tag or digest.
func Canonical(ref string) (string, error) {
	r, err := parseReference(ref, false)
	if err != nil {
		return "", &Error{Op: "parse", Ref: clean(ref), Err: err}
	}
	return r.full, nil
}

// digest is the digest that the reference pins, if it does.
func (r reference) digest() (v1.Hash, bool) {
	d, ok := r.Reference.(name.Digest)
	if !ok {
		return v1.Hash{}, false
	}
	h, err := v1.NewHash(d.DigestStr())
	return h, err == nil
}

// isLoopback reports whether a host, without its port, is this machine, whatever
// the resolver says.
func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// isInternal reports whether a host is an address that the public internet does
// not lead to: this machine, a private network, link-local.
func isInternal(host string) bool {
	if isLoopback(host) {
		return true
	}
	host, _, _ = strings.Cut(host, "%")
	a, err := netip.ParseAddr(host)
	if err != nil {
		// Resolvers also take 127.1, 0x7f000001 and 2130706433 for addresses.
		return host != "" && strings.Trim(host, "0123456789abcdefx.") == "" && strings.ContainsAny(host[:1], "0123456789")
	}
	a = a.Unmap()
	return a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || a.IsUnspecified()
}

// hostOf splits the port off a registry's name.
func hostOf(hostport string) string {
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		return h
	}
	return strings.Trim(hostport, "[]")
}
