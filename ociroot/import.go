package ociroot

import (
	"bufio"
	"compress/bzip2"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

// ImportOptions are one import's. The zero value is good.
type ImportOptions struct {
	Config   Config         // what the image shall say; Created: now, platform: linux/amd64 if empty
	Limits   flatten.Limits // zero: the store's
	Progress func(Event)
}

// Import makes an image of one layer of a root file system's tar archive,
// compressed (gzip, zstd, bzip2) or not, and gives it the name ref. r is read
// once, to its end.
func (s *Store) Import(ctx context.Context, r io.Reader, ref string, o ImportOptions) (*Image, error) {
	im, err := s.importTar(ctx, r, ref, o)
	return im, fail("import", clean(ref), err)
}

func (s *Store) importTar(ctx context.Context, r io.Reader, text string, o ImportOptions) (*Image, error) {
	ref, err := parseReference(text, false)
	if err != nil {
		return nil, err
	}
	if _, ok := ref.digest(); ok {
		return nil, fmt.Errorf("%w: a digest cannot be given, only a tag", ErrReference)
	}
	if err := o.Config.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	if o.Limits == (flatten.Limits{}) {
		o.Limits = s.o.Limits
	}
	in, err := s.intake(ctx, streamBudget(o.Limits))
	if err != nil {
		return nil, err
	}
	defer in.end()
	layer, diffID, err := in.putLayer(ctx, r)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(configFile(o.Config, diffID))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxConfig {
		return nil, fmt.Errorf("%w: the configuration has more than %d bytes", ErrOptions, maxConfig)
	}
	config, err := in.putBytes(ctx, raw)
	if err != nil {
		return nil, err
	}
	d, err := in.assemble(ctx, config, []descriptor{layer})
	if err != nil {
		return nil, err
	}
	m, cfg, diffIDs, err := s.readImage(d)
	if err != nil {
		return nil, err
	}
	list, err := in.settle(ctx, []loaded{{names: []string{ref.full}, m: m, cfg: cfg, diffIDs: diffIDs}}, o.Limits, o.Progress)
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// putLayer stores an archive as it comes and finds out its diffID on the way.
func (in *intake) putLayer(ctx context.Context, r io.Reader) (descriptor, v1.Hash, error) {
	br := bufio.NewReader(callers{r})
	r = br
	if head, _ := br.Peek(6); sniff(head) == packedBzip2 { // no layer may be packed so
		r = bzip2.NewReader(br)
	}
	// What put stores flows through the decompressor, too.
	pr, pw := io.Pipe()
	type result struct {
		diffID v1.Hash
		err    error
	}
	done := make(chan result, 1)
	left := in.left
	go func() {
		h := sha256.New()
		u, _, err := decompress(pr)
		if err == nil {
			_, err = copyBounded(ctx, h, u, &left)
			u.Close()
		}
		if err == nil {
			_, err = io.Copy(io.Discard, pr)
		}
		pr.CloseWithError(err) // ends put
		done <- result{hashOf(h.Sum(nil)), err}
	}()
	d, err := in.put(ctx, io.TeeReader(r, pw), v1.Hash{})
	pw.CloseWithError(err) // nil: the end
	res := <-done
	if err == nil {
		err = res.err
	}
	return d, res.diffID, err
}

// configFile is an OCI image configuration (image-spec 1.1, config.md).
func configFile(c Config, diffID v1.Hash) *v1.ConfigFile {
	p := (Platform{c.OS, c.Architecture, c.Variant}).orDefault()
	if c.Created.IsZero() {
		c.Created = time.Now()
	}
	return &v1.ConfigFile{
		Created: v1.Time{Time: c.Created.UTC()}, Author: c.Author,
		OS: p.OS, Architecture: p.Architecture, Variant: p.Variant,
		RootFS:  v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{diffID}},
		History: []v1.History{{Created: v1.Time{Time: c.Created.UTC()}, CreatedBy: "imported from a tar archive"}},
		Config: v1.Config{
			Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, User: c.User, WorkingDir: c.WorkingDir,
			StopSignal: c.StopSignal, Labels: c.Labels, ExposedPorts: set(c.ExposedPorts), Volumes: set(c.Volumes),
		},
	}
}

func set(list []string) map[string]struct{} {
	if len(list) == 0 {
		return nil
	}
	m := make(map[string]struct{}, len(list))
	for _, s := range list {
		m[s] = struct{}{}
	}
	return m
}
