package ociroot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
)

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
