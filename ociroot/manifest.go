package ociroot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Bounds on what describes an image. Real manifests have a few kilobytes, and
// at most 127 layers where Docker made them.
const (
	maxManifest = 4 << 20
	maxConfig   = 4 << 20
	maxLayers   = 512
	maxEntries  = 2048 // of an index
	maxNesting  = 3    // indexes within indexes
	maxKeys     = 256  // of a JSON object at the top
)

// descriptor is what we read of one. Annotations, URLs and embedded data are of
// no use here, and unread they cost nothing.
type descriptor struct {
	MediaType string    `json:"mediaType"`
	Digest    v1.Hash   `json:"digest"`
	Size      int64     `json:"size"`
	Platform  *Platform `json:"platform,omitempty"`
}

// manifest is one image's.
type manifest struct {
	desc   descriptor // of the manifest itself
	raw    []byte
	config descriptor
	layers []descriptor
}

// compressedSize is that of all layers, as the manifest says.
func (m *manifest) compressedSize() (n int64) {
	for _, l := range m.layers {
		n += l.Size
	}
	return n
}

// digests are those of everything that the image consists of.
func (m *manifest) digests() []v1.Hash {
	list := []v1.Hash{m.desc.Digest, m.config.Digest}
	for _, l := range m.layers {
		list = append(list, l.Digest)
	}
	return list
}

// topLevel splits a JSON object into its members. A name that comes twice, in
// whatever case, is refused: two readers could see two images in the same bytes.
func topLevel(data []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, malformed("not a JSON object")
	}
	members, seen := map[string]json.RawMessage{}, map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, malformed("%w", err)
		}
		key, ok := t.(string)
		if !ok {
			return nil, malformed("a member without a name")
		}
		if fold := strings.ToLower(key); seen[fold] {
			return nil, malformed("%q comes twice", clean(key))
		} else {
			seen[fold] = true
		}
		if len(seen) > maxKeys {
			return nil, exceeds("more than %d members", maxKeys)
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, malformed("%w", err)
		}
		members[key] = v
	}
	if _, err := dec.Token(); err != nil {
		return nil, malformed("%w", err)
	}
	if dec.More() {
		return nil, malformed("data after the JSON object")
	}
	return members, nil
}

// descriptors reads an array of them, and gives up at the first too many.
func descriptors(raw json.RawMessage, most int) ([]descriptor, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return nil, malformed("not an array of descriptors")
	}
	var list []descriptor
	for dec.More() {
		if len(list) == most {
			return nil, exceeds("more than %d descriptors", most)
		}
		var d descriptor
		if err := dec.Decode(&d); err != nil {
			return nil, malformed("descriptor %d: %w", len(list), err)
		}
		if err := d.check(); err != nil {
			return nil, fmt.Errorf("descriptor %d: %w", len(list), err)
		}
		list = append(list, d)
	}
	return list, nil
}

func (d *descriptor) check() error {
	switch {
	case d.Digest.Algorithm != "sha256":
		return malformed("digest %q: only sha256 is supported", clean(d.Digest.String()))
	case d.Size < 0:
		return malformed("size %d of %s", d.Size, d.Digest)
	case len(d.MediaType) > 256:
		return malformed("media type of %d bytes", len(d.MediaType))
	}
	return nil
}

type kind int

const (
	kindUnknown kind = iota
	kindManifest
	kindIndex
)

func kindOf(mediaType string) kind {
	mediaType, _, _ = strings.Cut(mediaType, ";")
	switch types.MediaType(strings.TrimSpace(mediaType)) {
	case mediaManifest, mediaDocker:
		return kindManifest
	case mediaIndex, mediaDockerIndex:
		return kindIndex
	}
	return kindUnknown
}

// document is a manifest or an index.
type document struct {
	manifest  *manifest
	manifests []descriptor // of an index
}

// parseDocument reads a manifest or an index. What it is must be the same by
// its members, by its own media type, and by the media type under which it was
// announced (GO-2022-0360).
func parseDocument(raw []byte, desc descriptor) (*document, error) {
	if len(raw) > maxManifest {
		return nil, exceeds("a manifest of more than %d bytes", maxManifest)
	}
	top, err := topLevel(raw)
	if err != nil {
		return nil, err
	}
	own, err := checkVersion(top)
	if err != nil {
		return nil, err
	}
	_, isIndex := top["manifests"]
	_, hasLayers := top["layers"]
	_, hasConfig := top["config"]
	what := kindManifest
	switch {
	case isIndex && (hasLayers || hasConfig):
		return nil, malformed("both a manifest and an index")
	case isIndex:
		what = kindIndex
	case !hasLayers || !hasConfig:
		return nil, malformed("neither a manifest nor an index")
	}
	for _, claimed := range []string{own, desc.MediaType} {
		if k := kindOf(claimed); k != kindUnknown && k != what {
			return nil, malformed("media type %q does not fit the content", clean(claimed))
		}
	}
	if own != "" {
		desc.MediaType = own
	}
	if isIndex {
		list, err := descriptors(top["manifests"], maxEntries)
		return &document{manifests: list}, err
	}
	m, err := parseManifest(raw, top, desc)
	return &document{manifest: m}, err
}

func checkVersion(top map[string]json.RawMessage) (mediaType string, err error) {
	var version int
	if v, ok := top["schemaVersion"]; ok {
		if json.Unmarshal(v, &version) != nil || version != 2 {
			return "", malformed("schema version %s: only 2 is supported", clean(string(v)))
		}
	} else {
		return "", malformed("no schema version")
	}
	if v, ok := top["mediaType"]; ok {
		if err := json.Unmarshal(v, &mediaType); err != nil {
			return "", malformed("media type: %w", err)
		}
	}
	if mediaType != "" && kindOf(mediaType) == kindUnknown {
		return "", malformed("media type %q is neither a manifest's nor an index's", clean(mediaType))
	}
	return mediaType, nil
}

func parseManifest(raw []byte, top map[string]json.RawMessage, desc descriptor) (*manifest, error) {
	m := &manifest{desc: desc, raw: raw}
	if kindOf(m.desc.MediaType) == kindUnknown {
		m.desc.MediaType = string(mediaManifest) // the spec lets manifests leave it out
	}
	if err := json.Unmarshal(top["config"], &m.config); err != nil {
		return nil, malformed("config: %w", err)
	}
	if err := m.config.check(); err != nil {
		return nil, err
	}
	if m.config.Size > maxConfig {
		return nil, exceeds("a configuration of %d bytes; %d are allowed", m.config.Size, maxConfig)
	}
	var err error
	if m.layers, err = descriptors(top["layers"], maxLayers); err != nil {
		return nil, fmt.Errorf("layers: %w", err)
	}
	if len(m.layers) == 0 {
		return nil, malformed("no layers: nothing could run in it")
	}
	for i, l := range m.layers {
		if !isLayerType(l.MediaType) {
			return nil, malformed("layer %d is of type %q, which no root file system can be made of", i, clean(l.MediaType))
		}
	}
	return m, nil
}

// isLayerType knows a tar archive's media types. The compression that they name
// is not trusted: decompress looks at the data.
func isLayerType(t string) bool {
	t, _, _ = strings.Cut(t, ";")
	base, packing, _ := strings.Cut(strings.TrimSpace(t), "+")
	if packing != "" && packing != "gzip" && packing != "zstd" { // encrypted, for one
		return false
	}
	switch base {
	case "application/vnd.oci.image.layer.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.diff.tar.gzip",
		"application/vnd.docker.image.rootfs.diff.tar.zstd",
		"application/vnd.docker.image.rootfs.foreign.diff.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":
		return true
	}
	return false
}
