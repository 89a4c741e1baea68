package ociroot

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

// layerOf is the digest of an image's i-th layer.
func layerOf(t testing.TB, img v1.Image, i int) v1.Hash {
	m, err := img.Manifest()
	require.NoError(t, err)
	return m.Layers[i].Digest
}

func rawOf(t testing.TB, img v1.Image, i int) []byte {
	l, err := img.Layers()
	require.NoError(t, err)
	rc, err := l[i].Compressed()
	require.NoError(t, err)
	data, err := io.ReadAll(rc)
	require.NoError(t, err)
	return data
}

// onBlob answers requests for one blob itself; n counts them from 1.
func (r *testRegistry) onBlob(h v1.Hash, f func(w http.ResponseWriter, req *http.Request, n int64)) {
	var n atomic.Int64
	r.front.Store(func(w http.ResponseWriter, req *http.Request) bool {
		if req.Method != http.MethodGet || !strings.HasSuffix(req.URL.Path, "/blobs/"+h.String()) {
			return false
		}
		f(w, req, n.Add(1))
		return true
	})
}

// hangUp ends the connection in the middle of an answer.
func hangUp(w http.ResponseWriter) {
	w.(http.Flusher).Flush()
	c, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		c.Close()
	}
}

// nothingLeft says that a failed pull registered nothing and left nothing that
// prune does not remove.
func nothingLeft(t testing.TB, s *Store) {
	t.Helper()
	list, err := s.List(context.Background())
	require.NoError(t, err)
	require.Empty(t, list)
	_, err = s.Prune(context.Background(), PruneOptions{})
	require.NoError(t, err)
	requireExactly(t, s)
}

// What a registry may do wrong with a layer, and the error that it gives.
func TestPull_Row32_HostileBlob(t *testing.T) {
	img := sample(t)
	data := rawOf(t, img, 0)
	for _, c := range []struct {
		name string
		f    func(w http.ResponseWriter, req *http.Request, n int64)
		want error
	}{
		{"wrong content", func(w http.ResponseWriter, _ *http.Request, _ int64) {
			w.Write(bytes.Repeat([]byte{1}, len(data)))
		}, ErrDigest},
		{"short", func(w http.ResponseWriter, _ *http.Request, _ int64) { w.Write(data[:1000]) }, ErrMalformed},
		{"long", func(w http.ResponseWriter, _ *http.Request, _ int64) { w.Write(append(bytes.Clone(data), 0)) }, ErrMalformed},
		{"endless", func(w http.ResponseWriter, req *http.Request, _ int64) {
			w.(http.Flusher).Flush()
			for req.Context().Err() == nil {
				if _, err := w.Write(data); err != nil {
					return
				}
			}
		}, ErrMalformed},
		{"chunked short", func(w http.ResponseWriter, _ *http.Request, _ int64) {
			w.(http.Flusher).Flush()
			w.Write(data[:1000])
		}, io.ErrUnexpectedEOF},
		{"resets", func(w http.ResponseWriter, _ *http.Request, _ int64) { hangUp(w) }, io.ErrUnexpectedEOF},
		{"500", func(w http.ResponseWriter, _ *http.Request, _ int64) { w.WriteHeader(500) }, ErrRegistry},
		{"404", func(w http.ResponseWriter, _ *http.Request, _ int64) { w.WriteHeader(404) }, ErrNotFound},
		{"403", func(w http.ResponseWriter, _ *http.Request, _ int64) { w.WriteHeader(403) }, ErrUnauthorized},
		{"stalls at once", func(_ http.ResponseWriter, req *http.Request, _ int64) { <-req.Context().Done() }, ErrStalled},
		{"stalls later", func(w http.ResponseWriter, req *http.Request, _ int64) {
			w.Write(data[:50_000])
			w.(http.Flusher).Flush()
			<-req.Context().Done()
		}, ErrStalled},
		{"drips", func(w http.ResponseWriter, req *http.Request, _ int64) {
			for i := 0; i < len(data) && req.Context().Err() == nil; i++ {
				w.Write(data[i : i+1])
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		}, ErrStalled},
		{"redirects for ever", func(w http.ResponseWriter, req *http.Request, _ int64) {
			http.Redirect(w, req, req.URL.Path, http.StatusTemporaryRedirect)
		}, ErrRedirect},
		{"redirects to plain HTTP", func(w http.ResponseWriter, req *http.Request, _ int64) {
			http.Redirect(w, req, "http://192.0.2.1/x", http.StatusTemporaryRedirect)
		}, ErrRedirect},
		{"redirects to a file", func(w http.ResponseWriter, req *http.Request, _ int64) {
			http.Redirect(w, req, "file:///etc/passwd", http.StatusTemporaryRedirect)
		}, ErrRedirect},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, s := newRegistry(t), newStore(t, Options{StallTimeout: 200 * time.Millisecond})
			ref := r.push(t, "sample:v1", img)
			r.onBlob(layerOf(t, img, 0), c.f)
			_, err := s.Pull(context.Background(), ref, anonymous())
			require.ErrorIs(t, err, c.want)
			t.Log(err)
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, "pull", e.Op)
			nothingLeft(t, s)
		})
	}
}

