package ociroot

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"
)

// htpasswdLine is of user and password, as `htpasswd -nbBC 5` makes it.
const htpasswdLine = "ann:$2y$05$Q4w9FUnb7jaqFYBeGAxNp.HywzQ0Em/GGwEIYFtgizsZFO6AoTVMC"

// dockerRegistry starts Debian's docker-registry on loopback and returns its
// host; with private set it has TLS, a certificate of its own CA, and one user.
func dockerRegistry(t *testing.T, private bool) (host, ca string) {
	t.Helper()
	if testing.Short() {
		t.Skip("not with -short")
	}
	path, err := exec.LookPath("docker-registry")
	require.NoError(t, err, "this test needs docker-registry: apt-get install -y docker-registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	host = l.Addr().String()
	require.NoError(t, l.Close())
	dir := t.TempDir()
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp:\n  addr: %s\n", dir, host)
	if private {
		ca = certificate(t, dir)
		config += fmt.Sprintf("  tls: {certificate: %s, key: %s/key.pem}\nauth: {htpasswd: {realm: test, path: %s/htpasswd}}\n", ca, dir, dir)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "htpasswd"), []byte(htpasswdLine+"\n"), 0o600))
	}
	file := filepath.Join(dir, "config.yml")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	c := exec.Command(path, "serve", file)
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	require.NoError(t, c.Start())
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", host)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, 20*time.Second, 10*time.Millisecond)
	return host, ca
}

// certificate writes a key and a certificate that is its own authority.
func certificate(t *testing.T, dir string) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	write := func(file, kind string, data []byte) string {
		path := filepath.Join(dir, file)
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600))
		return path
	}
	write("key.pem", "PRIVATE KEY", keyDER)
	return write("cert.pem", "CERTIFICATE", der)
}

// A registry as people run it: plain on loopback, and private with TLS.
func TestDockerRegistry(t *testing.T) {
	ctx := context.Background()
	img := large(t)
	t.Run("plain", func(t *testing.T) {
		host, _ := dockerRegistry(t, false)
		ref, err := name.ParseReference(host + "/some/image:v1")
		require.NoError(t, err)
		require.NoError(t, remote.Write(ref, img))
		s := newStore(t, Options{})
		// It knows ranges: a part is continued.
		h := layerOf(t, img, 0)
		require.NoError(t, os.WriteFile(s.path("partial", h.Hex), rawOf(t, img, 0)[:700_000], 0o600))
		requireImage(t, s, pull(t, s, ref.Name(), anonymous()))
		_, err = s.Pull(ctx, host+"/some/image:v2", anonymous())
		require.ErrorIs(t, err, ErrNotFound)
		_, err = s.Pull(ctx, host+"/some/other", anonymous())
		require.ErrorIs(t, err, ErrNotFound)
	})
	t.Run("multi-platform index", func(t *testing.T) {
		host, _ := dockerRegistry(t, false)
		ref, err := name.ParseReference(host + "/multi:v1")
		require.NoError(t, err)
		ix, images := multi(t)
		require.NoError(t, remote.WriteIndex(ref, ix))
		s := newStore(t, Options{})
		im := pull(t, s, ref.Name(), anonymous())
		require.Equal(t, mustHash(t, images["linux/amd64"].Digest).String(), im.Digest)
		require.Equal(t, mustHash(t, ix.Digest).String(), im.Source)
		o := anonymous()
		o.Platform = Platform{OS: "linux", Architecture: "s390x"}
		require.Equal(t, mustHash(t, images["linux/s390x"].Digest).String(), pull(t, s, ref.Name(), o).Digest)
	})
	t.Run("private", func(t *testing.T) {
		host, ca := dockerRegistry(t, true)
		ref, err := name.ParseReference(host + "/some/image:v1")
		require.NoError(t, err)
		o := PullOptions{CAFile: ca, Auth: &Auth{Username: user, Password: password}}
		pool, err := o.pool()
		require.NoError(t, err)
		tr := http.DefaultTransport.(*http.Transport).Clone()
		tr.TLSClientConfig.RootCAs = pool
		require.NoError(t, remote.Write(ref, img, remote.WithTransport(tr), remote.WithAuth(&authn.Basic{Username: user, Password: password})))
		s := newStore(t, Options{})
		_, err = s.Pull(ctx, ref.Name(), PullOptions{Auth: o.Auth})
		require.ErrorContains(t, err, "CA certificate")
		_, err = s.Pull(ctx, ref.Name(), PullOptions{CAFile: ca})
		require.ErrorIs(t, err, ErrUnauthorized)
		requireImage(t, s, pull(t, s, ref.Name(), o))
	})
}

// requireImage says that the whole large image is there.
func requireImage(t *testing.T, s *Store, im *Image) {
	t.Helper()
	for i := range 6 {
		text, err := rootFile(t, s, im, fmt.Sprintf("file%d", i))
		require.NoError(t, err)
		require.True(t, text == noise(uint64(100+i), 1<<20))
	}
	requireExactly(t, s, im)
}
