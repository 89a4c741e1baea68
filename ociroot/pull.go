package ociroot

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

// PullPolicy says when a registry is asked.
type PullPolicy string

// The policies. The zero value is PullIfMissing.
const (
	PullIfMissing PullPolicy = "if-missing" // if the cache has no such image
	PullAlways    PullPolicy = "always"     // always; what has not changed is not fetched again
	PullNever     PullPolicy = "never"      // never: ErrNotCached
)

// PullOptions are one pull's. The zero value is good.
type PullOptions struct {
	Policy   PullPolicy
	Platform Platform       // zero: linux/amd64
	Auth     *Auth          // nil: Docker's config.json and its helpers; empty: none at all
	Insecure bool           // plain HTTP if there is no TLS; without it only to this machine
	RootCAs  *x509.CertPool // nil: the system's
	CAFile   string         // PEM certificates to trust besides
	Limits   flatten.Limits // zero: the store's
	Progress func(Event)    // is called from other goroutines, one call at a time
}

func (o *PullOptions) check() error {
	switch o.Policy {
	case "":
		o.Policy = PullIfMissing
	case PullIfMissing, PullAlways, PullNever:
	default:
		return fmt.Errorf("%w: pull policy %q is not one of if-missing, always, never", ErrOptions, clean(string(o.Policy)))
	}
	o.Platform = o.Platform.orDefault()
	return nil
}

// Pull returns the image that ref names, with its root made: from the cache or
// from its registry, as the policy says. Any number of processes may pull: what
// several need is fetched and converted by one.
//
// Errors: [ErrReference], [ErrNotCached], [ErrNotFound], [ErrUnauthorized],
// [ErrPlatform], [ErrInsecure]; [ErrContent] and its kin for what the registry
// sent; [ErrRegistry], [ErrStalled] or the network's when it failed.
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (*Image, error) {
	im, err := s.pull(ctx, ref, o)
	return im, fail("pull", clean(ref), err)
}

func (s *Store) pull(ctx context.Context, text string, o PullOptions) (*Image, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	ref, err := parseReference(text, o.Insecure)
	if err != nil {
		return nil, err
	}
	if o.Limits == (flatten.Limits{}) {
		o.Limits = s.o.Limits
	}
	if o.Policy != PullAlways {
		im, err := s.cached(ctx, ref, o)
		if im != nil || err != nil {
			return im, err
		}
		if o.Policy == PullNever {
			return nil, ErrNotCached
		}
	}
	if err := s.create(ctx); err != nil { // it may have been removed since OpenStore
		return nil, err
	}
	p := newProgress(ref.full, o.Progress)
	var im *Image
	name := "pull-" + digestOf([]byte(ref.full+" "+o.Platform.String())).Hex
	err = s.once(ctx, name, p.waiting, func() (err error) {
		if o.Policy != PullAlways { // another process may just have pulled it
			if im, err = s.cached(ctx, ref, o); im != nil || err != nil {
				return err
			}
		}
		im, err = s.pullOnce(ctx, ref, &o, p)
		return err
	})
	return im, err
}

// cached returns the image if the cache can give it: nil if not. A missing root
// is made if the blobs are there.
func (s *Store) cached(ctx context.Context, ref reference, o PullOptions) (*Image, error) {
	ix, err := s.readIndex()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entry := named(ix, ref.full)
	if entry == nil {
		entry = pinned(ix, ref)
	}
	if entry == nil {
		return nil, nil
	}
	im, err := s.image(entry)
	if err != nil {
		return nil, unlessNever(o, err)
	}
	if !o.Platform.suits(im.platform()) {
		return nil, nil
	}
	if im.Size > 0 {
		return im, nil
	}
	if err := s.rebuild(ctx, entry.Digest); err != nil {
		return nil, unlessNever(o, err)
	}
	im, err = s.image(entry)
	return im, err
}

// pinned finds an image by the digest that ref pins, whatever its name: the same
// digest is the same image.
func pinned(ix *index, ref reference) *v1.Descriptor {
	h, ok := ref.digest()
	if !ok {
		return nil
	}
	for i := range ix.Manifests {
		if d := &ix.Manifests[i]; d.Digest == h || d.Annotations[annSource] == h.String() {
			return d
		}
	}
	return nil
}

// unlessNever lets a pull repair what is wrong with a cached image, unless there
// must be none.
func unlessNever(o PullOptions, err error) error {
	if o.Policy == PullNever {
		return fmt.Errorf("%w: %w", ErrNotCached, err)
	}
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrContent) || errors.Is(err, errDamaged) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (im *Image) platform() Platform {
	return Platform{OS: im.Config.OS, Architecture: im.Config.Architecture, Variant: im.Config.Variant}
}

// pullOnce asks the registry. Nobody else pulls this reference meanwhile.
func (s *Store) pullOnce(ctx context.Context, ref reference, o *PullOptions, p *progress) (*Image, error) {
	if _, err := s.sweepTemp(); err != nil {
		return nil, err
	}
	c, err := s.dial(ctx, ref, o)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if im := s.unchanged(ctx, c, ref, o); im != nil {
		return im, nil
	}
	m, source, err := c.resolve(ctx, ref, o.Platform)
	if err != nil {
		return nil, err
	}
	if budget := streamBudget(o.Limits); m.compressedSize() > budget || m.compressedSize() < 0 {
		return nil, exceeds("the layers have %d bytes, %d are allowed (raise Limits.Bytes)", m.compressedSize(), budget)
	}
	p.resolved(m)
	l, err := s.lease(ctx)
	if err != nil {
		return nil, err
	}
	defer l.end()
	if err := l.add(ctx, m.digests()...); err != nil {
		return nil, err
	}
	info, err := s.materialise(ctx, c, m, o, p)
	if errors.Is(err, errDamaged) { // a blob that was there; now it is not
		info, err = s.materialise(ctx, c, m, o, p)
	}
	if err != nil {
		return nil, err
	}
	im, err := s.register(ctx, ref.full, source, m, info)
	if err == nil {
		p.tell(Event{Kind: EventDone, Digest: im.Digest, Total: im.Size})
	}
	return im, err
}

// unchanged answers PullAlways from the cache if the registry says that the
// name still leads where it did.
func (s *Store) unchanged(ctx context.Context, c *client, ref reference, o *PullOptions) *Image {
	ix, err := s.readIndex()
	if err != nil {
		return nil
	}
	entry := named(ix, ref.full)
	if entry == nil {
		return nil
	}
	im, err := s.image(entry)
	if err != nil || im.Size == 0 || !o.Platform.suits(im.platform()) {
		return nil
	}
	now, ok := c.head(ctx, ref)
	if !ok || now != entry.Digest && now.String() != im.Source {
		return nil
	}
	return im
}
