package ociroot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Image is one image of the cache.
type Image struct {
	Ref        string    `json:"ref"`              // full name; "" if it has none
	Digest     string    `json:"digest"`           // of the manifest of one platform: "sha256:…"
	Source     string    `json:"source,omitempty"` // what the name led to, if that was an index
	MediaType  string    `json:"mediaType"`
	Config     Config    `json:"config"`
	Layers     []Layer   `json:"layers"`     // bottom first
	LayersSize int64     `json:"layersSize"` // compressed
	Size       int64     `json:"size"`       // of the root file system; 0 if it has to be made first
	PulledAt   time.Time `json:"pulledAt,omitzero"`
}

// Layer is one layer of an image.
type Layer struct {
	Digest       string `json:"digest"`
	DiffID       string `json:"diffID,omitempty"`
	MediaType    string `json:"mediaType"`
	Size         int64  `json:"size"`
	Uncompressed int64  `json:"uncompressed,omitempty"` // its tar stream's length, once known
}

// image describes an entry of index.json, from its root if there is one, and
// otherwise from its blobs.
func (s *Store) image(entry *v1.Descriptor) (*Image, error) {
	info, err := s.readInfo(entry.Digest.Hex)
	if errors.Is(err, fs.ErrNotExist) {
		info, err = s.infoFromBlobs(descriptor{MediaType: string(entry.MediaType), Digest: entry.Digest, Size: entry.Size})
	}
	if err != nil {
		return nil, err
	}
	im := info.image()
	im.Ref, im.Source = entryName(entry), entry.Annotations[annSource]
	im.PulledAt, _ = time.Parse(time.RFC3339Nano, entry.Annotations[annPulled])
	return im, nil
}

func (i *rootInfo) image() *Image {
	im := &Image{
		Digest: i.Digest, MediaType: i.MediaType, Config: i.Config.clone(), Layers: slices.Clone(i.Layers), Size: i.Size,
	}
	for _, l := range i.Layers {
		im.LayersSize += l.Size
	}
	return im
}

// infoFromBlobs describes an image whose root has to be made.
func (s *Store) infoFromBlobs(d descriptor) (*rootInfo, error) {
	m, cfg, diffIDs, err := s.readImage(d)
	if err != nil {
		return nil, err
	}
	info := &rootInfo{Digest: m.desc.Digest.String(), MediaType: m.desc.MediaType, Manifest: m.desc.Size, Config: cfg}
	for i, l := range m.layers {
		info.Layers = append(info.Layers, Layer{Digest: l.Digest.String(), DiffID: diffIDs[i].String(), MediaType: l.MediaType, Size: l.Size})
	}
	return info, nil
}

// readImage reads and verifies manifest and configuration from the layout.
func (s *Store) readImage(d descriptor) (*manifest, Config, []v1.Hash, error) {
	raw, err := s.readBlob(d, maxManifest)
	if err != nil {
		return nil, Config{}, nil, err
	}
	d.Size = int64(len(raw))
	doc, err := parseDocument(raw, d)
	if err != nil {
		return nil, Config{}, nil, err
	}
	if doc.manifest == nil {
		return nil, Config{}, nil, malformed("%s is an index, not an image", d.Digest)
	}
	raw, err = s.readBlob(doc.manifest.config, maxConfig)
	if err != nil {
		return nil, Config{}, nil, err
	}
	cfg, diffIDs, err := parseConfig(raw, len(doc.manifest.layers))
	return doc.manifest, cfg, diffIDs, err
}

// find returns the entry that name leads to: a reference, or a digest of a
// manifest (at least 12 digits of it).
func (s *Store) find(name string) (*v1.Descriptor, error) {
	ix, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	if hex, ok := strings.CutPrefix(name, "sha256:"); ok {
		return findDigest(ix, hex)
	}
	if d := named(ix, name); d != nil && name != "" {
		return d, nil // as another tool may have written it
	}
	ref, err := parseReference(name, false)
	if err != nil {
		return nil, err
	}
	if d := named(ix, ref.full); d != nil {
		return d, nil
	}
	return nil, ErrNoImage
}

const shortestDigest = 12

