package ociroot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// PruneOptions say what stays besides what has a name.
type PruneOptions struct {
	Keep []string // manifest digests, "sha256:…", of images that somebody will want
	All  bool     // remove names, too, except of images in Keep or in use
}

// RemoveOptions are one removal's.
type RemoveOptions struct {
	Keep  []string // as PruneOptions.Keep: removing the last name of one is ErrInUse
	Force bool     // remove it nevertheless; what is in Keep or open stays for those who use it
}

// Pruned tells what went.
type Pruned struct {
	Refs  []string // names
	Roots []string // digests of manifests whose roots went
	Blobs int
	Bytes int64 // on the disk
}

// Prune removes everything that nothing refers to: see the package's
// documentation. It does not wait for pulls, and pulls hardly wait for it.
func (s *Store) Prune(ctx context.Context, o PruneOptions) (Pruned, error) {
	keep, err := keepSet(o.Keep)
	if err != nil {
		return Pruned{}, fail("prune", "", err)
	}
	var p Pruned
	err = s.locked(ctx, func() error {
		if o.All {
			err := s.changeIndex(func(ix *index) error {
				ix.Manifests = slices.DeleteFunc(ix.Manifests, func(d v1.Descriptor) bool {
					if keep[d.Digest.Hex] || s.inUse(d.Digest.Hex) {
						return false
					}
					p.Refs = append(p.Refs, entryName(&d))
					return true
				})
				return nil
			})
			if err != nil {
				return err
			}
		}
		return s.collect(keep, &p)
	})
	return p, fail("prune", "", err)
}

// Remove forgets a name, or all names of a digest ("sha256:…", at least 12
// digits of it), and collects what nothing else refers to. The last name of an
// image whose root is open is [ErrInUse] unless forced.
func (s *Store) Remove(ctx context.Context, name string, o RemoveOptions) (Pruned, error) {
	keep, err := keepSet(o.Keep)
	if err != nil {
		return Pruned{}, fail("remove", clean(name), err)
	}
	var p Pruned
	err = s.locked(ctx, func() error {
		found, err := s.find(name)
		if err != nil {
			return err
		}
		err = s.changeIndex(func(ix *index) error {
			goes := func(d v1.Descriptor) bool {
				return d.Digest == found.Digest && (strings.HasPrefix(name, "sha256:") || entryName(&d) == entryName(found))
			}
			last := !slices.ContainsFunc(ix.Manifests, func(d v1.Descriptor) bool { return d.Digest == found.Digest && !goes(d) })
			if last && !o.Force && (keep[found.Digest.Hex] || s.inUse(found.Digest.Hex)) {
				return ErrInUse
			}
			for _, d := range ix.Manifests {
				if goes(d) {
					p.Refs = append(p.Refs, entryName(&d))
				}
			}
			ix.Manifests = slices.DeleteFunc(ix.Manifests, goes)
			return nil
		})
		if err != nil {
			return err
		}
		return s.collect(keep, &p)
	})
	return p, fail("remove", clean(name), err)
}

func keepSet(digests []string) (map[string]bool, error) {
	keep := map[string]bool{}
	for _, d := range digests {
		h, err := v1.NewHash(d)
		if err != nil || h.Algorithm != "sha256" {
			return nil, fmt.Errorf("%w: Keep has %q, which is not a digest", ErrOptions, clean(d))
		}
		keep[h.Hex] = true
	}
	return keep, nil
}

// inUse reports whether somebody has the root open.
func (s *Store) inUse(hex string) bool {
	f, err := tryLock(s.rootPath(hex), os.O_RDONLY, exclusive)
	if err == nil {
		f.Close()
	}
	return errors.Is(err, errBusy)
}

