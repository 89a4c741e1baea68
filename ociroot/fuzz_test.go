package ociroot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

func FuzzDocument(f *testing.F) {
	for _, c := range hostileManifests() {
		if len(c.body) < 10_000 {
			f.Add([]byte(c.body), "application/json")
		}
	}
	img := sample(f)
	raw, err := img.RawManifest()
	require.NoError(f, err)
	f.Add(raw, string(mediaManifest))
	ix, _ := multi(f)
	raw, err = ix.RawManifest()
	require.NoError(f, err)
	f.Add(raw, string(mediaIndex))
	f.Fuzz(func(t *testing.T, raw []byte, mediaType string) {
		doc, err := parseDocument(raw, descriptor{MediaType: mediaType, Size: -1})
		if err != nil {
			require.ErrorIs(t, err, ErrContent)
			require.Equal(t, -1, strings.IndexFunc(err.Error(), func(r rune) bool { return r < ' ' && r != '\n' }), "%q", err)
			return
		}
		require.True(t, json.Valid(raw))
		if m := doc.manifest; m != nil {
			require.NotEmpty(t, m.layers)
			require.LessOrEqual(t, len(m.layers), maxLayers)
			for _, h := range m.digests()[1:] {
				requirePlainHash(t, h.Hex)
			}
			require.NotEqual(t, kindIndex, kindOf(mediaType))
			return
		}
		require.LessOrEqual(t, len(doc.manifests), maxEntries)
		d, err := choose(doc.manifests, Platform{OS: "linux", Architecture: "amd64"})
		if err == nil {
			requirePlainHash(t, d.Digest.Hex)
		}
	})
}

// requirePlainHash says that a digest may be a file's name.
func requirePlainHash(t *testing.T, hex string) {
	require.Len(t, hex, 64)
	require.Empty(t, strings.Trim(hex, "0123456789abcdef"))
}

func FuzzConfig(f *testing.F) {
	raw, err := sample(f).RawConfigFile()
	require.NoError(f, err)
	f.Add(raw)
	f.Add([]byte(`{"config":{"Env":["A=\u0000"],"ExposedPorts":{"80/tcp":{}}},"rootfs":{"diff_ids":[null,"sha512:0",3]}}`))
	f.Add([]byte(`{"created":"9999-99-99","config":null,"rootfs":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, ids, err := parseConfig(raw, 3)
		if err != nil {
			require.ErrorIs(t, err, ErrContent)
			return
		}
		require.Len(t, ids, 3)
		for _, h := range ids {
			requirePlainHash(t, h.Hex)
		}
		// What is kept beside the root is read back as the same.
		data, err := json.Marshal(c)
		require.NoError(t, err)
		var again Config
		require.NoError(t, json.Unmarshal(data, &again))
		require.Equal(t, len(c.Env), len(again.Env))
		require.True(t, c.Created.Equal(again.Created))
	})
}

func FuzzReference(f *testing.F) {
	for _, s := range []string{"debian", "localhost:5000/a/b:v1", "a@sha256:" + strings.Repeat("a", 64), "[::1]:5000/a", "../a", "a/../b", "A", "a\x00", "a//b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		full, err := Canonical(s)
		if err != nil {
			require.ErrorIs(t, err, ErrReference)
			return
		}
		again, err := Canonical(full)
		require.NoError(t, err)
		require.Equal(t, full, again)
		require.NotContains(t, full, "..")
		require.NotContains(t, full, "//")
		require.Equal(t, -1, strings.IndexFunc(full, func(r rune) bool { return r <= ' ' || r > '~' }), "%q", full)
	})
}

func FuzzDecompress(f *testing.F) {
	data := tarOf(f, file{name: "a", data: noise(1, 2000)})
	for _, seed := range [][]byte{data, gzipped(f, data), zstded(f, data), gzipped(f, data)[:700], {0x1f, 0x8b, 8}, []byte("BZh9"), {0x50, 0x2a, 0x4d, 0x18}} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		u, _, err := decompress(bytes.NewReader(data))
		if err == nil {
			a := readAhead(&streamLimit{r: u, left: 1 << 20})
			_, err = io.Copy(io.Discard, a)
			a.Close()
			u.Close()
		}
		if err != nil {
			require.ErrorIs(t, err, ErrContent)
		}
	})
}

func FuzzLoad(f *testing.F) {
	f.Add(legacy(f, nil))
	f.Add(layoutOf(f, func(map[string]string) {}))
	f.Add(gzipped(f, legacy(f, nil)))
	s := newStore(f, Options{Limits: flatten.Limits{Bytes: 1 << 20, Entries: 1000}})
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		list, err := s.Load(ctx, bytes.NewReader(data), LoadOptions{})
		if err != nil {
			require.True(t, errors.Is(err, ErrContent) || errors.Is(err, ErrPlatform), err)
		}
		for _, im := range list {
			root, err := s.OpenRoot(ctx, im)
			require.NoError(t, err)
			require.NoError(t, root.Close())
		}
		_, err = s.Prune(ctx, PruneOptions{All: true})
		require.NoError(t, err)
		requireExactly(t, s)
	})
}
