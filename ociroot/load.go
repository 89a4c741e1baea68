package ociroot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

// LoadOptions are one load's. The zero value is good.
type LoadOptions struct {
	Name     string         // of the only image in the archive, whatever the archive calls it
	Platform Platform       // zero: linux/amd64
	Limits   flatten.Limits // zero: the store's
	Progress func(Event)
}

// Bounds of an archive's own structure.
const (
	maxArchiveFiles = 20_000
	maxArchiveName  = 1024
	maxArchiveLinks = 16 // links in a row
	maxArchiveImage = 256
	maxArchiveNames = 1024 // of all images: each is a change of index.json
)

// Load reads an archive, as `docker save`, `podman save` or `skopeo copy` write
// them: an OCI image layout in a tar archive, or Docker's older form; compressed
// (gzip, zstd, bzip2) or not. r is read once, from its beginning to its end. The
// images get the names that the archive gives them, and replace what had these.
//
// Errors: [ErrContent] and its kin for what is wrong with the archive,
// [ErrPlatform] if nothing in it is made for the platform.
func (s *Store) Load(ctx context.Context, r io.Reader, o LoadOptions) ([]*Image, error) {
	list, err := s.load(ctx, r, o)
	return list, fail("load", clean(o.Name), err)
}

func (s *Store) load(ctx context.Context, r io.Reader, o LoadOptions) ([]*Image, error) {
	o.Platform = o.Platform.orDefault()
	if o.Limits == (flatten.Limits{}) {
		o.Limits = s.o.Limits
	}
	if o.Name != "" {
		ref, err := parseReference(o.Name, false)
		if err != nil {
			return nil, err
		}
		o.Name = ref.full
	}
	in, err := s.intake(ctx, streamBudget(o.Limits))
	if err != nil {
		return nil, err
	}
	defer in.end()
	a := &archive{in: in, files: map[string]member{}}
	if err := a.read(ctx, r); err != nil {
		return nil, err
	}
	found, err := a.images(ctx, o.Platform)
	if err != nil {
		return nil, err
	}
	if o.Name != "" {
		if len(found) != 1 {
			return nil, fmt.Errorf("%w: the archive has %d images, and there is one name for them", ErrOptions, len(found))
		}
		found[0].names = []string{o.Name}
	}
	return in.settle(ctx, found, o.Limits, o.Progress)
}

// loaded is an image whose blobs are in the layout.
type loaded struct {
	names   []string
	source  v1.Hash
	m       *manifest
	cfg     Config
	diffIDs []v1.Hash
}

// settle makes the roots and the names.
func (in *intake) settle(ctx context.Context, found []loaded, limits flatten.Limits, tell func(Event)) ([]*Image, error) {
	var list []*Image
	for _, l := range found {
		if len(l.names) == 0 {
			l.names = []string{""}
		}
		if err := in.lease.add(ctx, l.m.digests()...); err != nil {
			return list, err
		}
		p := newProgress(l.names[0], tell)
		p.resolved(l.m)
		cv := &converter{s: in.s, m: l.m, cfg: l.cfg, diffIDs: l.diffIDs, limits: limits, p: p}
		info, err := cv.root(ctx)
		if err != nil {
			return list, err
		}
		if err := syncDir(in.s.blobDir()); err != nil {
			return list, err
		}
		for _, name := range l.names {
			im, err := in.s.register(ctx, name, l.source, l.m, info)
			if err != nil {
				return list, err
			}
			list = append(list, im)
		}
		p.tell(Event{Kind: EventDone, Digest: info.Digest, Total: info.Size})
	}
	return list, nil
}

// member is a file of an archive: a blob, or a link to another member.
type member struct {
	d    descriptor
	link string
}

// archive is an image archive, its files being blobs by now.
type archive struct {
	in    *intake
	files map[string]member

	layout, index, manifest []byte // oci-layout, index.json, manifest.json
}

