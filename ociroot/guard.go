package ociroot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
)

// guard is the innermost transport: every request of a pull passes it, those of
// the token exchange and of redirects too. It keeps three promises whatever the
// layers above it do.
//
//   - Plain HTTP goes to this machine, or where it was asked for.
//   - Authorization goes to the registry, and to the token service that the
//     registry itself names; never anywhere else.
//   - No answer is longer than the caller of the request is willing to read.
type guard struct {
	inner    http.RoundTripper
	registry name.Registry
	insecure bool // plain HTTP was asked for

	mu     sync.Mutex
	secure bool            // the registry was reached over TLS: no way back
	plain  bool            // or first over plain HTTP, which was asked for
	realms map[string]bool // origins of its token services
}

const (
	maxRedirects = 5
	maxAnswer    = 1 << 20 // where the request sets no bound: pings, tokens, errors
	maxRealms    = 8
)

// bodyBound is the key under which a context carries the length of the answer.
type bodyBound struct{}

func withBodyBound(ctx context.Context, n int64) context.Context {
	return context.WithValue(ctx, bodyBound{}, n)
}

func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := g.admit(req); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	home, realm := g.isHome(req.URL), g.isRealm(req.URL)
	if !home && !realm && req.Header.Get("Authorization") != "" {
		req = req.Clone(req.Context())
		req.Header.Del("Authorization")
	}
	resp, err := g.inner.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if home {
		g.learn(req.URL, resp)
	}
	bound, ok := req.Context().Value(bodyBound{}).(int64)
	if !ok || realm && !home {
		bound = maxAnswer
	}
	resp.Body = &bounded{resp.Body, bound}
	return resp, nil
}

// admit refuses what must not be sent at all.
func (g *guard) admit(req *http.Request) error {
	if req.URL.Scheme != "https" && !g.plainAllowed(req.URL) {
		return fmt.Errorf("%w: http://%s", ErrInsecure, clean(req.URL.Host))
	}
	// Only the token exchange posts, and a refresh token is in its body.
	if req.Method != http.MethodGet && req.Method != http.MethodHead && !g.isRealm(req.URL) {
		return fmt.Errorf("%w: %s to %s", ErrRedirect, req.Method, clean(req.URL.Host))
	}
	return nil
}

func (g *guard) plainAllowed(u *url.URL) bool {
	if u.Scheme != "http" {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.secure {
		return false
	}
	return g.insecure || isLoopback(u.Hostname()) && isLoopback(hostOf(g.registry.RegistryStr()))
}

func origin(u *url.URL) string {
	port := u.Port()
	if port == "" && u.Scheme == "https" {
		port = "443"
	} else if port == "" {
		port = "80"
	}
	return strings.ToLower(u.Scheme + "://" + u.Hostname() + ":" + port)
}

// isHome reports whether u is the registry's. The scheme is settled by admit.
func (g *guard) isHome(u *url.URL) bool {
	return origin(u) == origin(&url.URL{Scheme: u.Scheme, Host: g.registry.RegistryStr()})
}

func (g *guard) isRealm(u *url.URL) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.realms[origin(u)]
}

// learn notes what an answer of the registry itself tells: that it speaks TLS,
// and where its token service is.
func (g *guard) learn(u *url.URL, resp *http.Response) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if u.Scheme == "http" {
		g.plain = true
	} else if !g.plain {
		g.secure = true
	}
	if resp.StatusCode != http.StatusUnauthorized {
		return
	}
	for _, h := range resp.Header.Values("WWW-Authenticate") {
		r, err := url.Parse(realmOf(h))
		if err == nil && r.Host != "" && len(g.realms) < maxRealms {
			g.realms[origin(r)] = true
		}
	}
}

// realmOf finds the realm in a challenge (RFC 6750 §3).
func realmOf(challenge string) string {
	const key = `realm="`
	i := strings.Index(strings.ToLower(challenge), key)
	if i < 0 {
		return ""
	}
	realm, _, _ := strings.Cut(challenge[i+len(key):], `"`)
	return realm
}

// checkRedirect is the client's: it gives the reason that a user will read.
// Only content is fetched through redirects, and its digest is known, so another
// host may hold it; but a registry on the internet has no business with
// addresses inside.
func (g *guard) checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("%w: more than %d times", ErrRedirect, maxRedirects)
	case req.URL.Scheme != "https" && !g.plainAllowed(req.URL):
		return fmt.Errorf("%w: to %s, and %w", ErrRedirect, clean(req.URL.Scheme+"://"+req.URL.Host), ErrInsecure)
	case req.URL.User != nil:
		return fmt.Errorf("%w: to an address with a user name", ErrRedirect)
	case isInternal(req.URL.Hostname()) && !isInternal(hostOf(g.registry.RegistryStr())) && !g.insecure && !g.isHome(req.URL):
		return fmt.Errorf("%w: to the internal address %s", ErrRedirect, clean(req.URL.Host))
	}
	return nil
}

// errTooLong is what reading more than the bound gives.
var errTooLong = errors.New("the answer is longer than it should be")

// bounded is a body with an end.
type bounded struct {
	io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLong
	}
	// One byte more is let in, to tell an end from a continuation.
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return n - 1, errTooLong
	}
	return n, err
}
