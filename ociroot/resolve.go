package ociroot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// accept is what we understand of manifests.
func accept() http.Header {
	return http.Header{"Accept": {
		string(mediaIndex), string(mediaManifest), string(mediaDockerIndex), string(mediaDocker),
	}}
}

// head asks what a tag leads to without fetching it: registries that count
// pulls do not count this. A registry that does not say gives false.
func (c *client) head(ctx context.Context, ref reference) (v1.Hash, bool) {
	resp, w, err := c.get(ctx, http.MethodHead, "manifests", ref.Identifier(), accept(), 0, http.StatusOK)
	if err != nil {
		return v1.Hash{}, false
	}
	defer w.stop()
	resp.Body.Close()
	h, err := v1.NewHash(resp.Header.Get("Docker-Content-Digest"))
	return h, err == nil
}

// resolve fetches what ref names, and goes through indexes to the manifest of
// the platform. source is the digest that ref itself leads to.
func (c *client) resolve(ctx context.Context, ref reference, want Platform) (m *manifest, source v1.Hash, err error) {
	id, desc := ref.Identifier(), descriptor{Size: -1}
	if h, ok := ref.digest(); ok {
		desc.Digest = h
	}
	for depth := 0; ; depth++ {
		raw, got, err := c.manifest(ctx, id, desc)
		if err != nil {
			return nil, source, fmt.Errorf("manifest %s: %w", clean(id), err)
		}
		if depth == 0 {
			source = got.Digest
		}
		doc, err := parseDocument(raw, got)
		if err != nil {
			return nil, source, fmt.Errorf("manifest %s: %w", got.Digest, err)
		}
		if doc.manifest != nil {
			return doc.manifest, source, nil
		}
		if depth == maxNesting {
			return nil, source, exceeds("indexes within indexes, %d deep", maxNesting)
		}
		if desc, err = choose(doc.manifests, want); err != nil {
			return nil, source, err
		}
		id = desc.Digest.String()
	}
}

// manifest fetches one manifest or index and verifies it against desc, of which
// the digest may be missing, and the size -1.
func (c *client) manifest(ctx context.Context, id string, desc descriptor) (raw []byte, got descriptor, err error) {
	if desc.Size > maxManifest {
		return nil, got, exceeds("%d bytes; %d are allowed", desc.Size, maxManifest)
	}
	err = c.retry(ctx, maxTries, func(ctx context.Context) error {
		resp, w, err := c.get(ctx, http.MethodGet, "manifests", id, accept(), maxManifest+1, http.StatusOK)
		if err != nil {
			return err
		}
		defer w.stop()
		defer resp.Body.Close()
		if resp.ContentLength > maxManifest {
			return exceeds("%d bytes; %d are allowed", resp.ContentLength, maxManifest)
		}
		got = desc
		if k := resp.Header.Get("Content-Type"); got.MediaType == "" || kindOf(got.MediaType) == kindUnknown {
			got.MediaType = k
		} else if kindOf(k) != kindUnknown && kindOf(k) != kindOf(got.MediaType) {
			return malformed("it was announced as %q and came as %q", clean(got.MediaType), clean(k))
		}
		raw, err = io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
		if err == nil && len(raw) > maxManifest {
			err = exceeds("more than %d bytes", maxManifest)
		}
		return err
	})
	if err != nil {
		return nil, got, err
	}
	if err := verifyBytes(raw, desc); err != nil {
		return nil, got, err
	}
	got.Digest, got.Size = digestOf(raw), int64(len(raw))
	return raw, got, nil
}

// verifyBytes compares with what desc says, as far as it says anything.
func verifyBytes(raw []byte, desc descriptor) error {
	if desc.Size >= 0 && int64(len(raw)) != desc.Size {
		return fmt.Errorf("%w: it has %d bytes, not %d", ErrDigest, len(raw), desc.Size)
	}
	if h := digestOf(raw); desc.Digest.Hex != "" && h != desc.Digest {
		return fmt.Errorf("%w: it is %s, not %s", ErrDigest, h, desc.Digest)
	}
	return nil
}

func digestOf(raw []byte) v1.Hash {
	sum := sha256.Sum256(raw)
	return hashOf(sum[:])
}

func hashOf(sum []byte) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum)}
}
