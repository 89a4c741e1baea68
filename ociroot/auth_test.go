package ociroot

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

const user, password = "ann", "s3cret-word"

// wantBasic makes the registry ask for a user and a password.
func (r *testRegistry) wantBasic() {
	r.front.Store(func(w http.ResponseWriter, req *http.Request) bool {
		u, p, _ := req.BasicAuth()
		if u == user && p == password {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
}

func TestPull_BasicAuth(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	ref := r.push(t, "private/x", sample(t))
	r.wantBasic()
	_, err := s.Pull(context.Background(), ref, PullOptions{})
	require.ErrorIs(t, err, ErrUnauthorized)
	_, err = s.Pull(context.Background(), ref, PullOptions{Auth: &Auth{Username: user, Password: "wrong-word"}})
	require.ErrorIs(t, err, ErrUnauthorized)
	require.NotContains(t, err.Error(), "wrong-word")
	pull(t, s, ref, PullOptions{Auth: &Auth{Username: user, Password: password}})
}

func TestAuth_HidesSecrets(t *testing.T) {
	a := &Auth{Username: user, Password: password, IdentityToken: "id-token", RegistryToken: "reg-token"}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, text := range []string{fmt.Sprintf(format, a), fmt.Sprintf(format, *a), fmt.Sprintf(format, PullOptions{Auth: a})} {
			require.NotContains(t, text, password)
			require.NotContains(t, text, "token")
		}
	}
}

// dockerConfig writes a config.json that holds until the test's end.
func dockerConfig(t *testing.T, config map[string]any) {
	dir := t.TempDir()
	data, err := json.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600))
	t.Setenv("DOCKER_CONFIG", dir)
}

func TestPull_DockerConfig(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	ref := r.push(t, "private/x", sample(t))
	r.wantBasic()
	dockerConfig(t, map[string]any{"auths": map[string]any{
		r.host: map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(user + ":" + password))},
	}})
	_, err := s.Pull(context.Background(), ref, PullOptions{Auth: &Auth{}})
	require.ErrorIs(t, err, ErrUnauthorized, "asked for no credentials")
	_, err = s.Pull(context.Background(), ref, PullOptions{Auth: &Auth{Username: "other", Password: "x"}})
	require.ErrorIs(t, err, ErrUnauthorized, "the explicit ones come first")
	pull(t, s, ref, PullOptions{})
}

func TestPull_CredentialHelper(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	ref := r.push(t, "private/x", sample(t))
	r.wantBasic()
	bin := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nread host\n[ \"$1 $host\" = \"get %s\" ] || { echo 'credentials not found in native keychain'; exit 1; }\n"+
		"printf '{\"Username\":\"%s\",\"Secret\":\"%s\"}'\n", r.host, user, password)
	require.NoError(t, os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(script), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	dockerConfig(t, map[string]any{"credHelpers": map[string]string{r.host: "test"}})
	pull(t, s, ref, PullOptions{})

	dockerConfig(t, map[string]any{"credHelpers": map[string]string{r.host: "missing"}})
	_, err := s.Pull(context.Background(), ref, PullOptions{Policy: PullAlways})
	require.ErrorIs(t, err, ErrCredentials)
}

// recorder is another host, which notes what credentials it is sent.
type recorder struct {
	*httptest.Server
	mu   sync.Mutex
	auth []string
	hits int
}

func newRecorder(t *testing.T, f http.HandlerFunc) *recorder {
	rec := &recorder{}
	rec.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body := make([]byte, 4096)
		n, _ := req.Body.Read(body)
		rec.mu.Lock()
		rec.hits++
		for _, k := range []string{"Authorization", "Cookie", "Proxy-Authorization"} {
			if v := req.Header.Get(k); v != "" {
				rec.auth = append(rec.auth, v)
			}
		}
		if strings.Contains(string(body[:n]), "token") || strings.Contains(req.URL.RawQuery, "token") {
			rec.auth = append(rec.auth, string(body[:n])+req.URL.RawQuery)
		}
		rec.mu.Unlock()
		f(w, req)
	}))
	t.Cleanup(rec.Close)
	return rec
}

