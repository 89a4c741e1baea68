package ociroot

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// layoutEntry is an entry of an archive's index.json.
type layoutEntry struct {
	descriptor
	Annotations map[string]string `json:"annotations"`
}

// layoutImages finds the images of an OCI layout. Entries of other platforms,
// and things that are no images, are passed over if there is anything else.
func (a *archive) layoutImages(want Platform) ([]loaded, error) {
	top, err := topLevel(a.index)
	if err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	if _, err := descriptors(top["manifests"], maxEntries); err != nil { // bounds it
		return nil, fmt.Errorf("index.json: %w", err)
	}
	var entries []layoutEntry
	if err := json.Unmarshal(top["manifests"], &entries); err != nil {
		return nil, malformed("index.json: %w", err)
	}
	var found []loaded
	var passed error
	names := 0
	for i, e := range entries {
		l, err := a.layoutImage(e.descriptor, want)
		switch {
		case err == nil:
		case errors.Is(err, ErrPlatform) && len(entries) > 1:
			passed = err
			continue
		default:
			return nil, fmt.Errorf("image %d of the archive: %w", i+1, err)
		}
		if names++; names > maxArchiveNames {
			return nil, exceeds("more than %d names", maxArchiveNames)
		}
		name, err := layoutName(e.Annotations)
		if err != nil {
			return nil, fmt.Errorf("image %d of the archive: %w", i+1, err)
		}
		found = addLoaded(found, l, name)
		if len(found) > maxArchiveImage {
			return nil, exceeds("more than %d images", maxArchiveImage)
		}
	}
	if len(found) == 0 {
		if passed == nil {
			passed = malformed("no image in the archive")
		}
		return nil, passed
	}
	return found, nil
}

// addLoaded keeps one loaded per manifest, with all its names.
func addLoaded(found []loaded, l loaded, name string) []loaded {
	i := slices.IndexFunc(found, func(o loaded) bool { return o.m.desc.Digest == l.m.desc.Digest })
	if i < 0 {
		found, i = append(found, l), len(found)
	}
	if name != "" && !slices.Contains(found[i].names, name) {
		found[i].names = append(found[i].names, name)
	}
	return found
}

// layoutImage goes through indexes to the manifest of the platform.
func (a *archive) layoutImage(d descriptor, want Platform) (loaded, error) {
	source := d.Digest
	for depth := 0; ; depth++ {
		if d.Size > maxManifest {
			return loaded{}, exceeds("a manifest of %d bytes", d.Size)
		}
		raw, err := a.in.s.readBlob(d, maxManifest)
		if err != nil {
			return loaded{}, missing(err)
		}
		doc, err := parseDocument(raw, d)
		if err != nil {
			return loaded{}, err
		}
		if doc.manifest != nil {
			l, err := a.complete(doc.manifest.desc, want)
			l.source = source
			return l, err
		}
		if depth == maxNesting {
			return loaded{}, exceeds("indexes within indexes, %d deep", maxNesting)
		}
		if d, err = choose(doc.manifests, want); err != nil {
			return loaded{}, err
		}
	}
}

// layoutName is the name that an archive gives an image. Some writers put the
// full name into the annotation of the specification, some the tag alone, and
// then the full name stands in another one.
func layoutName(annotations map[string]string) (string, error) {
	name := annotations[annImageName]
	if name == "" {
		name = annotations[annRefName]
	}
	if name == "" {
		return "", nil
	}
	ref, err := parseReference(name, false)
	if err != nil {
		return "", malformed("the image's name %q: %w", clean(name), err)
	}
	return ref.full, nil
}

// dockerEntry is one image of a docker-save archive's manifest.json.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func parseDockerManifest(raw []byte) ([]dockerEntry, error) {
	var list []dockerEntry
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return nil, malformed("manifest.json: not an array")
	}
	for dec.More() {
		if len(list) == maxArchiveImage {
			return nil, exceeds("more than %d images", maxArchiveImage)
		}
		var e dockerEntry
		if err := dec.Decode(&e); err != nil {
			return nil, malformed("manifest.json: %w", err)
		}
		switch {
		case len(e.Layers) > maxLayers:
			return nil, exceeds("more than %d layers", maxLayers)
		case len(e.Layers) == 0:
			return nil, malformed("an image has no layers: nothing could run in it")
		case len(e.RepoTags) > maxEntries:
			return nil, exceeds("more than %d names", maxEntries)
		}
		list = append(list, e)
	}
	if len(list) == 0 {
		return nil, malformed("no image in the archive")
	}
	return list, nil
}
