package ociroot

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sandpit-vm/sandpit/ociroot/erofs"
	"github.com/sandpit-vm/sandpit/ociroot/flatten"
)

// rootFormat is the version of what roots/ holds. Roots of another version are
// made anew from their blobs.
const rootFormat = 1

// rootInfo is roots/HEX.json. It comes before HEX.erofs does, and tells how
// large that must be.
type rootInfo struct {
	Format    int     `json:"format"`
	Digest    string  `json:"digest"`
	MediaType string  `json:"mediaType"`
	Manifest  int64   `json:"manifestSize"`
	Config    Config  `json:"config"`
	Layers    []Layer `json:"layers"`
	Size      int64   `json:"size"`
}

// maxInfo leaves room for a configuration whose every byte JSON has to escape.
const maxInfo = 8*maxConfig + 1<<20

// readInfo returns what is known of a manifest's root, or an error that wraps
// fs.ErrNotExist if there is no whole root.
func (s *Store) readInfo(hex string) (*rootInfo, error) {
	f, err := os.Open(s.infoPath(hex))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxInfo))
	if err != nil {
		return nil, err
	}
	var info rootInfo
	if json.Unmarshal(data, &info) != nil || info.Format != rootFormat || info.Digest != "sha256:"+hex {
		return nil, fmt.Errorf("%s is not of this version: %w", f.Name(), fs.ErrNotExist)
	}
	fi, err := os.Lstat(s.rootPath(hex))
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() != info.Size {
		return nil, fmt.Errorf("%s is not whole: %w", s.rootPath(hex), fs.ErrNotExist)
	}
	return &info, nil
}

// converter makes a root out of blobs.
type converter struct {
	s       *Store
	m       *manifest
	cfg     Config
	diffIDs []v1.Hash
	limits  flatten.Limits
	p       *progress

	// wait returns when the i-th layer's blob is there; nil if all are.
	wait func(ctx context.Context, i int) error
}

// errDamaged is a blob of the cache that lost its content. It has been removed.
var errDamaged error = &sentinel{"a blob of the cache was missing or damaged", ErrCorrupt}

// root makes the manifest's root unless it is there. The caller has announced
// everything in a lease.
func (cv *converter) root(ctx context.Context) (info *rootInfo, err error) {
	hex := cv.m.desc.Digest.Hex
	err = cv.s.once(ctx, "root-"+hex, cv.p.waiting, func() error {
		if info, err = cv.s.readInfo(hex); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		info, err = cv.convert(ctx)
		return err
	})
	return info, err
}

func (cv *converter) convert(ctx context.Context) (*rootInfo, error) {
	hex := cv.m.desc.Digest.Hex
	out, err := cv.s.temp()
	if err != nil {
		return nil, err
	}
	defer discard(out) // by then it has its final name, if all is well
	b := flatten.New(out, cv.options())
	layers, err := cv.layers(ctx, b, out)
	if err == nil {
		_, err = b.Close()
	}
	if err != nil {
		return nil, content(err)
	}
	fi, err := out.Stat()
	if err != nil {
		return nil, err
	}
	info := &rootInfo{
		Format: rootFormat, Digest: cv.m.desc.Digest.String(), MediaType: cv.m.desc.MediaType, Manifest: cv.m.desc.Size,
		Config: cv.cfg, Layers: layers, Size: fi.Size(),
	}
	data, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	if err := cv.s.replace(cv.s.infoPath(hex), data); err != nil {
		return nil, err
	}
	if err := publish(out, cv.s.rootPath(hex)); err != nil {
		return nil, err
	}
	return info, syncDir(cv.s.path("roots"))
}

// options make the same image give the same bytes: nothing in them is of this
// host or this moment.
func (cv *converter) options() flatten.Options {
	o := erofs.Options{BuildTime: cv.cfg.Created}
	if o.BuildTime.IsZero() {
		o.BuildTime = time.Unix(0, 0).UTC()
	}
	sum := sha256.Sum256([]byte("sandpit root of " + cv.m.desc.Digest.String()))
	copy(o.UUID[:], sum[:16])
	o.UUID[6], o.UUID[8] = o.UUID[6]&0x0f|0x80, o.UUID[8]&0x3f|0x80 // RFC 9562, version 8
	return flatten.Options{Limits: cv.limits, Image: o}
}

