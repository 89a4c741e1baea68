package flatten

import (
	"bytes"
	"hash/maphash"
	"slices"

	"github.com/sandpit-vm/sandpit/ociroot/erofs"
)

// entry is a name in the tree: 32 bytes without a pointer. Entries refer to each
// other by number; 0 is none.
type entry struct {
	node   erofs.NodeID
	parent uint32
	child  uint32 // of a directory: the first
	next   uint32 // siblings
	prev   uint32
	chain  uint32 // the next in the index's bucket
	name   uint32 // in tree.names, behind its length
	layer  uint16 // the last that named it or something below it
	flags  uint8
}

const (
	flagDir      = 1 << iota // it is a directory
	flagExplicit             // layer had an entry for it, not just below it
	flagClean                // a directory that has nothing of the layers below layer
)

// rootEntry is the root directory's.
const rootEntry = 1

// Entries are kept in segments, so that growing copies nothing.
const segmentBits = 10

type segment [1 << segmentBits]entry

// tree is the names of the file system, with an index by parent and name.
type tree struct {
	layer uint16 // the current, from 1

	segments []*segment
	count    uint32
	recycled uint32 // list of free entries, by next
	names    names

	seed    maphash.Seed
	buckets []uint32
	live    uint32
}

func (t *tree) init(root erofs.NodeID) {
	t.seed = maphash.MakeSeed()
	t.buckets = make([]uint32, 1<<10)
	t.segments = []*segment{new(segment)}
	t.count = 2
	*t.at(rootEntry) = entry{node: root, parent: rootEntry, flags: flagDir}
}

func (t *tree) at(e uint32) *entry {
	return &t.segments[e>>segmentBits][e&(1<<segmentBits-1)]
}

func (t *tree) name(e uint32) []byte { return t.names.get(t.at(e).name) }

func (t *tree) isDir(e uint32) bool { return t.at(e).flags&flagDir != 0 }

// touch marks an entry as the current layer's.
func (t *tree) touch(e uint32) {
	if p := t.at(e); p.layer != t.layer {
		p.layer = t.layer
		p.flags &= flagDir
	}
}

// clean says if a directory has nothing of lower layers.
func (t *tree) clean(e uint32) bool {
	p := t.at(e)
	return p.layer == t.layer && p.flags&flagClean != 0
}

// bucket is where the index keeps a name. The seed is secret and the tree's
// order does not depend on it: names that collide cannot be prepared.
func (t *tree) bucket(parent uint32, name []byte) *uint32 {
	h := maphash.Bytes(t.seed, name) ^ uint64(parent)*0x9e3779b97f4a7c15
	return &t.buckets[(h^h>>32)&uint64(len(t.buckets)-1)]
}

// lookup finds a name in a directory; 0 if it is not there.
func (t *tree) lookup(dir uint32, name []byte) uint32 {
	for e := *t.bucket(dir, name); e != 0; e = t.at(e).chain {
		if p := t.at(e); p.parent == dir && bytes.Equal(t.names.get(p.name), name) {
			return e
		}
	}
	return 0
}

// insert adds a name, which must not be there, to a directory.
func (t *tree) insert(dir uint32, name []byte, node erofs.NodeID, flags uint8) uint32 {
	e := t.recycled
	if e != 0 {
		t.recycled = t.at(e).next
	} else {
		e = t.count
		t.count++
		if int(e>>segmentBits) == len(t.segments) {
			t.segments = append(t.segments, new(segment))
		}
	}
	if t.live++; int(t.live) > len(t.buckets) {
		t.grow()
	}
	d, b := t.at(dir), t.bucket(dir, name)
	*t.at(e) = entry{
		node: node, parent: dir, next: d.child, chain: *b, name: t.names.add(name), layer: t.layer, flags: flags,
	}
	if d.child != 0 {
		t.at(d.child).prev = e
	}
	d.child = e
	*b = e
	return e
}

// grow doubles the index.
func (t *tree) grow() {
	old := t.buckets
	t.buckets = make([]uint32, 2*len(old))
	for _, e := range old {
		for e != 0 {
			p := t.at(e)
			next := p.chain
			b := t.bucket(p.parent, t.names.get(p.name))
			p.chain, *b = *b, e
			e = next
		}
	}
}

// remove takes out an entry that has no children.
func (t *tree) remove(e uint32) {
	p := t.at(e)
	b := t.bucket(p.parent, t.names.get(p.name))
	for *b != e {
		b = &t.at(*b).chain
	}
	*b = p.chain
	if p.prev != 0 {
		t.at(p.prev).next = p.next
	} else {
		t.at(p.parent).child = p.next
	}
	if p.next != 0 {
		t.at(p.next).prev = p.prev
	}
	t.live--
	*p = entry{next: t.recycled}
	t.recycled = e
}

// dropIndex frees what only lookups and changes need.
func (t *tree) dropIndex() { t.buckets = nil }

// sortAll puts every directory's entries in bytewise order, and shows each
// directory to f. Nothing may be looked up or changed afterwards.
func (t *tree) sortAll(f func(dir uint32)) {
	var kids []uint32
	for e := uint32(rootEntry); e < t.count; e++ {
		p := t.at(e)
		if p.node == 0 || p.flags&flagDir == 0 {
			continue
		}
		f(e)
		kids = kids[:0]
		for k := p.child; k != 0; k = t.at(k).next {
			kids = append(kids, k)
		}
		slices.SortFunc(kids, func(a, b uint32) int { return bytes.Compare(t.name(a), t.name(b)) })
		link := &p.child
		for _, k := range kids {
			*link = k
			link = &t.at(k).next
		}
		*link = 0
	}
}

// names keeps names without an allocation for each: a byte with the length, and
// the name.
type names struct {
	chunks [][]byte
	size   int64
}

const nameChunkBits = 16

func (n *names) add(name []byte) uint32 {
	k := len(n.chunks) - 1
	if k < 0 || cap(n.chunks[k])-len(n.chunks[k]) < len(name)+1 {
		n.chunks = append(n.chunks, make([]byte, 0, 1<<nameChunkBits))
		k++
	}
	ref := uint32(k)<<nameChunkBits | uint32(len(n.chunks[k]))
	n.chunks[k] = append(append(n.chunks[k], byte(len(name))), name...)
	n.size += int64(len(name)) + 1
	return ref
}

func (n *names) get(ref uint32) []byte {
	b := n.chunks[ref>>nameChunkBits][ref&(1<<nameChunkBits-1):]
	return b[1 : 1+int(b[0]) : 1+int(b[0])]
}