// collect removes what is not referred to. Called with the store locked: nobody
// can announce a need meanwhile.
func (s *Store) collect(keep map[string]bool, p *Pruned) error {
	live, err := s.live(keep)
	if err != nil {
		return err
	}
	return errors.Join(
		s.sweepRoots(live, p),
		s.sweepBlobs(live, p),
		s.sweepDir("partial", live, p),
		s.sweepDir("tmp", nil, p),
		s.sweepDir("locks", nil, p),
	)
}

// live is everything that index.json, keep or a lease refers to. Called with the
// store locked.
func (s *Store) live(keep map[string]bool) (map[string]bool, error) {
	live, err := s.leased()
	if err != nil {
		return nil, err
	}
	ix, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	for hex := range keep {
		s.mark(descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: hex}, Size: -1}, live, 0)
	}
	for _, d := range ix.Manifests {
		if d.Digest.Algorithm == "sha256" {
			s.mark(descriptor{MediaType: string(d.MediaType), Digest: d.Digest, Size: d.Size}, live, 0)
		}
	}
	return live, nil
}

// mark adds a manifest or an index and what it refers to. What cannot be read
// refers to nothing: it is useless anyway.
func (s *Store) mark(d descriptor, live map[string]bool, depth int) {
	live[d.Digest.Hex] = true
	raw, err := s.readBlob(d, maxManifest)
	if err != nil {
		return
	}
	doc, err := parseDocument(raw, d)
	if err != nil {
		s.markLoosely(raw, live)
		return
	}
	if doc.manifest != nil {
		for _, h := range doc.manifest.digests() {
			live[h.Hex] = true
		}
		return
	}
	for _, e := range doc.manifests {
		if depth < maxNesting && e.Size <= maxManifest {
			s.mark(e, live, depth+1)
		}
	}
}

// markLoosely keeps what an artifact refers to that another tool put here.
func (s *Store) markLoosely(raw []byte, live map[string]bool) {
	const prefix = "sha256:"
	for text := string(raw); ; {
		i := strings.Index(text, prefix)
		if i < 0 {
			return
		}
		text = text[i+len(prefix):]
		if len(text) >= 64 && strings.Trim(text[:64], "0123456789abcdef") == "" {
			live[text[:64]] = true
		}
	}
}

// sweepRoots removes roots that are neither live nor open, their descriptions
// last: a description without a root is nothing.
func (s *Store) sweepRoots(live map[string]bool, p *Pruned) error {
	entries, err := os.ReadDir(s.path("roots"))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		hex, isRoot := strings.CutSuffix(e.Name(), ".erofs")
		if !isRoot || live[hex] {
			continue
		}
		path := s.path("roots", e.Name())
		n, err := removeUnlocked(path)
		errs = append(errs, err)
		if n > 0 || gone(path) {
			p.Bytes += n
			p.Roots = append(p.Roots, "sha256:"+hex)
		}
	}
	for _, e := range entries {
		hex, isInfo := strings.CutSuffix(e.Name(), ".json")
		if isInfo && !live[hex] && gone(s.rootPath(hex)) {
			errs = append(errs, s.sweepFile(s.path("roots", e.Name()), p))
		}
	}
	return errors.Join(errs...)
}

func gone(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

func (s *Store) sweepBlobs(live map[string]bool, p *Pruned) error {
	entries, err := os.ReadDir(s.blobDir())
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if live[e.Name()] || !e.Type().IsRegular() {
			continue
		}
		errs = append(errs, s.sweepFile(filepath.Join(s.blobDir(), e.Name()), p))
		p.Blobs++
	}
	return errors.Join(errs...)
}

func (s *Store) sweepFile(path string, p *Pruned) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	p.Bytes += diskSize(fi)
	return nil
}

// sweepDir removes files that nobody has locked, but for those in keep.
func (s *Store) sweepDir(dir string, keep map[string]bool, p *Pruned) error {
	entries, err := os.ReadDir(s.path(dir))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if keep[e.Name()] {
			continue
		}
		n, err := removeUnlocked(s.path(dir, e.Name()))
		p.Bytes += n
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
