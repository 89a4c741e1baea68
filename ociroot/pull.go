package ociroot

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

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

// materialise brings all blobs and the root into the cache. Downloads and the
// conversion overlap: a layer is converted as soon as it and all below it came.
func (s *Store) materialise(ctx context.Context, c *client, m *manifest, o *PullOptions, p *progress) (*rootInfo, error) {
	if err := s.putBlob(m.desc.Digest, m.raw); err != nil {
		return nil, err
	}
	cfg, diffIDs, err := s.fetchConfig(ctx, c, m)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", m.config.Digest, err)
	}
	if have := (Platform{cfg.OS, cfg.Architecture, cfg.Variant}); !o.Platform.suits(have) {
		return nil, fmt.Errorf("%w: it is made for %s, not for %s", ErrPlatform, clean(have.String()), o.Platform)
	}
	g, gctx := errgroup.WithContext(ctx)
	wait := s.fetchLayers(gctx, g, c, m, p)
	cv := &converter{s: s, m: m, cfg: cfg, diffIDs: diffIDs, limits: o.Limits, p: p, wait: wait}
	var info *rootInfo
	g.Go(func() (err error) {
		info, err = cv.root(gctx)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, orCause(ctx, err)
	}
	return info, syncDir(s.blobDir())
}

// fetchConfig brings the configuration into the cache. One that is damaged there
// is fetched again.
func (s *Store) fetchConfig(ctx context.Context, c *client, m *manifest) (Config, []v1.Hash, error) {
	if _, err := s.readBlob(m.config, maxConfig); errors.Is(err, ErrCorrupt) {
		if err := os.Remove(s.blobPath(m.config.Digest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Config{}, nil, err
		}
	}
	if _, err := s.fetchBlob(ctx, c, m.config, nil); err != nil {
		return Config{}, nil, err
	}
	raw, err := s.readBlob(m.config, maxConfig)
	if err != nil {
		return Config{}, nil, err
	}
	return parseConfig(raw, len(m.layers))
}

// fetchLayers starts the downloads, bottom first, and returns how to wait for
// one. A layer that comes twice is fetched once.
func (s *Store) fetchLayers(ctx context.Context, g *errgroup.Group, c *client, m *manifest, p *progress) func(context.Context, int) error {
	ready := map[v1.Hash]chan struct{}{}
	var order []descriptor
	for _, d := range m.layers {
		if ready[d.Digest] == nil {
			ready[d.Digest] = make(chan struct{})
			order = append(order, d)
		}
	}
	next := make(chan descriptor, len(order))
	for _, d := range order {
		next <- d
	}
	close(next)
	for range min(s.o.Downloads, len(order)) {
		g.Go(func() error {
			for d := range next {
				state, err := s.fetchBlob(ctx, c, d, p)
				if err != nil {
					return fmt.Errorf("layer %s: %w", d.Digest, err)
				}
				p.layerState(d, state)
				close(ready[d.Digest])
			}
			return nil
		})
	}
	return func(ctx context.Context, i int) error {
		select {
		case <-ready[m.layers[i].Digest]:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// register makes index.json name the image.
func (s *Store) register(ctx context.Context, name string, source v1.Hash, m *manifest, info *rootInfo) (*Image, error) {
	entry := m.entry(info.Config)
	now := time.Now()
	err := s.locked(ctx, func() error {
		return s.changeIndex(func(ix *index) error {
			setEntry(ix, name, source, entry, now)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	im := info.image()
	im.Ref, im.PulledAt = name, now.UTC()
	if source.Hex != "" && source != m.desc.Digest {
		im.Source = source.String()
	}
	return im, nil
}
