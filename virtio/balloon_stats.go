package virtio

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
)

// Memory statistics, virtio 1.2 §5.5.6.3. The driver leaves a buffer with us; to
// ask for statistics is to use it, and the next one has them.

// ErrNoStats says that the guest gives no statistics: it has no driver that
// does, or the balloon did not offer to take them.
var ErrNoStats = errors.New("the guest gives no memory statistics")

// balloonStatSize is sizeof(struct virtio_balloon_stat), which is packed.
const balloonStatSize = 10

// balloonStatTags is how many tags §5.5.6.4 defines.
const balloonStatTags = 10

// maxBalloonStats bounds how many entries of a buffer are looked at: a driver
// has no reason to repeat itself.
const maxBalloonStats = 64

// BalloonStats is what the driver says about the guest's memory, under the names
// of §5.5.6.4: unverified, and incomplete if it likes.
type BalloonStats struct {
	SwapIn, SwapOut           uint64 // bytes, ever
	MajorFaults, MinorFaults  uint64 // ever
	Free, Total               uint64 // bytes
	Available                 uint64 // bytes that new programs could have
	Caches                    uint64 // bytes that can be had without I/O
	HugeAllocated, HugeFailed uint64 // hugetlb pages, ever
}

// Stats asks the driver for statistics and waits for them; a guest can take as
// long as it likes, or for ever. The error is ErrNoStats or that of ctx.
func (b *Balloon) Stats(ctx context.Context) (BalloonStats, error) {
	return b.stats.ask(ctx)
}

// statsDesk is where those who ask meet the worker that knows.
type statsDesk struct {
	mu      sync.Mutex // guards what follows
	queue   *Queue     // nil while there is none
	waiting []chan BalloonStats
}

func (s *statsDesk) ask(ctx context.Context) (BalloonStats, error) {
	answer := make(chan BalloonStats, 1)
	s.mu.Lock()
	q := s.queue
	if q == nil {
		s.mu.Unlock()
		return BalloonStats{}, ErrNoStats
	}
	s.waiting = append(s.waiting, answer)
	s.mu.Unlock()
	q.Wake()
	select {
	case stats := <-answer:
		return stats, nil
	case <-q.Done():
		return BalloonStats{}, ErrNoStats
	case <-ctx.Done():
		s.leave(answer)
		return BalloonStats{}, ctx.Err()
	}
}

// leave forgets one who waits no longer: the guest may never answer, and the
// host may go on asking (T80).
func (s *statsDesk) leave(answer chan BalloonStats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = slices.DeleteFunc(s.waiting, func(w chan BalloonStats) bool { return w == answer })
}

// take returns those who wait.
func (s *statsDesk) take() []chan BalloonStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.waiting
	s.waiting = nil
	return w
}

func (s *statsDesk) setQueue(q *Queue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue, s.waiting = q, nil
}

// serve is the worker of the statistics queue. It holds one buffer at most; a
// driver that leaves more has them answered one by one.
func (s *statsDesk) serve(a Activation, q *Queue) error {
	s.setQueue(q)
	defer s.setQueue(nil)
	var (
		c     Chain
		held  bool
		asked []chan BalloonStats // for whom a buffer was used
	)
	for {
		if !held {
			ok, err := q.Pop(&c)
			if err != nil {
				return err
			}
			if ok {
				held = true
				stats := parseBalloonStats(&c)
				for _, w := range asked {
					w <- stats // has room for one
				}
				asked = nil
			} else if q.EnableNotifications() {
				continue
			}
		}
		if held {
			if asked = s.take(); len(asked) > 0 {
				held = false
				q.Push(c.Head(), 0)
				q.Notify()
				if a.Activity != nil {
					a.Activity(q.Index(), 1)
				}
				continue
			}
		}
		if err := q.Wait(); err != nil {
			return err
		}
	}
}

// parseBalloonStats reads what it knows, in any order, and ignores the rest
// (T80).
func parseBalloonStats(c *Chain) BalloonStats {
	var values [balloonStatTags]uint64
	var e [balloonStatSize]byte
	for range maxBalloonStats {
		if c.ReadFull(e[:]) != nil {
			break
		}
		if tag := binary.LittleEndian.Uint16(e[:]); tag < balloonStatTags {
			values[tag] = binary.LittleEndian.Uint64(e[2:])
		}
	}
	return BalloonStats{
		SwapIn: values[0], SwapOut: values[1],
		MajorFaults: values[2], MinorFaults: values[3],
		Free: values[4], Total: values[5], Available: values[6], Caches: values[7],
		HugeAllocated: values[8], HugeFailed: values[9],
	}
}