// A redirect to another host is followed, for the content, but without the
// credentials: not the password, and no token.
func TestPull_Row32_RedirectCarriesNoCredentials(t *testing.T) {
	img := sample(t)
	for _, scheme := range []string{"basic", "bearer", "registry token"} {
		for _, answer := range []string{"content", "challenge", "basic challenge"} {
			t.Run(scheme+" "+answer, func(t *testing.T) {
				r, s := newRegistry(t), newStore(t, Options{})
				ref := r.push(t, "private/x", img)
				data := rawOf(t, img, 0)
				var rec *recorder
				rec = newRecorder(t, func(w http.ResponseWriter, req *http.Request) {
					switch answer {
					case "content":
						w.Write(data)
						return
					case "challenge":
						w.Header().Set("WWW-Authenticate", `Bearer realm="`+rec.URL+`/token",service="x",scope="y"`)
					default:
						w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
					}
					w.WriteHeader(http.StatusUnauthorized)
				})
				o := PullOptions{Auth: &Auth{Username: user, Password: password}}
				if scheme == "registry token" {
					o.Auth = &Auth{RegistryToken: "the-registry-token"}
				}
				r.front.Store(func(w http.ResponseWriter, req *http.Request) bool {
					if req.URL.Path == "/token" {
						fmt.Fprint(w, `{"token":"the-token"}`)
						return true
					}
					if req.Header.Get("Authorization") == "" {
						if scheme == "basic" {
							w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
						} else {
							w.Header().Set("WWW-Authenticate", `Bearer realm="`+r.URL+`/token",service="test"`)
						}
						w.WriteHeader(http.StatusUnauthorized)
						return true
					}
					if strings.HasSuffix(req.URL.Path, layerOf(t, img, 0).String()) {
						http.Redirect(w, req, rec.URL+"/elsewhere?signature=query-secret", http.StatusTemporaryRedirect)
						return true
					}
					return false
				})
				_, err := s.Pull(context.Background(), ref, o)
				if answer == "content" {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, ErrUnauthorized)
					require.NotContains(t, err.Error(), "query-secret")
				}
				require.NotZero(t, rec.hits)
				require.Empty(t, rec.auth)
			})
		}
	}
}

