package ociroot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// blobState is what became of a blob.
type blobState int

const (
	blobCached blobState = iota
	blobFetched
)

// haveBlob reports whether a blob of this size is there.
func (s *Store) haveBlob(d descriptor) bool {
	fi, err := os.Lstat(s.blobPath(d.Digest))
	return err == nil && fi.Mode().IsRegular() && fi.Size() == d.Size
}

// fetchBlob makes that the blob is there: verified, or as it was found. The
// caller has announced it in a lease. A blob is downloaded by one process at a
// time, which continues where a dead one stopped.
func (s *Store) fetchBlob(ctx context.Context, c *client, d descriptor, p *progress) (blobState, error) {
	if s.haveBlob(d) {
		return blobCached, nil
	}
	f, err := lock(ctx, s.path("partial", d.Digest.Hex), os.O_RDWR|os.O_CREATE, exclusive, p.waiting)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if s.haveBlob(d) { // whoever had the lock has fetched it
		os.Remove(f.Name())
		return blobCached, nil
	}
	dl := &download{c: c, d: d, f: f, hash: sha256.New(), p: p}
	if err := dl.run(ctx); err != nil {
		if errors.Is(err, ErrContent) {
			os.Remove(f.Name()) // nothing to continue
		}
		return 0, err
	}
	return blobFetched, publish(f, s.blobPath(d.Digest))
}

// download is a blob on its way into a file.
type download struct {
	c    *client
	d    descriptor
	f    *os.File
	hash hash.Hash // of the first off bytes
	off  int64
	p    *progress
}

// enough is how much a try must add for the next to count as the first again.
const enough = 1 << 20

// run fetches the whole blob, or what is missing of it. A blob put together
// from parts that has the wrong digest is fetched once more in one piece: the
// parts may be a dead process's, or of different files.
func (dl *download) run(ctx context.Context) error {
	if err := dl.resume(); err != nil {
		return err
	}
	whole := dl.off == 0
	for again := false; ; again = true {
		n, err := dl.complete(ctx)
		if err != nil {
			return err
		}
		got := hashOf(dl.hash.Sum(nil))
		if got == dl.d.Digest {
			return nil
		}
		if whole && n <= 1 || again {
			return fmt.Errorf("%w: it is %s", ErrDigest, got)
		}
		if err := dl.restart(); err != nil {
			return err
		}
		whole = true
	}
}

// complete fetches until all bytes are there and tells in how many pieces.
func (dl *download) complete(ctx context.Context) (pieces int, err error) {
	best := dl.off
	for try := 1; dl.off < dl.d.Size; {
		err := dl.once(ctx)
		if err == nil {
			pieces++
			break
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if !transient(err) {
			return 0, err
		}
		if dl.off >= best+enough {
			best, try = dl.off, 1
		} else if try++; try > maxTries {
			return 0, fmt.Errorf("%w: %w (after %d of %d bytes, %d tries)", ErrRegistry, err, dl.off, dl.d.Size, maxTries)
		}
		pieces++
		if err := dl.c.pause(ctx, try-1, err); err != nil {
			return 0, err
		}
	}
	return pieces, nil
}

// resume hashes what is there.
func (dl *download) resume() error {
	fi, err := dl.f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() > dl.d.Size {
		return dl.restart()
	}
	dl.off, err = io.Copy(dl.hash, io.NewSectionReader(dl.f, 0, fi.Size()))
	return err
}

func (dl *download) restart() error {
	dl.off = 0
	dl.hash.Reset()
	return dl.f.Truncate(0)
}

// once makes one request for what is missing.
func (dl *download) once(ctx context.Context) error {
	header, ok := http.Header{}, []int{http.StatusOK}
	if dl.off > 0 {
		header.Set("Range", "bytes="+strconv.FormatInt(dl.off, 10)+"-")
		ok = append(ok, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	}
	resp, w, err := dl.c.get(ctx, http.MethodGet, "blobs", dl.d.Digest.String(), header, dl.d.Size, ok...)
	if err != nil {
		return err
	}
	defer w.stop()
	defer resp.Body.Close()
	if err := dl.position(resp); err != nil {
		return err
	}
	if want := dl.d.Size - dl.off; resp.ContentLength >= 0 && resp.ContentLength != want {
		return malformed("the registry announces %d bytes where the manifest leaves %d", resp.ContentLength, want)
	}
	return dl.copy(ctx, &early{r: resp.Body, f: dl.f})
}

// position makes the file ready for what the answer holds.
func (dl *download) position(resp *http.Response) error {
	switch {
	case resp.StatusCode == http.StatusOK:
		if dl.off > 0 { // the registry knows no ranges
			return dl.restart()
		}
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		if err := dl.restart(); err != nil {
			return err
		}
		return &statusError{status: http.StatusServiceUnavailable, message: "the registry refuses to continue; from the start again"}
	default:
		first, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), "bytes ")
		first, _, dash := strings.Cut(first, "-")
		if n, err := strconv.ParseInt(first, 10, 64); !ok || !dash || err != nil || n != dl.off {
			return malformed("the registry continues at %q where %d was asked for", clean(resp.Header.Get("Content-Range")), dl.off)
		}
	}
	return nil
}

// copy appends to the file until the blob is complete.
func (dl *download) copy(ctx context.Context, body io.Reader) error {
	buf := make([]byte, 128<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if int64(n) > dl.d.Size-dl.off {
				return malformed("more than the %d bytes that the manifest announces", dl.d.Size)
			}
			if _, err := dl.f.WriteAt(buf[:n], dl.off); err != nil {
				return err
			}
			dl.hash.Write(buf[:n])
			dl.off += int64(n)
			dl.p.layer(dl.d.Digest, dl.off, dl.d.Size)
		}
		switch {
		case err == io.EOF && dl.off == dl.d.Size:
			return nil
		case err == io.EOF:
			return io.ErrUnexpectedEOF
		case errors.Is(err, errTooLong):
			return malformed("more than the %d bytes that the manifest announces", dl.d.Size)
		case err != nil:
			return orCause(ctx, err)
		}
	}
}

// putBlob stores small content whose digest is known to be right.
func (s *Store) putBlob(h v1.Hash, raw []byte) error {
	if _, err := s.readBlob(descriptor{Digest: h, Size: int64(len(raw))}, int64(len(raw))); err == nil {
		return nil
	}
	return s.replace(s.blobPath(h), raw)
}

// readBlob reads a small blob and verifies it.
func (s *Store) readBlob(d descriptor, most int64) ([]byte, error) {
	f, err := os.Open(s.blobPath(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: blob %s is missing", ErrCorrupt, d.Digest)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > most {
		return nil, exceeds("blob %s has more than %d bytes", d.Digest, most)
	}
	if err := verifyBytes(raw, d); err != nil {
		return nil, fmt.Errorf("%w: blob %s: %w", ErrCorrupt, d.Digest, err)
	}
	return raw, nil
}
