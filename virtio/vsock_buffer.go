package virtio

import "sync"

// vsockSegmentSize is the unit in which a receive buffer grows and shrinks.
const vsockSegmentSize = 16 << 10

// vsockSegment is a piece of a receive buffer: b[r:w] holds data.
type vsockSegment struct {
	b    [vsockSegmentSize]byte
	r, w int
	next *vsockSegment
}

// vsockBuffer is the receive buffer of a connection: a queue of segments from a
// pool, so that an idle connection holds none. It has one producer and one
// consumer, and they copy outside of the connection's lock: the producer writes
// behind w, the consumer reads between r and w, and only the calls below, which
// are made with the lock held, move the two. The limit is the caller's: it
// takes no more than the window that it announced.
type vsockBuffer struct {
	head *vsockSegment // oldest; nil if there is none
	tail *vsockSegment // newest
	n    int           // bytes between r and w, all segments

	fill     *vsockSegment // the first segment that the producer copies into
	filling  bool          // between reserve and commit
	draining bool          // between peek and take
	dropped  bool          // wanted by nobody: free what is not in use
}

// reserve makes room for n bytes and marks the producer busy. It returns the
// segment to start from, at its w, and to go on with its nexts.
func (q *vsockBuffer) reserve(n int, pool *sync.Pool) *vsockSegment {
	q.filling, q.fill = true, nil
	room := 0
	if q.tail != nil && q.tail.w < vsockSegmentSize {
		q.fill, room = q.tail, vsockSegmentSize-q.tail.w
	}
	for ; room < n; room += vsockSegmentSize {
		s := pool.Get().(*vsockSegment)
		s.r, s.w, s.next = 0, 0, nil
		if q.tail == nil {
			q.head = s
		} else {
			q.tail.next = s
		}
		q.tail = s
		if q.fill == nil {
			q.fill = s
		}
	}
	return q.fill
}

// commit publishes the n bytes that were reserved and copied.
func (q *vsockBuffer) commit(n int, pool *sync.Pool) {
	q.filling = false
	q.n += n
	for s := q.fill; n > 0; s = s.next {
		k := min(n, vsockSegmentSize-s.w)
		s.w += k
		n -= k
	}
	q.fill = nil
	q.free(pool)
}

// peek returns the oldest bytes, as many as lie together, and marks the
// consumer busy. Called with n > 0.
func (q *vsockBuffer) peek() []byte {
	q.draining = true
	return q.head.b[q.head.r:q.head.w]
}

// take consumes k bytes of what peek returned.
func (q *vsockBuffer) take(k int, pool *sync.Pool) {
	q.draining = false
	q.head.r += k
	q.n -= k
	q.free(pool)
}

// drop discards everything, as soon as nobody is copying.
func (q *vsockBuffer) drop(pool *sync.Pool) {
	q.dropped = true
	q.free(pool)
}

// free returns to the pool what holds no data any more.
func (q *vsockBuffer) free(pool *sync.Pool) {
	if q.dropped && !q.filling && !q.draining {
		q.n = 0
	}
	for q.head != nil && !q.draining {
		s := q.head
		read := s.r == vsockSegmentSize
		idle := q.n == 0 && !q.filling
		if !read && !idle {
			return
		}
		if q.head = s.next; q.head == nil {
			q.tail = nil
		}
		s.next = nil
		pool.Put(s)
	}
}
