package ociroot

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	dialTries  = 3                      // of a registry that has not answered yet
	maxTries   = 5                      // without any progress
	firstPause = 200 * time.Millisecond // unless a test has less time
	maxPause   = 20 * time.Second
)

// retry runs f until it succeeds, fails for good, or failed so many times.
func (c *client) retry(ctx context.Context, tries int, f func(context.Context) error) error {
	for try := 1; ; try++ {
		err := f(ctx)
		if err == nil || ctx.Err() != nil || !transient(err) || try == tries {
			return orCause(ctx, err)
		}
		if err := c.pause(ctx, try, err); err != nil {
			return err
		}
	}
}

// orCause says why ctx ended if that is why the operation failed.
func orCause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// pause waits before the next try: as long as the registry says, or longer each
// time, with some chance in it so that many clients do not come at once.
func (c *client) pause(ctx context.Context, try int, err error) error {
	d := c.first << min(try-1, 6)
	d += rand.N(d / 2)
	if se, ok := errors.AsType[*statusError](err); ok && se.after > 0 {
		d = se.after
	}
	return sleep(ctx, min(d, maxPause))
}

// transient reports whether the same request may succeed later.
func transient(err error) bool {
	if se, ok := errors.AsType[*statusError](err); ok {
		switch se.status {
		case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusBadGateway,
			http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusInternalServerError:
			return true
		}
		return false
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return false // our own disk
	}
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, ErrContent), errors.Is(err, ErrInsecure), errors.Is(err, ErrUnauthorized), errors.Is(err, ErrOptions),
		errors.As(err, &cert), errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return false
	case errors.Is(err, ErrStalled), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return true
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns.IsTemporary && !dns.IsNotFound
	}
	if _, ok := errors.AsType[*transportError](err); ok {
		return true // asking again changes nothing at the other end
	}
	_, isNet := errors.AsType[net.Error](err)
	return isNet
}

// watch ends a request whose answer comes too slowly: with less than minFlow
// bytes in each period, from the first.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	seen   atomic.Int64
}

// minFlow is what must arrive in a period. A byte now and then is a stall, too.
const minFlow = 4 << 10

func newWatch(ctx context.Context, period time.Duration) *watch {
	w := &watch{}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	ready := make(chan struct{})
	w.timer = time.AfterFunc(period, func() {
		<-ready
		if w.seen.Swap(0) < minFlow {
			w.cancel(&stallError{period})
			return
		}
		w.timer.Reset(period)
	})
	close(ready)
	return w
}

// stop ends the watch and, if it still goes on, the request.
func (w *watch) stop() {
	w.cancel(nil)
	w.timer.Stop()
}

// explain says that err comes from a stall, if it does.
func (w *watch) explain(err error) error {
	if s, ok := errors.AsType[*stallError](context.Cause(w.ctx)); ok && err != nil {
		return s
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() && w.ctx.Err() == nil {
		return &timeoutError{err}
	}
	return err
}

func (w *watch) reader(r io.ReadCloser) io.ReadCloser { return &watched{r, w} }

type watched struct {
	io.ReadCloser
	w *watch
}

func (r *watched) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.w.seen.Add(int64(n))
	if err != nil && err != io.EOF {
		err = r.w.explain(err)
	}
	return n, err
}

// stallError and timeoutError are ErrStalled, with what there is to say.
type stallError struct{ period time.Duration }

func (e *stallError) Error() string {
	return "no data arrives: next to nothing in " + e.period.String()
}
func (e *stallError) Is(target error) bool { return target == ErrStalled }

type timeoutError struct{ err error }

func (e *timeoutError) Error() string        { return e.err.Error() }
func (e *timeoutError) Unwrap() error        { return e.err }
func (e *timeoutError) Is(target error) bool { return target == ErrStalled }
