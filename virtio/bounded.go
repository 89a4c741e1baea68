package virtio

import "sync"

// boundedBuffer is a ring of bytes with a writer and a reader, which may be any
// goroutines. It never grows.
type boundedBuffer struct {
	mu     sync.Mutex // guards what follows
	data   []byte
	start  int
	n      int
	closed bool

	room  chan struct{} // a token: something was read
	bytes chan struct{} // a token: something was written, or the end
}

func newBoundedBuffer(size int) *boundedBuffer {
	return &boundedBuffer{
		data:  make([]byte, size),
		room:  make(chan struct{}, 1),
		bytes: make(chan struct{}, 1),
	}
}

// token leaves one in c, which has room for one.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (b *boundedBuffer) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

// write adds as much of p as there is room for, at least a byte. It waits for
// room, and reports false if done is closed or the buffer is meanwhile.
func (b *boundedBuffer) write(p []byte, done <-chan struct{}) (int, bool) {
	for {
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return 0, false
		}
		n := 0
		for n < len(p) && b.n < len(b.data) {
			end := (b.start + b.n) % len(b.data)
			limit := len(b.data)
			if end < b.start {
				limit = b.start
			}
			k := copy(b.data[end:limit], p[n:])
			b.n += k
			n += k
		}
		b.mu.Unlock()
		if n > 0 {
			token(b.bytes)
			return n, true
		}
		select {
		case <-b.room:
		case <-done:
			return 0, false
		}
	}
}

// read takes what there is, up to len(p).
func (b *boundedBuffer) read(p []byte) int {
	b.mu.Lock()
	n := 0
	for n < len(p) && b.n > 0 {
		k := copy(p[n:], b.data[b.start:min(b.start+b.n, len(b.data))])
		b.start = (b.start + k) % len(b.data)
		b.n -= k
		n += k
	}
	b.mu.Unlock()
	if n > 0 {
		token(b.room)
	}
	return n
}

// readWait is read, but waits for a byte. It returns zero at the end.
func (b *boundedBuffer) readWait(p []byte) int {
	for {
		if n := b.read(p); n > 0 {
			return n
		}
		b.mu.Lock()
		closed := b.closed
		b.mu.Unlock()
		if closed {
			return 0
		}
		<-b.bytes
	}
}

// close ends the buffer for its writer; its reader gets what is in it first.
func (b *boundedBuffer) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	token(b.bytes)
	token(b.room)
}
