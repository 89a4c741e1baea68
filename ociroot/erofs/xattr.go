package erofs

import (
	"encoding/binary"
	"slices"
	"strings"
)

// Xattr is an extended attribute: its full name, such as "security.capability",
// and its value, up to 65535 bytes.
type Xattr struct {
	Name  string
	Value []byte
}

// EROFS names an attribute by the index of its prefix and the rest.
var xattrPrefixes = []struct {
	index  byte
	prefix string
	whole  bool // the prefix is all of the name
}{
	{1, "user.", false},
	{2, "system.posix_acl_access", true},
	{3, "system.posix_acl_default", true},
	{4, "trusted.", false},
	{6, "security.", false},
}

// splitXattr finds the prefix.
func splitXattr(name string) (index byte, rest string, ok bool) {
	for _, p := range xattrPrefixes {
		rest, found := strings.CutPrefix(name, p.prefix)
		if found && p.whole == (rest == "") && len(rest) <= nameMax {
			return p.index, rest, strings.IndexByte(rest, 0) < 0
		}
	}
	return 0, "", false
}

// XattrOK says if EROFS can express an attribute's name, and so Linux can show
// it: user.*, trusted.*, security.*, and the two of POSIX ACLs.
func XattrOK(name string) bool {
	_, _, ok := splitXattr(name)
	return ok
}

// What an inode's attributes may take: i_xattr_icount has 16 bits, and counts
// words.
const maxXattrBody = xattrHeaderSize + 4*(1<<16-2)

// Attributes up to this size are shared: then none crosses a block, and many
// fit into one.
const maxShared = blockSize / 4

// xattrEntry is a distinct attribute as it is on disk.
type xattrEntry struct {
	raw    string // padded to a multiple of 4
	uses   uint32 // Close: inodes that have it
	shared bool
	id     uint32 // of a shared one: its offset in words
}

// xattrTable holds the distinct attributes and sets of them. Set 0 is empty.
type xattrTable struct {
	entries  []xattrEntry
	entryIDs map[string]uint32
	sets     [][]uint32
	setIDs   map[string]uint32
	size     int64 // bytes of memory, roughly
}

func newXattrTable() xattrTable {
	return xattrTable{entryIDs: map[string]uint32{}, sets: [][]uint32{nil}, setIDs: map[string]uint32{}}
}

// What the maps and slices take for an entry and a set.
const xattrOverhead = 128

// add returns the number of the set of these attributes.
func (t *xattrTable) add(op string, xattrs []Xattr) (uint32, error) {
	if len(xattrs) == 0 {
		return 0, nil
	}
	// In the order of their names: the same set is the same, however it is given.
	xattrs = slices.SortedFunc(slices.Values(xattrs), func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	raws := make([]string, 0, len(xattrs))
	total := xattrHeaderSize
	for i, x := range xattrs {
		if i > 0 && xattrs[i-1].Name == x.Name {
			return 0, invalid(op, "attribute %.300q is there twice", x.Name)
		}
		index, rest, ok := splitXattr(x.Name)
		if !ok {
			return 0, invalid(op, "attribute name %.300q", x.Name)
		}
		if len(x.Value) > 1<<16-1 {
			return 0, tooLarge(op, "%d bytes in attribute %q", len(x.Value), x.Name)
		}
		raw := encodeXattr(index, rest, x.Value)
		total += len(raw) + 4
		raws = append(raws, raw)
	}
	if total > maxXattrBody {
		return 0, tooLarge(op, "%d bytes of attributes", total)
	}
	key := make([]byte, 0, 4*len(raws))
	set := make([]uint32, 0, len(raws))
	for _, raw := range raws {
		id, ok := t.entryIDs[raw]
		if !ok {
			id = uint32(len(t.entries))
			t.entries = append(t.entries, xattrEntry{raw: raw})
			t.entryIDs[raw] = id
			t.size += int64(len(raw)) + xattrOverhead
		}
		set = append(set, id)
		key = binary.LittleEndian.AppendUint32(key, id)
	}
	id, ok := t.setIDs[string(key)]
	if !ok {
		id = uint32(len(t.sets))
		t.sets = append(t.sets, set)
		t.setIDs[string(key)] = id
		t.size += 2*int64(len(key)) + xattrOverhead
	}
	return id, nil
}

// encodeXattr makes a struct erofs_xattr_entry with name and value.
func encodeXattr(index byte, name string, value []byte) string {
	b := make([]byte, 0, roundUp(int64(xattrEntrySize+len(name)+len(value)), 4))
	b = append(b, byte(len(name)), index)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	b = append(b, name...)
	b = append(b, value...)
	return string(b[:cap(b)])
}

// use counts an inode with the set.
func (t *xattrTable) use(set uint32) {
	for _, id := range t.sets[set] {
		t.entries[id].uses++
	}
}

// layOutShared decides which attributes are shared, and where each is. It
// returns the size of the area.
func (t *xattrTable) layOutShared() int64 {
	pos := int64(0)
	for i := range t.entries {
		e := &t.entries[i]
		n := int64(len(e.raw))
		if e.uses < 2 || n > maxShared || pos+n > 1<<33 {
			continue
		}
		if pos%blockSize+n > blockSize {
			pos = roundUp(pos, blockSize)
		}
		e.shared, e.id = true, uint32(pos/4)
		pos += n
	}
	return pos
}

// writeShared writes what layOutShared placed.
func (t *xattrTable) writeShared(s *stream) error {
	start := s.end()
	for _, e := range t.entries {
		if !e.shared {
			continue
		}
		if err := s.pad(start + int64(e.id)*4); err != nil {
			return err
		}
		if err := s.write([]byte(e.raw)); err != nil {
			return err
		}
	}
	return nil
}

// maxSharedCount is what h_shared_count can say.
const maxSharedCount = 255

// split returns which of a set are shared, and the others.
func (t *xattrTable) split(set uint32, shared, inline []uint32) ([]uint32, []uint32) {
	for _, id := range t.sets[set] {
		if t.entries[id].shared && len(shared) < maxSharedCount {
			shared = append(shared, id)
		} else {
			inline = append(inline, id)
		}
	}
	return shared, inline
}

// bodySize is what a set takes behind an inode.
func (t *xattrTable) bodySize(set uint32) int64 {
	if set == 0 {
		return 0
	}
	n, shared := int64(xattrHeaderSize), 0
	for _, id := range t.sets[set] {
		if t.entries[id].shared && shared < maxSharedCount {
			n, shared = n+4, shared+1
		} else {
			n += int64(len(t.entries[id].raw))
		}
	}
	return n
}

// appendBody appends a set as it is behind an inode.
func (t *xattrTable) appendBody(b []byte, set uint32) []byte {
	if set == 0 {
		return b
	}
	shared, inline := t.split(set, nil, nil)
	b = append(b, 0, 0, 0, 0, byte(len(shared)), 0, 0, 0, 0, 0, 0, 0)
	for _, id := range shared {
		b = binary.LittleEndian.AppendUint32(b, t.entries[id].id)
	}
	for _, id := range inline {
		b = append(b, t.entries[id].raw...)
	}
	return b
}