// The token service may be elsewhere, but it cannot hand the credentials on.
func TestPull_Row32_TokenServiceRedirects(t *testing.T) {
	for _, auth := range []*Auth{{Username: user, Password: password}, {IdentityToken: "identity-token"}} {
		r, s := newRegistry(t), newStore(t, Options{})
		ref := r.push(t, "private/x", sample(t))
		rec := newRecorder(t, func(w http.ResponseWriter, req *http.Request) { fmt.Fprint(w, `{"token":"t"}`) })
		r.front.Store(func(w http.ResponseWriter, req *http.Request) bool {
			if req.URL.Path == "/token" {
				http.Redirect(w, req, rec.URL+"/token", http.StatusTemporaryRedirect)
				return true
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+r.URL+`/token",service="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		})
		_, err := s.Pull(context.Background(), ref, PullOptions{Auth: auth})
		require.Error(t, err)
		require.Empty(t, rec.auth)
	}
}

// The guard alone: what it lets pass, whatever is above it.
func TestGuard(t *testing.T) {
	for _, c := range []struct {
		name, registry, url string
		insecure            bool
		admitted, auth      bool
	}{
		{"home", "reg.test", "https://reg.test/v2/", false, true, true},
		{"home, port", "reg.test:443", "https://reg.test/v2/", false, true, true},
		{"home, case", "reg.test", "https://REG.test/v2/", false, true, true},
		{"other port", "reg.test", "https://reg.test:8443/v2/", false, true, false},
		{"other host", "reg.test", "https://cdn.test/x", false, true, false},
		{"longer host", "reg.test", "https://reg.test.evil.test/x", false, true, false},
		{"token service", "reg.test", "https://auth.test/token", false, true, true},
		{"token service, other port", "reg.test", "https://auth.test:444/token", false, true, false},
		{"plain", "reg.test", "http://reg.test/v2/", false, false, false},
		{"plain asked for", "reg.test", "http://reg.test/v2/", true, true, true},
		{"plain other", "reg.test", "http://cdn.test/", true, true, false},
		{"plain private", "10.0.0.1:5000", "http://10.0.0.1:5000/v2/", false, false, false},
		{"plain loopback", "127.0.0.1:5000", "http://127.0.0.1:5000/v2/", false, true, true},
		{"plain loopback 6", "[::1]:5000", "http://[::1]:5000/v2/", false, true, true},
		{"plain localhost", "localhost:5000", "http://localhost:5000/v2/", false, true, true},
		{"loopback from outside", "reg.test", "http://127.0.0.1/", false, false, false},
		{"outside from loopback", "localhost:5000", "http://cdn.test/", false, false, false},
		{"file", "reg.test", "file:///etc/passwd", true, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ref, err := parseReference(c.registry+"/x", c.insecure)
			require.NoError(t, err)
			var sent *http.Request
			g := &guard{registry: ref.Context().Registry, insecure: c.insecure, realms: map[string]bool{"https://auth.test:443": true}}
			g.inner = roundTripper(func(req *http.Request) (*http.Response, error) {
				sent = req
				return &http.Response{StatusCode: 200, Body: http.NoBody, Header: http.Header{}}, nil
			})
			req, err := http.NewRequest(http.MethodGet, c.url, nil)
			require.NoError(t, err)
			req.Header.Set("Authorization", "Basic x")
			_, err = g.RoundTrip(req)
			require.Equal(t, c.admitted, err == nil, err)
			if c.admitted {
				require.Equal(t, c.auth, sent.Header.Get("Authorization") != "")
			}
			req.Method = http.MethodPost
			_, err = g.RoundTrip(req)
			require.Equal(t, c.name == "token service", err == nil)
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// A registry that was reached over TLS has no way back to plain HTTP, even if
// that was asked for.
func TestGuard_NoDowngrade(t *testing.T) {
	ref, err := parseReference("reg.test/x", true)
	require.NoError(t, err)
	g := &guard{registry: ref.Context().Registry, insecure: true, realms: map[string]bool{}}
	g.inner = roundTripper(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody, Header: http.Header{}}, nil
	})
	for _, c := range []struct {
		url string
		ok  bool
	}{{"http://cdn.test/", true}, {"https://reg.test/v2/", true}, {"http://reg.test/v2/", false}} {
		req, err := http.NewRequest(http.MethodGet, c.url, nil)
		require.NoError(t, err)
		_, err = g.RoundTrip(req)
		require.Equal(t, c.ok, err == nil, c.url)
	}
}

func TestGuard_InternalRedirects(t *testing.T) {
	for target, ok := range map[string]bool{
		"https://cdn.test/": true, "https://1.2.3.4/": true,
		"https://127.0.0.1/": false, "https://localhost/": false, "https://10.1.2.3/": false, "https://169.254.169.254/": false,
		"https://[::1]/": false, "https://[fd00::1]/": false, "https://[::ffff:127.0.0.1]/": false, "https://0x7f000001/": false,
		"https://2130706433/": false, "https://127.1/": false, "https://a:b@cdn.test/": false, "ftp://cdn.test/": false,
	} {
		ref, err := parseReference("reg.test/x", false)
		require.NoError(t, err)
		g := &guard{registry: ref.Context().Registry}
		u, err := url.Parse(target)
		require.NoError(t, err)
		err = g.checkRedirect(&http.Request{URL: u}, nil)
		require.Equal(t, ok, err == nil, target)
		if !ok {
			require.ErrorIs(t, err, ErrRedirect)
		}
	}
}

// A private certificate authority is trusted when it is given, and only then.
func TestPull_PrivateCA(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	r.push(t, "x", sample(t))
	secure := httptest.NewTLSServer(r.Config.Handler)
	t.Cleanup(secure.Close)
	ref := strings.TrimPrefix(secure.URL, "https://") + "/x"
	ctx := context.Background()
	_, err := s.Pull(ctx, ref, anonymous())
	require.Error(t, err)
	require.Contains(t, err.Error(), "CA certificate")
	o := anonymous()
	o.Insecure = true
	_, err = s.Pull(ctx, ref, o)
	require.Error(t, err, "plain HTTP does not mean any certificate")

	o = anonymous()
	o.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	_, err = s.Pull(ctx, ref, o)
	require.ErrorIs(t, err, ErrOptions)
	require.NoError(t, os.WriteFile(o.CAFile, []byte("nothing"), 0o600))
	_, err = s.Pull(ctx, ref, o)
	require.ErrorIs(t, err, ErrOptions)
	block := &pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}
	require.NoError(t, os.WriteFile(o.CAFile, pem.EncodeToMemory(block), 0o600))
	pull(t, s, ref, o)
}

// A registry without TLS that is not this machine is spoken to only when asked
// for.
func TestPull_PlainOnlyWhenAskedFor(t *testing.T) {
	for _, host := range []string{"10.255.255.1:5000", "reg.test:5000"} {
		r, s := newRegistry(t), newStore(t, Options{})
		local := r.push(t, "x", sample(t))
		var dialled atomic.Int64
		s.dialer = func(ctx context.Context, network, _ string) (net.Conn, error) {
			dialled.Add(1)
			return (&net.Dialer{}).DialContext(ctx, network, strings.TrimSuffix(local, "/x"))
		}
		ref := host + "/x"
		_, err := s.Pull(context.Background(), ref, anonymous())
		require.ErrorIs(t, err, ErrInsecure)
		require.NotZero(t, dialled.Load())
		require.Zero(t, r.count(""), "no request in the clear")
		o := anonymous()
		o.Insecure = true
		pull(t, s, ref, o)
		require.NotZero(t, r.count("GET", "/blobs/"))
	}
}
