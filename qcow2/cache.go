package qcow2

import "container/list"

// maxSlice is how much of a table is cached at once. Tables are up to 2 MiB; a
// slice of 4 KiB describes 32 MiB of a disk with clusters of 64 KiB.
const maxSlice = 4096

// Bytes of the two caches, of which only what is used is ever allocated.
const (
	l2CacheBytes  = 2 << 20 // 16 GiB of a disk with clusters of 64 KiB
	refCacheBytes = 256 << 10
)

// slice is a part of a table, as it is in memory.
type slice struct {
	off   int64 // in the file
	data  []byte
	dirty bool
}

// cache holds the slices that were used last, by their place in the file.
type cache struct {
	size  int // of a slice, in bytes; divides a cluster
	limit int // slices
	all   map[int64]*list.Element
	order list.List // of *slice, the last used first
	dirty int       // slices that are
}

func newCache(clusterSize int64, bytes int) cache {
	size := int(min(clusterSize, maxSlice))
	return cache{size: size, limit: max(bytes/size, 8), all: map[int64]*list.Element{}}
}

// get returns the slice at off if it is here.
func (c *cache) get(off int64) *slice {
	if e := c.order.Front(); e != nil && e.Value.(*slice).off == off {
		return e.Value.(*slice)
	}
	e := c.all[off]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*slice)
}

// victim is the slice that goes when another comes, nil if there is room: of the
// half used longest ago the first that is clean, if there is one.
func (c *cache) victim() *slice {
	if len(c.all) < c.limit {
		return nil
	}
	e := c.order.Back()
	for range c.limit / 2 {
		if s := e.Value.(*slice); !s.dirty {
			return s
		}
		e = e.Prev()
	}
	return c.order.Back().Value.(*slice)
}

// add puts in a slice with the given content, in the place of the victim, which
// must be clean.
func (c *cache) add(off int64, read func(p []byte) error) (*slice, error) {
	var s *slice
	if old := c.victim(); old != nil {
		s = old
		e := c.all[old.off]
		delete(c.all, old.off)
		c.order.Remove(e)
	} else {
		s = &slice{data: make([]byte, c.size)}
	}
	s.off = off
	if err := read(s.data); err != nil {
		return nil, err
	}
	c.all[off] = c.order.PushFront(s)
	return s, nil
}

// drop forgets the slices of a table that is no longer one.
func (c *cache) drop(off, n int64) {
	for at := off; at < off+n; at += int64(c.size) {
		if e := c.all[at]; e != nil {
			c.mark(e.Value.(*slice), false)
			c.order.Remove(e)
			delete(c.all, at)
		}
	}
}

func (c *cache) mark(s *slice, dirty bool) {
	if s.dirty == dirty {
		return
	}
	s.dirty = dirty
	if dirty {
		c.dirty++
	} else {
		c.dirty--
	}
}

// each calls f for every dirty slice.
func (c *cache) each(f func(*slice) error) error {
	for e := c.order.Front(); e != nil && c.dirty > 0; e = e.Next() {
		if s := e.Value.(*slice); s.dirty {
			if err := f(s); err != nil {
				return err
			}
		}
	}
	return nil
}
