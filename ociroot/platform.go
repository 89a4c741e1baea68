package ociroot

import (
	"fmt"
	"slices"
	"strings"
)

// Platform is what an image is made for, in Go's words (GOOS, GOARCH).
type Platform struct {
	OS           string `json:"os,omitempty"`
	Architecture string `json:"architecture,omitempty"`
	Variant      string `json:"variant,omitempty"`
}

func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// ParsePlatform reads OS/ARCH or OS/ARCH/VARIANT.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return Platform{}, &Error{Op: "parse platform", Ref: clean(s), Err: fmt.Errorf("%w: a platform is OS/ARCH or OS/ARCH/VARIANT", ErrOptions)}
	}
	p := Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

// orDefault is linux/amd64 where nothing else is asked for: that is what
// sandboxes run, whatever the host may be one day.
func (p Platform) orDefault() Platform {
	if p == (Platform{}) {
		return Platform{OS: "linux", Architecture: "amd64"}
	}
	return p
}

// suits reports whether an image for have runs where want is wanted. A missing
// variant suits any, v1 of amd64 is every amd64, and an image that does not say
// what it is made for is taken at the caller's word.
func (want Platform) suits(have Platform) bool {
	if have == (Platform{}) {
		return true
	}
	if have.OS != want.OS || have.Architecture != want.Architecture {
		return false
	}
	return want.Variant == have.Variant || have.Variant == "" || have.Variant == "v1" && want.Architecture == "amd64" ||
		want.Variant == "" && want.Architecture != "amd64"
}

// choose finds the manifest of an index for a platform. One that names the very
// variant is better than one that names none; otherwise the first is. Entries
// without a platform come last, if there is but one: single images wrapped in
// an index often have none.
func choose(list []descriptor, want Platform) (descriptor, error) {
	var loose, bare []descriptor
	var have []string
	for _, d := range list {
		switch {
		case kindOf(d.MediaType) == kindUnknown && d.MediaType != "":
			continue // attestations and the like
		case d.Platform == nil || *d.Platform == (Platform{}):
			bare = append(bare, d)
		case want.suits(*d.Platform) && d.Platform.Variant == want.Variant:
			return d, nil
		case want.suits(*d.Platform):
			loose = append(loose, d)
		default:
			have = append(have, clean(d.Platform.String()))
		}
	}
	switch {
	case len(loose) > 0:
		return loose[0], nil
	case len(bare) == 1:
		return bare[0], nil
	}
	if len(have) > 12 {
		have = append(have[:12], "…")
	}
	return descriptor{}, fmt.Errorf("%w: it is not made for %s, but for %s", ErrPlatform, want, strings.Join(have, ", "))
}
