package ociroot

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Format is that of an image archive.
type Format string

// The formats of [Store.Save]. [Store.Load] tells them apart by itself.
const (
	FormatOCI    Format = "oci"    // a tar archive of an OCI image layout
	FormatDocker Format = "docker" // what `docker load` reads, of any version
)

// Save writes images as one archive: references, or digests "sha256:…". Layers
// are written as they are, compressed or not. Same images, same bytes.
func (s *Store) Save(ctx context.Context, w io.Writer, format Format, names ...string) error {
	err := s.save(ctx, w, format, names)
	ref := ""
	if len(names) == 1 {
		ref = clean(names[0])
	}
	return fail("save", ref, err)
}

func (s *Store) save(ctx context.Context, w io.Writer, format Format, names []string) error {
	if format != FormatOCI && format != FormatDocker {
		return fmt.Errorf("%w: the format %q is neither oci nor docker", ErrOptions, clean(string(format)))
	}
	if len(names) == 0 {
		return fmt.Errorf("%w: no image to save", ErrOptions)
	}
	l, err := s.lease(ctx)
	if err != nil {
		return err
	}
	defer l.end()
	sv := &saver{s: s, tw: tar.NewWriter(w), written: map[v1.Hash]bool{}}
	for _, name := range names {
		if err := sv.add(ctx, l, name); err != nil {
			return fmt.Errorf("%s: %w", clean(name), err)
		}
	}
	if err := sv.write(ctx, format); err != nil {
		return err
	}
	return sv.tw.Close()
}

// saver writes one archive.
type saver struct {
	s       *Store
	tw      *tar.Writer
	written map[v1.Hash]bool
	images  []savedImage
}

type savedImage struct {
	names []string
	entry v1.Descriptor
	m     *manifest
}

// add looks an image up, and makes that it stays while it is written.
func (sv *saver) add(ctx context.Context, l *lease, name string) error {
	entry, err := sv.s.find(name)
	if err != nil {
		return err
	}
	if err := l.add(ctx, entry.Digest); err != nil {
		return err
	}
	m, _, _, err := sv.s.readImage(descriptor{MediaType: string(entry.MediaType), Digest: entry.Digest, Size: entry.Size})
	if err != nil {
		return err
	}
	if err := l.add(ctx, m.digests()...); err != nil {
		return err
	}
	full := entryName(entry)
	for i := range sv.images {
		if sv.images[i].entry.Digest == entry.Digest {
			sv.images[i].names = append(sv.images[i].names, full)
			return nil
		}
	}
	sv.images = append(sv.images, savedImage{[]string{full}, *entry, m})
	return nil
}

// write puts what describes the images first: then a reader that gets the
// archive as a stream knows what comes.
func (sv *saver) write(ctx context.Context, format Format) error {
	var err error
	if format == FormatOCI {
		err = sv.layoutHead()
	} else {
		err = sv.dockerHead()
	}
	for _, im := range sv.images {
		for _, d := range append([]descriptor{im.m.desc, im.m.config}, im.m.layers...) {
			if err == nil {
				err = sv.blob(ctx, d)
			}
		}
	}
	return err
}

func (sv *saver) layoutHead() error {
	ix := index{SchemaVersion: 2, MediaType: mediaIndex}
	for _, im := range sv.images {
		for _, name := range im.names {
			e := im.entry
			e.Annotations = nil
			if name != "" {
				e.Annotations = map[string]string{annRefName: name, annImageName: name}
			}
			ix.Manifests = append(ix.Manifests, e)
		}
	}
	if err := sv.bytes("oci-layout", []byte(layoutFile)); err != nil {
		return err
	}
	return sv.json("index.json", ix)
}

// dockerHead is the manifest.json of `docker save`. Its paths are where current
// versions of Docker have the files, too; older ones take any.
func (sv *saver) dockerHead() error {
	list := []dockerEntry{}
	for _, im := range sv.images {
		e := dockerEntry{Config: blobName(im.m.config), RepoTags: []string{}}
		for _, name := range im.names {
			if ref, err := parseReference(name, false); err == nil && name != "" {
				if _, pinned := ref.digest(); !pinned { // a tag is needed here
					e.RepoTags = append(e.RepoTags, name)
				}
			}
		}
		for _, d := range im.m.layers {
			e.Layers = append(e.Layers, blobName(d))
		}
		list = append(list, e)
	}
	return sv.json("manifest.json", list)
}

func blobName(d descriptor) string { return "blobs/sha256/" + d.Digest.Hex }

func (sv *saver) json(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return sv.bytes(name, data)
}

func (sv *saver) bytes(name string, data []byte) error {
	if err := sv.header(name, int64(len(data))); err != nil {
		return err
	}
	_, err := sv.tw.Write(data)
	return err
}

func (sv *saver) header(name string, size int64) error {
	return sv.tw.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0),
	})
}

// blob writes one, once, and verifies it on the way.
func (sv *saver) blob(ctx context.Context, d descriptor) error {
	if sv.written[d.Digest] {
		return nil
	}
	sv.written[d.Digest] = true
	if !sv.s.haveBlob(d) {
		return fmt.Errorf("%w: blob %s is missing (pull the image again)", ErrCorrupt, d.Digest)
	}
	f, err := os.Open(sv.s.blobPath(d.Digest))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := sv.header(blobName(d), d.Size); err != nil {
		return err
	}
	h := sha256.New()
	left := d.Size
	n, err := copyBounded(ctx, io.MultiWriter(sv.tw, h), callers{f}, &left)
	if err != nil {
		return err
	}
	if n != d.Size || hashOf(h.Sum(nil)) != d.Digest {
		return fmt.Errorf("%w: blob %s (pull the image again)", ErrCorrupt, d.Digest)
	}
	return nil
}