// A registry that is slow but alive is waited for.
func TestPull_SlowRegistry(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{StallTimeout: time.Second})
	img := sample(t)
	ref := r.push(t, "sample:v1", img)
	data := rawOf(t, img, 0)
	r.onBlob(layerOf(t, img, 0), func(w http.ResponseWriter, _ *http.Request, _ int64) {
		for len(data) > 0 {
			n := min(len(data), 20_000)
			w.Write(data[:n])
			w.(http.Flusher).Flush()
			data = data[n:]
			time.Sleep(100 * time.Millisecond)
		}
	})
	pull(t, s, ref, anonymous())
	require.Equal(t, 1, r.count("GET", layerOf(t, img, 0).String()))
}

// serveManifest makes the registry answer with this for every manifest.
func (r *testRegistry) serveManifest(mediaType string, body []byte) {
	r.front.Store(func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.Contains(req.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Docker-Content-Digest", digestOf(body).String())
		w.Write(body)
		return true
	})
}

// descText is a descriptor as JSON.
func descText(mediaType string, size int64, fill string) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":"sha256:%s","size":%d}`, mediaType, strings.Repeat(fill, 64), size)
}

// hostileManifests are documents that must be refused, by what is wrong.
func hostileManifests() map[string]struct {
	body string
	want error
} {
	type c = struct {
		body string
		want error
	}
	config := descText("application/vnd.oci.image.config.v1+json", 100, "a")
	layer := descText("application/vnd.oci.image.layer.v1.tar+gzip", 100, "b")
	entry := descText(string(types.OCIManifestSchema1), 100, "c")
	many := func(s string, n int) string { return strings.TrimSuffix(strings.Repeat(s+",", n), ",") }
	return map[string]c{
		"empty":               {``, ErrMalformed},
		"not JSON":            {`<html>`, ErrMalformed},
		"array":               {`[]`, ErrMalformed},
		"cut":                 {`{"schemaVersion":2,"config":`, ErrMalformed},
		"schema 1":            {`{"schemaVersion":1,"name":"x","fsLayers":[]}`, ErrMalformed},
		"no schema":           {`{"config":` + config + `,"layers":[` + layer + `]}`, ErrMalformed},
		"both":                {`{"schemaVersion":2,"config":` + config + `,"layers":[` + layer + `],"manifests":[` + entry + `]}`, ErrMalformed},
		"index with a config": {`{"schemaVersion":2,"config":` + config + `,"manifests":[` + entry + `]}`, ErrMalformed},
		"twice":               {`{"schemaVersion":2,"config":` + config + `,"layers":[` + layer + `],"layers":[]}`, ErrMalformed},
		"twice by case":       {`{"schemaVersion":2,"config":` + config + `,"layers":[` + layer + `],"Layers":[]}`, ErrMalformed},
		"trailing":            {`{"schemaVersion":2,"config":` + config + `,"layers":[` + layer + `]}{}`, ErrMalformed},
		"no layers":           {`{"schemaVersion":2,"config":` + config + `,"layers":[]}`, ErrMalformed},
		"says index":          {`{"schemaVersion":2,"mediaType":"` + string(types.OCIImageIndex) + `","config":` + config + `,"layers":[` + layer + `]}`, ErrMalformed},
		"encrypted":           {`{"schemaVersion":2,"config":` + config + `,"layers":[` + descText("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", 1, "b") + `]}`, ErrMalformed},
		"artifact":            {`{"schemaVersion":2,"config":` + config + `,"layers":[` + descText("text/plain", 1, "b") + `]}`, ErrMalformed},
		"negative size":       {`{"schemaVersion":2,"config":` + config + `,"layers":[` + descText("application/vnd.oci.image.layer.v1.tar", -1, "b") + `]}`, ErrMalformed},
		"huge size":           {`{"schemaVersion":2,"config":` + config + `,"layers":[` + descText("application/vnd.oci.image.layer.v1.tar", 1<<62, "b") + `]}`, ErrLimit},
		"sizes overflow": {`{"schemaVersion":2,"config":` + config + `,"layers":[` + many(descText("application/vnd.oci.image.layer.v1.tar", 1<<62, "b"), 2) + `]}`,
			ErrLimit},
		"huge config":    {`{"schemaVersion":2,"config":` + descText("application/vnd.oci.image.config.v1+json", maxConfig+1, "a") + `,"layers":[` + layer + `]}`, ErrLimit},
		"path as digest": {strings.Replace(`{"schemaVersion":2,"config":`+config+`,"layers":[`+layer+`]}`, strings.Repeat("b", 64), "../../../../etc/passwd", 1), ErrMalformed},
		"unknown digest": {strings.Replace(`{"schemaVersion":2,"config":`+config+`,"layers":[`+layer+`]}`, "sha256:b", "md5:b", 1), ErrMalformed},
		"many layers":    {`{"schemaVersion":2,"config":` + config + `,"layers":[` + many(layer, maxLayers+1) + `]}`, ErrLimit},
		"index bomb":     {`{"schemaVersion":2,"manifests":[` + many(entry, maxEntries+1) + `]}`, ErrLimit},
		"empty objects":  {`{"schemaVersion":2,"manifests":[` + many(`{}`, 100_000) + `]}`, ErrMalformed},
		"deep":           {`{"schemaVersion":2,"x":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`, ErrMalformed},
		"many members": {`{"schemaVersion":2` + func() (s string) {
			for i := range maxKeys + 1 {
				s += fmt.Sprintf(`,"k%d":1`, i)
			}
			return s
		}() + `}`, ErrLimit},
		"too large": {`{"schemaVersion":2,"x":"` + strings.Repeat("x", maxManifest) + `"}`, ErrLimit},
		"other platforms": {`{"schemaVersion":2,"manifests":[{"mediaType":"` + string(types.OCIManifestSchema1) + `","digest":"sha256:` + strings.Repeat("c", 64) + `","size":5,"platform":{"os":"linux","architecture":"s390x\u001b[31m"}}]}`,
			ErrPlatform},
	}
}

