package ociroot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// dockerImages makes OCI manifests for the images of a docker-save archive,
// which has none.
func (a *archive) dockerImages(ctx context.Context, want Platform) ([]loaded, error) {
	entries, err := parseDockerManifest(a.manifest)
	if err != nil {
		return nil, err
	}
	var found []loaded
	var passed error
	names := 0
	for i, e := range entries {
		l, err := a.dockerImage(ctx, e, want)
		if errors.Is(err, ErrPlatform) && len(entries) > 1 {
			passed = err
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("image %d of the archive: %w", i+1, err)
		}
		found = addLoaded(found, l, "")
		if names += len(e.RepoTags); names > maxArchiveNames {
			return nil, exceeds("more than %d names", maxArchiveNames)
		}
		for _, tag := range e.RepoTags {
			ref, err := parseReference(tag, false)
			if err != nil {
				return nil, malformed("the image's name %q: %w", clean(tag), err)
			}
			found = addLoaded(found, l, ref.full)
		}
	}
	if len(found) == 0 {
		return nil, passed
	}
	return found, nil
}

func (a *archive) dockerImage(ctx context.Context, e dockerEntry, want Platform) (loaded, error) {
	config, err := a.file(e.Config)
	if err != nil {
		return loaded{}, err
	}
	layers := make([]descriptor, len(e.Layers))
	for i, name := range e.Layers {
		if layers[i], err = a.file(name); err != nil {
			return loaded{}, fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	d, err := a.in.assemble(ctx, config, layers)
	if err != nil {
		return loaded{}, err
	}
	return a.complete(d, want)
}

// assemble writes a manifest for blobs that are there.
func (in *intake) assemble(ctx context.Context, config descriptor, layers []descriptor) (descriptor, error) {
	m := v1.Manifest{
		SchemaVersion: 2,
		MediaType:     mediaManifest,
		Config:        v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: config.Digest, Size: config.Size},
	}
	for _, l := range layers {
		c, err := in.s.sniffBlob(l)
		if err != nil {
			return descriptor{}, err
		}
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: types.MediaType(c.mediaType()), Digest: l.Digest, Size: l.Size})
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return descriptor{}, err
	}
	d, err := in.putBytes(ctx, raw)
	d.MediaType = string(mediaManifest)
	return d, err
}
