package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"
)

// serverCertificate makes a certificate for the loopback, signed by itself, and
// returns the files of it and of its key.
func serverCertificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	keyDER, err := x509.MarshalECPrivateKey(private)
	require.NoError(t, err)
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	}
	return cert, key
}

// TestHostPrivateRegistry: a registry with a certificate that nobody signed
// and with passwords.
func TestHostPrivateRegistry(t *testing.T) {
	if testing.Short() {
		t.Skip("needs the test images, which -short leaves out")
	}
	cert, key := serverCertificate(t)
	hash, err := bcrypt.GenerateFromPassword([]byte("correct horse"), bcrypt.MinCost)
	require.NoError(t, err)
	htpasswd := filepath.Join(t.TempDir(), "htpasswd")
	require.NoError(t, os.WriteFile(htpasswd, fmt.Appendf(nil, "user:%s\n", hash), 0o600))
	reg := startRegistry(t, filepath.Join(testImages(t), "registry"), fmt.Sprintf(
		"http: {addr: \"127.0.0.1:0\", tls: {certificate: %s, key: %s}}\nauth: {htpasswd: {realm: test, path: %s}}\n", cert, key, htpasswd))
	image := reg.addr + "/whiteouts"

	refused := func(h imageHome, want string, args ...string) {
		t.Helper()
		r := h.run(t, append([]string{"pull", "-q"}, append(args, image)...)...)
		require.Equal(t, exitFailure, r.status)
		require.Contains(t, r.stderr, want)
		require.NotContains(t, r.stderr, "correct horse")
		require.Empty(t, h.output(t, "image", "ls", "-q"), "nothing was cached")
	}
	h := imageHome{t.TempDir()}
	refused(h, "certificate", "--creds", "user:correct horse")
	refused(h, "nauthorized", "--ca-file", cert)
	refused(h, "nauthorized", "--ca-file", cert, "--creds", "user:wrong")
	refused(h, "want USER:PASSWORD", "--creds", "user")
	refused(h, "no such file", "--ca-file", "/none")
	require.Contains(t, h.output(t, "pull", "-q", "--ca-file", cert, "--creds", "user:correct horse", image), "sha256:")

	t.Run("docker's configuration", func(t *testing.T) {
		h := imageHome{t.TempDir()}
		auth := base64.StdEncoding.EncodeToString([]byte("user:correct horse"))
		require.NoError(t, os.WriteFile(filepath.Join(h.dir, "config.json"), fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, reg.addr, auth), 0o600))
		require.Contains(t, h.output(t, "pull", "-q", "--ca-file", cert, image), "sha256:")
	})
	t.Run("credential helper", func(t *testing.T) {
		h := imageHome{t.TempDir()}
		require.NoError(t, os.WriteFile(filepath.Join(h.dir, "config.json"), fmt.Appendf(nil, `{"credHelpers":{%q:"sandpit-test"}}`, reg.addr), 0o600))
		bin := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(bin, "docker-credential-sandpit-test"),
			[]byte("#!/bin/sh\ncat >/dev/null\necho '{\"Username\":\"user\",\"Secret\":\"correct horse\"}'\n"), 0o700))
		t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
		require.Contains(t, h.output(t, "pull", "-q", "--ca-file", cert, image), "sha256:")
	})
}
