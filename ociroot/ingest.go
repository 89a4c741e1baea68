package ociroot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// intake brings blobs of an archive into the layout. They are announced in its
// lease; those that no image turned out to need go at its end.
type intake struct {
	s     *Store
	lease *lease
	fresh []v1.Hash // that were not there before
	left  int64     // bytes that may still come
}

func (s *Store) intake(ctx context.Context, bytes int64) (*intake, error) {
	if err := s.create(ctx); err != nil {
		return nil, err
	}
	if _, err := s.sweepTemp(); err != nil {
		return nil, err
	}
	l, err := s.lease(ctx)
	if err != nil {
		return nil, err
	}
	return &intake{s: s, lease: l, left: bytes}, nil
}

// end gives up the lease and removes what nothing refers to.
func (in *intake) end() {
	in.lease.end()
	// Best effort, and not to be hurried by a context that has ended: what
	// stays is for the next prune.
	in.s.locked(context.Background(), func() error {
		live, err := in.s.live(nil)
		if err != nil {
			return err
		}
		for _, h := range in.fresh {
			if !live[h.Hex] {
				os.Remove(in.s.blobPath(h))
			}
		}
		return nil
	})
}

// errSource is a failure to read what the caller gave.
type errSource struct{ error }

func (e errSource) Unwrap() error { return e.error }

// put stores all of r as a blob. want, if it is not zero, is the digest that it
// must have.
func (in *intake) put(ctx context.Context, r io.Reader, want v1.Hash) (descriptor, error) {
	f, err := in.s.temp()
	if err != nil {
		return descriptor{}, err
	}
	defer discard(f)
	h := sha256.New()
	n, err := copyBounded(ctx, io.MultiWriter(f, h), r, &in.left)
	if err != nil {
		return descriptor{}, err
	}
	d := descriptor{Digest: hashOf(h.Sum(nil)), Size: n}
	if want.Hex != "" && want != d.Digest {
		return d, fmt.Errorf("%w: %s is %s", ErrDigest, want, d.Digest)
	}
	return d, in.adopt(ctx, f, d)
}

// putBytes stores small content.
func (in *intake) putBytes(ctx context.Context, raw []byte) (descriptor, error) {
	f, err := in.s.temp()
	if err != nil {
		return descriptor{}, err
	}
	defer discard(f)
	if _, err := f.Write(raw); err != nil {
		return descriptor{}, err
	}
	d := descriptor{Digest: digestOf(raw), Size: int64(len(raw))}
	return d, in.adopt(ctx, f, d)
}

// adopt makes a written file the blob d, unless that is there.
func (in *intake) adopt(ctx context.Context, f *os.File, d descriptor) error {
	if err := in.lease.add(ctx, d.Digest); err != nil {
		return err
	}
	if in.s.haveBlob(d) {
		return nil
	}
	in.fresh = append(in.fresh, d.Digest)
	return publish(f, in.s.blobPath(d.Digest))
}

// copyBounded copies until the end of r, while ctx lasts and left does.
func copyBounded(ctx context.Context, w io.Writer, r io.Reader, left *int64) (n int64, err error) {
	buf := make([]byte, 128<<10)
	for {
		if err := ctx.Err(); err != nil {
			return n, context.Cause(ctx)
		}
		k, err := r.Read(buf)
		if *left -= int64(k); *left < 0 {
			return n, exceeds("the archive is too large when unpacked (raise Limits.Bytes)")
		}
		if _, werr := w.Write(buf[:k]); werr != nil {
			return n, werr
		}
		n += int64(k)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, readError(err)
		}
	}
}

// readError keeps apart what is wrong with an archive and what went wrong while
// it was read: archive/tar's own errors are of the first kind.
func readError(err error) error {
	if _, ok := errors.AsType[errSource](err); ok || errors.Is(err, ErrContent) {
		return err
	}
	return malformed("archive: %w", err)
}

// callers marks the errors of a reader that the caller gave.
type callers struct{ r io.Reader }

func (c callers) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && err != io.EOF {
		err = errSource{err}
	}
	return n, err
}
