package virtio

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
)

// Workers are the goroutines of an active device. The zero value is ready; a
// device embeds one, starts workers in Activate and calls Stop in Reset.
//
// A worker's error makes the device need a reset, and so does its panic (T45).
type Workers struct {
	wg     sync.WaitGroup
	mu     sync.Mutex // guards queues
	queues []*Queue
}

// Serve starts a worker that hands each chain of a queue to handle, in order,
// and returns it to the driver with the bytes that handle wrote. It waits for
// kicks in between. An error of handle ends the worker and makes the device
// need a reset: what is wrong with one request, handle answers in the chain.
//
// A queue that the driver left out (nil) is not served.
func (w *Workers) Serve(a Activation, q *Queue, handle func(*Chain) error) {
	w.Go(a, q, func() error {
		var c Chain
		for {
			if err := drain(a, q, &c, handle); err != nil {
				return err
			}
			if err := q.Wait(); err != nil {
				return err
			}
		}
	})
}

// drain serves what is available, until the driver is known to kick for more.
func drain(a Activation, q *Queue, c *Chain, handle func(*Chain) error) error {
	for {
		q.DisableNotifications()
		n := 0
		// Bounded: after a queue's length of chains, others get the processor (T28).
		for n < q.Size() {
			ok, err := q.Pop(c)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if err := handle(c); err != nil {
				return err
			}
			q.Push(c.Head(), c.Written())
			// With EVENT_IDX the driver decides how often it wants to hear.
			q.Notify()
			n++
		}
		if n > 0 && a.Activity != nil {
			a.Activity(q.Index(), n)
		}
		if q.Stopped() {
			return ErrStopped
		}
		if !q.EnableNotifications() {
			return nil
		}
		runtime.Gosched()
	}
}

// Go starts a worker that runs f once. f waits on q and ends, with ErrStopped or
// nil, when q is stopped. Without a queue (nil) f is not run.
func (w *Workers) Go(a Activation, q *Queue, f func() error) {
	if q == nil {
		return
	}
	w.mu.Lock()
	w.queues = append(w.queues, q)
	w.mu.Unlock()
	w.wg.Go(func() {
		if err := Guard(f); err != nil && !errors.Is(err, ErrStopped) {
			a.NeedsReset(err)
		}
	})
}

// Stop stops the queues that are served and waits for the workers to end. It
// may be called when there are none.
func (w *Workers) Stop() {
	w.mu.Lock()
	queues := w.queues
	w.queues = nil
	w.mu.Unlock()
	for _, q := range queues {
		q.Stop()
	}
	w.wg.Wait()
}

// Guard runs f and turns a panic into an error. So does it with a memory fault,
// such as a mapped file's that was truncated (T53).
func Guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			err = &Error{"run", fmt.Errorf("%w: %v\n%s", ErrPanic, v, debug.Stack())}
		}
	}()
	return f()
}