// read takes the archive in. Names of members are keys of a map, and never those
// of files.
func (a *archive) read(ctx context.Context, r io.Reader) error {
	u, _, err := decompress(callers{r})
	if err != nil {
		return err
	}
	defer u.Close()
	tr := tar.NewReader(u)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		h, err := tr.Next()
		if err == io.EOF {
			if n == 0 {
				return malformed("the archive is empty")
			}
			return nil
		}
		if err != nil {
			return readError(err)
		}
		if n == maxArchiveFiles {
			return exceeds("an archive of more than %d files", maxArchiveFiles)
		}
		if err := a.member(ctx, h, tr); err != nil {
			return fmt.Errorf("%s: %w", clean(h.Name), err)
		}
	}
}

func (a *archive) member(ctx context.Context, h *tar.Header, r io.Reader) error {
	if len(h.Name) > maxArchiveName || len(h.Linkname) > maxArchiveName {
		return exceeds("a name of more than %d bytes", maxArchiveName)
	}
	name := memberName(h.Name)
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
	case tar.TypeLink:
		a.files[name] = member{link: memberName(h.Linkname)}
		return nil
	case tar.TypeSymlink:
		a.files[name] = member{link: memberName(path.Join(path.Dir(name), h.Linkname))}
		return nil
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return nil
	default:
		return malformed("an entry of type %q", h.Typeflag)
	}
	var small *[]byte
	switch name {
	case "oci-layout":
		small = &a.layout
	case "index.json":
		small = &a.index
	case "manifest.json":
		small = &a.manifest
	}
	if small != nil {
		var b bytes.Buffer
		left := int64(maxManifest)
		if _, err := copyBounded(ctx, &b, r, &left); err != nil {
			if left < 0 {
				err = exceeds("more than %d bytes", maxManifest)
			}
			return err
		}
		*small = b.Bytes()
		return nil
	}
	var want v1.Hash
	if hex, ok := strings.CutPrefix(name, "blobs/sha256/"); ok {
		var err error
		if want, err = v1.NewHash("sha256:" + hex); err != nil {
			return malformed("not the name of a blob")
		}
	}
	d, err := a.in.put(ctx, r, want)
	a.files[name] = member{d: d}
	return err
}

// memberName is a name as a key: without leading slashes, "./" and "..".
func memberName(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// file finds the blob of a member.
func (a *archive) file(name string) (descriptor, error) {
	for at, n := memberName(name), 0; n < maxArchiveLinks; n++ {
		m, ok := a.files[at]
		if !ok {
			return descriptor{}, malformed("%q is not in the archive", clean(name))
		}
		if m.link == "" {
			return m.d, nil
		}
		at = m.link
	}
	return descriptor{}, malformed("%q is a link that leads nowhere", clean(name))
}

// images finds out what the archive holds.
func (a *archive) images(ctx context.Context, want Platform) ([]loaded, error) {
	switch {
	case a.index != nil && a.layout != nil:
		return a.layoutImages(want)
	case a.manifest != nil:
		return a.dockerImages(ctx, want)
	}
	return nil, malformed("neither an OCI image layout nor a docker-save archive (a root file system can be imported instead)")
}

// complete reads an image whose manifest is a blob, and checks that all of it is
// there.
func (a *archive) complete(d descriptor, want Platform) (loaded, error) {
	m, cfg, diffIDs, err := a.in.s.readImage(d)
	if err != nil {
		return loaded{}, missing(err)
	}
	if have := (Platform{cfg.OS, cfg.Architecture, cfg.Variant}); !want.suits(have) {
		return loaded{}, fmt.Errorf("%w: it is made for %s, not for %s", ErrPlatform, clean(have.String()), want)
	}
	for i, l := range m.layers {
		if !a.in.s.haveBlob(l) {
			return loaded{}, malformed("layer %d (%s) is not in the archive, or is not of the size that the manifest says", i+1, l.Digest)
		}
	}
	return loaded{m: m, cfg: cfg, diffIDs: diffIDs}, nil
}

// missing blames the archive, not the cache, for a blob that did not come.
func missing(err error) error {
	if errors.Is(err, ErrCorrupt) {
		return malformed("incomplete archive: %w", err)
	}
	return err
}

// sniffBlob tells how a blob is packed.
func (s *Store) sniffBlob(d descriptor) (compression, error) {
	f, err := os.Open(s.blobPath(d.Digest))
	if err != nil {
		return plain, err
	}
	defer f.Close()
	head := make([]byte, 6)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return plain, err
	}
	return sniff(head[:n]), nil
}
