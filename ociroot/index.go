package ociroot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// index is index.json: the images that have names, and those that were loaded
// without one. It is a local file, but other tools may have written it.
type index = v1.IndexManifest

const (
	mediaIndex       = types.OCIImageIndex
	mediaManifest    = types.OCIManifestSchema1
	mediaDockerIndex = types.DockerManifestList
	mediaDocker      = types.DockerManifestSchema2

	maxIndexFile = 64 << 20
)

// Annotations of an entry. The name is where the image-spec puts it, in full;
// ours keep what the tag led to, to tell cheaply whether it moved.
const (
	annRefName   = "org.opencontainers.image.ref.name"
	annImageName = "io.containerd.image.name"
	annSource    = "com.github.sandpit-vm.source"
	annPulled    = "com.github.sandpit-vm.pulled"
)

// readIndex needs no lock: the file is replaced as a whole.
func (s *Store) readIndex() (*index, error) {
	f, err := os.Open(s.indexPath())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxIndexFile+1))
	if err != nil {
		return nil, err
	}
	var ix index
	if len(data) > maxIndexFile {
		err = errors.New("too large")
	} else {
		err = json.Unmarshal(data, &ix)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w (remove it to forget the names of all images)", ErrCorrupt, s.indexPath(), err)
	}
	return &ix, nil
}

func (s *Store) writeIndex(ix *index) error {
	if ix.Manifests == nil {
		ix.Manifests = []v1.Descriptor{} // null is not an index
	}
	data, err := json.MarshalIndent(ix, "", "  ")
	if err != nil {
		return err
	}
	if len(data) >= maxIndexFile {
		// Nobody could read it, and every name would be lost.
		return exceeds("the cache has too many images: index.json would have more than %d bytes", maxIndexFile)
	}
	return s.replace(s.indexPath(), append(data, '\n'))
}

// changeIndex lets change edit the index. Called with the store locked.
func (s *Store) changeIndex(change func(*index) error) error {
	ix, err := s.readIndex()
	if errors.Is(err, fs.ErrNotExist) { // somebody removed the cache meanwhile
		ix, err = &index{SchemaVersion: 2, MediaType: mediaIndex}, nil
	}
	if err != nil {
		return err
	}
	if err := change(ix); err != nil {
		return err
	}
	return s.writeIndex(ix)
}

// entryName is the full name of an entry, "" if it has none.
func entryName(d *v1.Descriptor) string {
	if n := d.Annotations[annRefName]; n != "" {
		return n
	}
	return d.Annotations[annImageName]
}

// named finds the entry of a full name.
func named(ix *index, name string) *v1.Descriptor {
	for i := range ix.Manifests {
		if d := &ix.Manifests[i]; entryName(d) == name && d.Digest.Algorithm == "sha256" {
			return d
		}
	}
	return nil
}

// setEntry makes name lead to d and to nothing else. An entry without a name
// gives way to one of the same content that has one.
func setEntry(ix *index, name string, source v1.Hash, d v1.Descriptor, now time.Time) {
	ix.Manifests = slices.DeleteFunc(ix.Manifests, func(old v1.Descriptor) bool {
		n := entryName(&old)
		return n == name && n != "" || n == "" && old.Digest == d.Digest
	})
	if name == "" && slices.ContainsFunc(ix.Manifests, func(old v1.Descriptor) bool { return old.Digest == d.Digest }) {
		return
	}
	d.Annotations = map[string]string{annPulled: now.UTC().Format(time.RFC3339Nano)}
	if name != "" {
		d.Annotations[annRefName] = name
		d.Annotations[annImageName] = name
	}
	if source.Hex != "" && source != d.Digest {
		d.Annotations[annSource] = source.String()
	}
	ix.Manifests = append(ix.Manifests, d)
}

// entry is what index.json says of a manifest.
func (m *manifest) entry(cfg Config) v1.Descriptor {
	return v1.Descriptor{
		MediaType: types.MediaType(m.desc.MediaType),
		Digest:    m.desc.Digest,
		Size:      m.desc.Size,
		Platform:  &v1.Platform{OS: cfg.OS, Architecture: cfg.Architecture, Variant: cfg.Variant},
	}
}
