package ociroot

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// client speaks to one repository of one registry (distribution-spec 1.1).
type client struct {
	repo  name.Repository
	http  *http.Client
	base  *http.Transport
	stall time.Duration
	first time.Duration // the pause before the second try
	agent string
}

// dial greets the registry and obtains a token if it wants one.
func (s *Store) dial(ctx context.Context, ref reference, o *PullOptions) (*client, error) {
	repo := ref.Context()
	pool, err := o.pool()
	if err != nil {
		return nil, err
	}
	auth, err := credentials(ctx, repo, o.Auth)
	if err != nil {
		return nil, err
	}
	base := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            s.dialer,
		TLSClientConfig:        &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    20 * time.Second,
		ResponseHeaderTimeout:  s.o.StallTimeout,
		MaxResponseHeaderBytes: 256 << 10,
		MaxIdleConnsPerHost:    s.o.Downloads + 1,
		IdleConnTimeout:        30 * time.Second,
		DisableCompression:     true, // a blob's bytes are what its digest is of
		ForceAttemptHTTP2:      true,
	}
	g := &guard{inner: base, registry: repo.Registry, insecure: o.Insecure, realms: map[string]bool{}}
	c := &client{repo: repo, base: base, stall: s.o.StallTimeout, first: s.pause, agent: s.o.UserAgent}
	err = c.retry(ctx, dialTries, func(ctx context.Context) error {
		w := newWatch(ctx, 2*c.stall)
		defer w.stop()
		rt, err := transport.NewWithContext(w.ctx, repo.Registry, auth, g, []string{repo.Scope(transport.PullScope)})
		if err != nil {
			return w.explain(c.blame(err, auth))
		}
		c.http = &http.Client{Transport: rt, CheckRedirect: g.checkRedirect}
		return nil
	})
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *client) close() { c.base.CloseIdleConnections() }

// pool is the set of trusted certificate authorities, nil for the system's.
func (o *PullOptions) pool() (*x509.CertPool, error) {
	if o.CAFile == "" {
		return o.RootCAs, nil
	}
	pem, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("%w: CAFile: %w", ErrOptions, err)
	}
	pool := o.RootCAs
	if pool != nil {
		pool = pool.Clone()
	} else if pool, err = x509.SystemCertPool(); err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%w: CAFile %s: no PEM certificate in it", ErrOptions, o.CAFile)
	}
	return pool, nil
}

// statusError is an answer of the registry that is not what was asked for.
type statusError struct {
	status  int
	message string // the registry's words, cleaned
	after   time.Duration
}

func (e *statusError) Error() string {
	s := strconv.Itoa(e.status) + " " + http.StatusText(e.status)
	if e.message != "" {
		s += ": " + e.message
	}
	if errors.Is(e, ErrUnauthorized) { // many registries say so of what they do not have
		s += " (there is no such image, or it needs other credentials)"
	}
	return s
}

// Is puts the answer into a family.
func (e *statusError) Is(target error) bool {
	switch e.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return target == ErrUnauthorized
	case http.StatusNotFound:
		return target == ErrNotFound
	}
	return target == ErrRegistry
}

// blame turns an error of the token exchange into ours.
func (c *client) blame(err error, auth authn.Authenticator) error {
	// A server with TLS also answers the attempt at plain HTTP, with a status that
	// says nothing.
	if cert, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return &transportError{clean(c.repo.RegistryStr()), tlsHint(cert)}
	}
	if te, ok := errors.AsType[*transport.Error](err); ok {
		se := &statusError{status: te.StatusCode}
		if len(te.Errors) > 0 {
			se.message = clean(te.Errors[0].Message)
		}
		if auth == authn.Anonymous {
			return fmt.Errorf("without credentials: %w", se)
		}
		return fmt.Errorf("log in: %w", se)
	}
	return tlsHint(unreachable(err))
}

// transportError is a request without an answer. Unlike a url.Error it does not
// tell the whole address: that of a redirect may contain a signature.
type transportError struct {
	host string
	err  error
}

func (e *transportError) Error() string { return e.host + ": " + e.err.Error() }
func (e *transportError) Unwrap() error { return e.err }

func unreachable(err error) error {
	ue, ok := errors.AsType[*url.Error](err)
	if !ok {
		return err
	}
	host := "registry"
	if u, perr := url.Parse(ue.URL); perr == nil && u.Host != "" {
		host = clean(u.Host)
	}
	return &transportError{host, ue.Err}
}

// tlsHint says what can be done about a certificate that is not trusted, and
// about a server that does not speak TLS.
func tlsHint(err error) error {
	var unknown x509.UnknownAuthorityError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%w (give the registry's CA certificate if it is a private one)", err)
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return &akin{fmt.Errorf("%w (ask for plain HTTP if the registry has no TLS)", err), ErrInsecure}
	}
	return err
}

// get sends a GET or HEAD for a path below the repository. The answer, whose
// status is one of ok, is read through the watch, which the caller must stop.
func (c *client) get(ctx context.Context, method, kind, id string, header http.Header, bound int64, ok ...int) (*http.Response, *watch, error) {
	w := newWatch(withBodyBound(ctx, bound), c.stall)
	address := "https://" + c.repo.RegistryStr() + "/v2/" + c.repo.RepositoryStr() + "/" + kind + "/" + id
	req, err := http.NewRequestWithContext(w.ctx, method, address, nil)
	if err != nil {
		w.stop()
		return nil, nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", c.agent)
	resp, err := c.http.Do(req)
	if err != nil {
		err = w.explain(tlsHint(unreachable(err)))
		w.stop()
		return nil, nil, err
	}
	resp.Body = w.reader(resp.Body)
	for _, status := range ok {
		if resp.StatusCode == status {
			return resp, w, nil
		}
	}
	err = readStatus(resp)
	resp.Body.Close()
	w.stop()
	return nil, nil, err
}

// readStatus makes an error of an answer.
func readStatus(resp *http.Response) error {
	e := &statusError{status: resp.StatusCode}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		e.after = min(time.Duration(n)*time.Second, maxPause)
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 8<<10))
	var said struct {
		Errors []struct{ Code, Message string } `json:"errors"`
	}
	if json.Unmarshal(body, &said) == nil && len(said.Errors) > 0 {
		e.message = clean(said.Errors[0].Code + " " + said.Errors[0].Message)
	}
	return e
}
