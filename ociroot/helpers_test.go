package ociroot

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// file is one entry of a layer made by a test.
type file struct {
	name, data string
	link       string // a symbolic link's target
}

// tarOf makes an uncompressed layer.
func tarOf(t testing.TB, files ...file) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data)), Typeflag: tar.TypeReg, ModTime: time.Unix(1e9, 0)}
		switch {
		case f.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		case strings.HasSuffix(f.name, "/"):
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		require.NoError(t, w.WriteHeader(h))
		_, err := io.WriteString(w, f.data)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// noise is data that does not compress.
func noise(seed uint64, n int) string {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return string(b)
}

func gzipped(t testing.TB, data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

func zstded(t testing.TB, data []byte) []byte {
	w, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	return w.EncodeAll(data, nil)
}

// rawLayer is a layer whose bytes and claims are the test's.
type rawLayer struct {
	raw       []byte
	diff      v1.Hash
	mediaType types.MediaType
}

func (l *rawLayer) Digest() (v1.Hash, error) { return digestOf(l.raw), nil }
func (l *rawLayer) DiffID() (v1.Hash, error) { return l.diff, nil }
func (l *rawLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.raw)), nil
}
func (l *rawLayer) Uncompressed() (io.ReadCloser, error) { panic("not used") }
func (l *rawLayer) Size() (int64, error)                 { return int64(len(l.raw)), nil }
func (l *rawLayer) MediaType() (types.MediaType, error)  { return l.mediaType, nil }

func gzLayer(t testing.TB, tar []byte) v1.Layer {
	return &rawLayer{gzipped(t, tar), digestOf(tar), types.OCILayer}
}

func zstdLayer(t testing.TB, tar []byte) v1.Layer {
	return &rawLayer{zstded(t, tar), digestOf(tar), types.OCILayerZStd}
}

func plainLayer(tar []byte) v1.Layer {
	return &rawLayer{tar, digestOf(tar), types.OCIUncompressedLayer}
}

// imageOf makes an image for linux/amd64.
func imageOf(t testing.TB, layers ...v1.Layer) v1.Image {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(img, layers...)
	require.NoError(t, err)
	return configured(t, img, func(*v1.ConfigFile) {})
}

func configured(t testing.TB, img v1.Image, f func(*v1.ConfigFile)) v1.Image {
	cf, err := img.ConfigFile()
	require.NoError(t, err)
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", "amd64"
	cf.Config.Env = []string{"PATH=/bin", "A=b=c"}
	cf.Config.Cmd = []string{"sh"}
	f(cf)
	img, err = mutate.ConfigFile(img, cf)
	require.NoError(t, err)
	return img
}

// sample has three layers, packed in the three ways, and a whiteout.
func sample(t testing.TB) v1.Image {
	return imageOf(t,
		gzLayer(t, tarOf(t, file{name: "etc/"}, file{name: "etc/os-release", data: "NAME=Sample\n"}, file{name: "gone", data: "x"}, file{name: "big", data: noise(1, 300_000)})),
		zstdLayer(t, tarOf(t, file{name: ".wh.gone"}, file{name: "bin/"}, file{name: "bin/sh", link: "busybox"})),
		plainLayer(tarOf(t, file{name: "etc/top", data: "top"})),
	)
}

// testRegistry is go-containerregistry's, with every request counted and a
// handler in front of it that a test may put there.
type testRegistry struct {
	*httptest.Server
	host  string
	front atomic.Value // func(http.ResponseWriter, *http.Request) bool: done?

	mu   sync.Mutex
	seen map[string]int // "GET /v2/…"
}

func newRegistry(t testing.TB) *testRegistry {
	r := &testRegistry{seen: map[string]int{}}
	back := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	r.Server = httptest.NewServer(r.handler(back))
	t.Cleanup(r.Close)
	u, err := url.Parse(r.URL)
	require.NoError(t, err)
	r.host = u.Host
	return r
}

func (r *testRegistry) handler(back http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.seen[req.Method+" "+req.URL.Path]++
		r.mu.Unlock()
		if f, ok := r.front.Load().(func(http.ResponseWriter, *http.Request) bool); ok && f(w, req) {
			return
		}
		back.ServeHTTP(w, req)
	})
}

// count sums the requests whose line contains what.
func (r *testRegistry) count(what ...string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for line, k := range r.seen {
		all := true
		for _, w := range what {
			all = all && strings.Contains(line, w)
		}
		if all {
			n += k
		}
	}
	return n
}

func (r *testRegistry) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.seen)
}

func (r *testRegistry) push(t testing.TB, ref string, what remote.Taggable) string {
	t.Helper()
	full := r.host + "/" + ref
	parsed, err := name.ParseReference(full)
	require.NoError(t, err)
	switch w := what.(type) {
	case v1.Image:
		require.NoError(t, remote.Write(parsed, w))
	case v1.ImageIndex:
		require.NoError(t, remote.WriteIndex(parsed, w))
	}
	r.reset()
	return full
}

func newStore(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := OpenStore(filepath.Join(t.TempDir(), "cache"), o)
	require.NoError(t, err)
	s.pause = time.Millisecond
	return s
}

// anonymous keeps tests away from the credentials of whoever runs them.
func anonymous() PullOptions { return PullOptions{Auth: &Auth{}} }

func pull(t testing.TB, s *Store, ref string, o PullOptions) *Image {
	t.Helper()
	im, err := s.Pull(context.Background(), ref, o)
	require.NoError(t, err)
	return im
}

// files are all files below dir but the store's own lock.
func filesBelow(t testing.TB, dir string) (list []string) {
	require.NoError(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, p)
			list = append(list, rel)
		}
		return err
	}))
	return list
}

// expected are the files of a store that holds these images and nothing else.
func expected(t testing.TB, images ...*Image) []string {
	all := map[string]bool{"lock": true, "oci/oci-layout": true, "oci/index.json": true}
	for _, im := range images {
		h, err := v1.NewHash(im.Digest)
		require.NoError(t, err)
		all["roots/"+h.Hex+".erofs"], all["roots/"+h.Hex+".json"] = true, true
		all["oci/blobs/sha256/"+h.Hex] = true
		for _, l := range im.Layers {
			all["oci/blobs/sha256/"+strings.TrimPrefix(l.Digest, "sha256:")] = true
		}
	}
	var list []string
	for f := range all {
		list = append(list, f)
	}
	return list
}

func mustHash(t testing.TB, f func() (v1.Hash, error)) v1.Hash {
	h, err := f()
	require.NoError(t, err)
	return h
}