func TestPull_Row32_HostileManifest(t *testing.T) {
	for name, c := range hostileManifests() {
		t.Run(name, func(t *testing.T) {
			r, s := newRegistry(t), newStore(t, Options{})
			r.serveManifest("application/json", []byte(c.body))
			_, err := s.Pull(context.Background(), r.host+"/x", anonymous())
			require.ErrorIs(t, err, c.want)
			require.Less(t, len(err.Error()), 2000)
			require.NotContains(t, err.Error(), "\x1b")
			nothingLeft(t, s)
		})
	}
}

// A manifest under a media type that it has not.
func TestPull_Row32_ContentTypeLies(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	img := sample(t)
	raw, err := img.RawManifest()
	require.NoError(t, err)
	ref := r.push(t, "x", img)
	r.serveManifest(string(types.OCIImageIndex), raw)
	_, err = s.Pull(context.Background(), ref, anonymous())
	require.ErrorIs(t, err, ErrMalformed)
	// A meaningless one does no harm.
	r.serveManifest("application/json; charset=utf-8", raw)
	pull(t, s, ref, anonymous())
}

// A manifest that is pinned by digest, or named by an index, must have it.
func TestPull_ManifestDigest(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	img := sample(t)
	raw, err := img.RawManifest()
	require.NoError(t, err)
	r.push(t, "x", img)
	r.serveManifest(string(types.OCIManifestSchema1), raw)
	_, err = s.Pull(context.Background(), r.host+"/x@sha256:"+strings.Repeat("0", 64), anonymous())
	require.ErrorIs(t, err, ErrDigest)
	ix := `{"schemaVersion":2,"manifests":[` + descText(string(types.OCIManifestSchema1), int64(len(raw)), "d") + `]}`
	r.front.Store(func(w http.ResponseWriter, req *http.Request) bool {
		switch {
		case strings.HasSuffix(req.URL.Path, "/manifests/latest"):
			io.WriteString(w, ix)
		case strings.Contains(req.URL.Path, "/manifests/"):
			w.Write(raw)
		default:
			return false
		}
		return true
	})
	_, err = s.Pull(context.Background(), r.host+"/x", anonymous())
	require.ErrorIs(t, err, ErrDigest)
}