// content puts errors of flatten into the families of this package.
func content(err error) error {
	switch {
	case errors.Is(err, ErrContent):
		return err
	case errors.Is(err, flatten.ErrLimit):
		return &akin{err, ErrLimit}
	case errors.Is(err, flatten.ErrMalformed):
		return &akin{err, ErrMalformed}
	}
	return err
}

// akin is an error of another package that says all, in a family of this one.
type akin struct {
	error
	family error
}

func (a *akin) Unwrap() []error { return []error{a.error, a.family} }

// layers adds all of them, bottom first.
func (cv *converter) layers(ctx context.Context, b *flatten.Builder, out *os.File) ([]Layer, error) {
	budget := streamBudget(cv.limits)
	var list []Layer
	var done int64
	for i, d := range cv.m.layers {
		if cv.wait != nil {
			if err := cv.wait(ctx, i); err != nil {
				return nil, err
			}
		}
		n, err := cv.layer(ctx, b, out, i, budget, done)
		if err != nil {
			return nil, fmt.Errorf("layer %d (%s): %w", i+1, d.Digest, cv.suspect(d, content(err)))
		}
		budget -= n
		done += d.Size
		list = append(list, Layer{
			Digest: d.Digest.String(), DiffID: cv.diffIDs[i].String(), MediaType: d.MediaType, Size: d.Size, Uncompressed: n,
		})
	}
	return list, nil
}

// streamBudget bounds the tar streams of all layers together: the data that an
// image may have, headers for its entries, and some padding.
func streamBudget(l flatten.Limits) int64 {
	l = l.WithDefaults()
	return min(l.Bytes, 1<<61) + min(l.Entries, 1<<40)<<11 + 64<<20
}

// layer adds one and returns the length of its tar stream.
func (cv *converter) layer(ctx context.Context, b *flatten.Builder, out *os.File, i int, budget, before int64) (int64, error) {
	d := cv.m.layers[i]
	f, err := os.Open(cv.s.blobPath(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%w: it is missing", errDamaged)
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	total := cv.m.compressedSize()
	src := &counted{r: f, tell: func(n int64) { cv.p.step(EventConvert, cv.m.desc.Digest, before+n, total, before+n < total) }}
	tar, _, err := decompress(src)
	if err != nil {
		return 0, err
	}
	defer tar.Close()
	h := sha256.New()
	lim := &streamLimit{r: tar, left: budget}
	a := readAhead(lim)
	hashed := io.TeeReader(&early{r: a, f: out}, h) // on this side: unpacking is what takes longest
	err = b.Layer(ctx, hashed)
	if err == nil {
		_, err = io.Copy(io.Discard, hashed) // what follows the archive's end has a part in the diffID
	}
	a.Close()
	if err != nil {
		if fe, ok := errors.AsType[*flatten.Error](err); ok { // the layer is named by the caller
			err = fe.Err
			if fe.Name != "" {
				err = fmt.Errorf("%.300q: %w", fe.Name, err)
			}
		}
		return 0, orCause(ctx, err)
	}
	if got := hashOf(h.Sum(nil)); got != cv.diffIDs[i] {
		return 0, fmt.Errorf("%w: uncompressed it is %s, and the configuration says %s", ErrDigest, got, cv.diffIDs[i])
	}
	return lim.n, nil
}

// suspect finds out whether bad content is the cache's fault, and removes a blob
// that is not what its name says.
func (cv *converter) suspect(d descriptor, err error) error {
	if !errors.Is(err, ErrContent) {
		return err
	}
	path := cv.s.blobPath(d.Digest)
	f, oerr := os.Open(path)
	if oerr != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, cerr := io.Copy(h, f); cerr != nil || hashOf(h.Sum(nil)) == d.Digest {
		return err
	}
	if rerr := os.Remove(path); rerr != nil {
		return rerr
	}
	return errDamaged
}

// counted tells how much was read.
type counted struct {
	r    io.Reader
	n    int64
	tell func(int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.tell(c.n)
	return n, err
}

// streamLimit ends a decompression bomb.
type streamLimit struct {
	r       io.Reader
	n, left int64
}

func (s *streamLimit) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n += int64(n)
	if s.left -= int64(n); s.left < 0 {
		return n, exceeds("the layers are too large when unpacked (raise Limits.Bytes)")
	}
	return n, err
}