func findDigest(ix *index, hex string) (*v1.Descriptor, error) {
	if len(hex) < shortestDigest || len(hex) > 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return nil, fmt.Errorf("%w: a digest has %d to 64 hexadecimal digits", ErrReference, shortestDigest)
	}
	var found *v1.Descriptor
	for i := range ix.Manifests {
		d := &ix.Manifests[i]
		if d.Digest.Algorithm != "sha256" || !strings.HasPrefix(d.Digest.Hex, hex) {
			continue
		}
		if found != nil && found.Digest != d.Digest {
			return nil, fmt.Errorf("%w: more than one image's digest begins so", ErrReference)
		}
		if found == nil {
			found = d
		}
	}
	if found == nil {
		return nil, ErrNoImage
	}
	return found, nil
}

// Inspect returns an image of the cache by its reference, or by its digest
// "sha256:…", at least 12 digits of it. None: [ErrNoImage].
func (s *Store) Inspect(_ context.Context, name string) (*Image, error) {
	d, err := s.find(name)
	if err != nil {
		return nil, fail("inspect", clean(name), err)
	}
	im, err := s.image(d)
	return im, fail("inspect", clean(name), err)
}

// List returns the images of the cache by name, those without one last. What is
// wrong with one image does not hide the others: it is reported beside them.
func (s *Store) List(_ context.Context) ([]*Image, error) {
	ix, err := s.readIndex()
	if err != nil {
		return nil, fail("list", "", err)
	}
	var list []*Image
	var errs []error
	for i := range ix.Manifests {
		d := &ix.Manifests[i]
		if d.Digest.Algorithm != "sha256" {
			continue
		}
		im, err := s.image(d)
		if err != nil {
			name := entryName(d)
			if name == "" {
				name = d.Digest.String()
			}
			errs = append(errs, fail("list", clean(name), err))
			continue
		}
		list = append(list, im)
	}
	slices.SortFunc(list, func(a, b *Image) int {
		if (a.Ref == "") != (b.Ref == "") {
			return strings.Compare(b.Ref, a.Ref)
		}
		return strings.Compare(a.Ref+a.Digest, b.Ref+b.Digest)
	})
	return list, errors.Join(errs...)
}

// OpenRoot returns the image's root file system, an EROFS image, read-only. As
// long as the descriptor, a copy of it or an heir of it is open, [Store.Prune]
// does not remove the root. A root that is gone is made again from the image's
// blobs, without the network.
func (s *Store) OpenRoot(ctx context.Context, im *Image) (*os.File, error) {
	h, err := v1.NewHash(im.Digest)
	if err != nil || h.Algorithm != "sha256" {
		return nil, &Error{Op: "open root", Ref: clean(im.Digest), Err: fmt.Errorf("%w: not a digest", ErrReference)}
	}
	f, err := s.openRoot(ctx, h)
	if errors.Is(err, fs.ErrNotExist) {
		if err = s.rebuild(ctx, h); err == nil {
			f, err = s.openRoot(ctx, h)
		}
	}
	return f, fail("open root", im.Digest, err)
}

func (s *Store) openRoot(ctx context.Context, h v1.Hash) (*os.File, error) {
	// Exclusive locks are held for a moment only: by whoever has just made the
	// root, and by a prune that looks whether it is in use.
	f, err := lock(ctx, s.rootPath(h.Hex), os.O_RDONLY, shared, nil)
	if err != nil {
		return nil, err
	}
	if _, err := s.readInfo(h.Hex); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// rebuild makes a root from blobs that are there.
func (s *Store) rebuild(ctx context.Context, h v1.Hash) error {
	l, err := s.lease(ctx)
	if err != nil {
		return err
	}
	defer l.end()
	if err := l.add(ctx, h); err != nil {
		return err
	}
	m, cfg, diffIDs, err := s.readImage(descriptor{Digest: h, Size: -1})
	if err != nil {
		return fmt.Errorf("%w (pull the image again)", err)
	}
	if err := l.add(ctx, m.digests()...); err != nil {
		return err
	}
	cv := &converter{s: s, m: m, cfg: cfg, diffIDs: diffIDs, limits: s.o.Limits}
	if _, err = cv.root(ctx); errors.Is(err, errDamaged) {
		err = fmt.Errorf("%w (pull the image again)", err)
	}
	return err
}