// Indexes that contain each other end.
func TestPull_Row32_IndexBomb(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	bodies := map[string]string{}
	last := `{"schemaVersion":2,"manifests":[` + descText(string(types.OCIImageIndex), 5, "e") + `]}`
	for range 20 {
		h := digestOf([]byte(last))
		bodies[h.String()] = last
		last = fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, types.OCIImageIndex, h, len(last))
	}
	bodies["latest"] = last
	r.front.Store(func(w http.ResponseWriter, req *http.Request) bool {
		body, ok := bodies[filepath.Base(req.URL.Path)]
		if ok {
			io.WriteString(w, body)
		}
		return ok
	})
	_, err := s.Pull(context.Background(), r.host+"/x", anonymous())
	require.ErrorIs(t, err, ErrLimit)
	require.LessOrEqual(t, r.count("/manifests/"), maxNesting+1)
}

// An endless manifest, or one whose announced length is a lie.
func TestPull_Row32_HugeManifest(t *testing.T) {
	for name, announce := range map[string]string{"endless": "", "announced": strconv.FormatInt(1<<40, 10)} {
		t.Run(name, func(t *testing.T) {
			r, s := newRegistry(t), newStore(t, Options{})
			r.front.Store(func(w http.ResponseWriter, req *http.Request) bool {
				if !strings.Contains(req.URL.Path, "/manifests/") {
					return false
				}
				if announce != "" {
					w.Header().Set("Content-Length", announce)
				}
				for req.Context().Err() == nil {
					if _, err := w.Write(make([]byte, 64<<10)); err != nil {
						break
					}
				}
				return true
			})
			_, err := s.Pull(context.Background(), r.host+"/x", anonymous())
			require.ErrorIs(t, err, ErrLimit)
		})
	}
}

// A ping whose answer does not end is left.
func TestPull_EndlessPing(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{StallTimeout: 500 * time.Millisecond})
	ref := r.push(t, "x", sample(t))
	r.front.Store(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path != "/v2/" {
			return false
		}
		for req.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				break
			}
		}
		return true
	})
	begin := time.Now()
	pull(t, s, ref, anonymous())
	require.Less(t, time.Since(begin), 10*time.Second)
}

// Layers that are small and become large, and layers that are not what the
// configuration says.
func TestPull_Row31_HostileLayers(t *testing.T) {
	small := flatten.Limits{Bytes: 1 << 20, Entries: 1000}
	zeros := tarOf(t, file{name: "z", data: string(make([]byte, 200<<20))})
	tail := append(tarOf(t, file{name: "a", data: "a"}), make([]byte, 200<<20)...)
	var entries []file
	for i := range 2000 {
		entries = append(entries, file{name: "f" + strconv.Itoa(i)})
	}
	good := tarOf(t, file{name: "a", data: noise(9, 5000)})
	layer := func(raw []byte, diff []byte) v1.Layer { return &rawLayer{raw, digestOf(diff), types.OCILayer} }
	for _, c := range []struct {
		name  string
		layer v1.Layer
		want  error
	}{
		{"gzip bomb", gzLayer(t, zeros), ErrLimit},
		{"zstd bomb", zstdLayer(t, zeros), ErrLimit},
		{"bomb behind the end", zstdLayer(t, tail), ErrLimit},
		{"many entries", gzLayer(t, tarOf(t, entries...)), ErrLimit},
		{"wrong diffID", layer(gzipped(t, good), []byte("other")), ErrDigest},
		{"cut gzip", layer(gzipped(t, good)[:3000], good), ErrMalformed},
		{"cut zstd", layer(zstded(t, good)[:3000], good), ErrMalformed},
		{"cut tar", layer(good[:3000], good[:3000]), ErrMalformed},
		{"not tar", plainLayer([]byte(strings.Repeat("no tar here ", 1000))), ErrMalformed},
		{"escape", gzLayer(t, tarOf(t, file{name: "../../x", data: "x"})), ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, s := newRegistry(t), newStore(t, Options{})
			ref := r.push(t, "x", imageOf(t, gzLayer(t, tarOf(t, file{name: "base", data: "b"})), c.layer))
			o := anonymous()
			o.Limits = small
			_, err := s.Pull(context.Background(), ref, o)
			require.ErrorIs(t, err, c.want)
			require.ErrorIs(t, err, ErrContent)
			require.Contains(t, err.Error(), "layer 2")
			t.Log(err)
			nothingLeft(t, s)
		})
	}
}

// Configurations that must be refused.
func TestPull_Row32_HostileConfig(t *testing.T) {
	layer := tarOf(t, file{name: "a", data: "a"})
	diff := digestOf(layer).String()
	for name, body := range map[string]string{
		"not JSON":        `x`,
		"no diffIDs":      `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}`,
		"too many":        `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["` + diff + `","` + diff + `"]}}`,
		"not a digest":    `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["../../x"]}}`,
		"NUL":             `{"os":"linux","architecture":"amd64","config":{"Env":["A=\u0000"]},"rootfs":{"type":"layers","diff_ids":["` + diff + `"]}}`,
		"wrong type":      `{"os":"linux","architecture":"amd64","config":{"Env":"A=b"},"rootfs":{"type":"layers","diff_ids":["` + diff + `"]}}`,
		"config twice":    `{"os":"linux","architecture":"amd64","config":{},"Config":{},"rootfs":{"type":"layers","diff_ids":["` + diff + `"]}}`,
		"other platform":  `{"os":"windows","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["` + diff + `"]}}`,
		"half a platform": `{"architecture":"amd64","rootfs":{"type":"layers","diff_ids":["` + diff + `"]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			r, s := newRegistry(t), newStore(t, Options{})
			m, err := json.Marshal(v1.Manifest{
				SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
				Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: digestOf([]byte(body)), Size: int64(len(body))},
				Layers: []v1.Descriptor{{MediaType: types.OCIUncompressedLayer, Digest: digestOf(layer), Size: int64(len(layer))}},
			})
			require.NoError(t, err)
			r.front.Store(func(w http.ResponseWriter, req *http.Request) bool {
				switch {
				case strings.Contains(req.URL.Path, "/manifests/"):
					w.Write(m)
				case strings.HasSuffix(req.URL.Path, digestOf(layer).String()):
					w.Write(layer)
				case strings.Contains(req.URL.Path, "/blobs/"):
					io.WriteString(w, body)
				default:
					return false
				}
				return true
			})
			_, err = s.Pull(context.Background(), r.host+"/x", anonymous())
			if strings.Contains(name, "platform") {
				require.ErrorIs(t, err, ErrPlatform)
			} else {
				require.ErrorIs(t, err, ErrContent)
			}
			nothingLeft(t, s)
		})
	}
}

// A context that ends, ends a pull that hangs, and quickly.
func TestPull_Cancelled(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	img := sample(t)
	ref := r.push(t, "x", img)
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := fmt.Errorf("no longer wanted")
	r.onBlob(layerOf(t, img, 1), func(_ http.ResponseWriter, req *http.Request, _ int64) {
		cancel(cause)
		<-req.Context().Done()
	})
	begin := time.Now()
	_, err := s.Pull(ctx, ref, anonymous())
	require.ErrorIs(t, err, cause)
	require.Less(t, time.Since(begin), 5*time.Second)
	nothingLeft(t, s)
}

// An image without layers would leave the choice of the root to something else.
func TestPull_Row23_NoLayers(t *testing.T) {
	r, s := newRegistry(t), newStore(t, Options{})
	ref := r.push(t, "x", imageOf(t))
	_, err := s.Pull(context.Background(), ref, anonymous())
	require.ErrorIs(t, err, ErrMalformed)
	require.ErrorContains(t, err, "no layers")
	nothingLeft(t, s)
}
