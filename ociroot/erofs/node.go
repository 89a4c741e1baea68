package erofs

import (
	"bytes"
	"time"
)

// NodeID names an inode of a [Writer]. 0 is none.
type NodeID uint32

// Attr is what an inode is, besides its content.
type Attr struct {
	Mode      uint16 // permissions, set-id and sticky bits; the type bits are the writer's but for special files
	UID, GID  uint32
	Mtime     int64 // seconds since 1970, may be negative
	MtimeNsec uint32
	Rdev      uint32 // of devices, see MakeDev
	Xattrs    []Xattr
}

// Options are an image's properties. The zero value is good.
type Options struct {
	BuildTime  time.Time // default 1970
	UUID       [16]byte  // default zeros
	VolumeName string    // cut at 15 bytes
}

// node is an inode in memory: 48 bytes without a pointer.
type node struct {
	size  int64 // of a file's data, a link's target, a directory's entries
	mtime int64
	nsec  uint32
	uid   uint32
	gid   uint32
	links uint32
	xattr uint32 // index in xattrTable.sets
	nid   uint32
	// data depends on the mode and the layout: a file's first block or 1 + the
	// index of its chunks, a device's number, where a link's target lies in the
	// arena, a directory's parent.
	data   uint32
	mode   uint16
	layout uint8
}

// Nodes are kept in segments, so that growing copies nothing.
const segmentBits = 10

type segment [1 << segmentBits]node

// Writer makes one image.
type Writer struct {
	options Options
	data    stream
	err     error // of the output: nothing works after it

	nodes    []*segment
	count    uint32   // nodes given out, with number 0
	recycled []NodeID // nodes that lost their last link
	chunks   []uint32 // block numbers of the chunks of sparse files
	text     arena
	xattrs   xattrTable

	freed       []extent
	freedBlocks int64

	order []NodeID // Close: the inodes as they are written
	size  int64    // Close: of the image
}

// bufferSize is a compromise: pwrite is no faster beyond a few 100 KiB.
const bufferSize = 1 << 20

// NewWriter starts an image in out, and empties out. Its errors show later.
func NewWriter(out Output, o Options) *Writer {
	w := &Writer{
		options: o,
		data:    stream{out: out, buf: make([]byte, bufferSize), pos: blockSize},
		count:   1,
		xattrs:  newXattrTable(),
	}
	if err := out.Truncate(0); err != nil {
		w.err = &Error{"truncate image", err}
	}
	return w
}

// usable returns why nothing can be done any more.
func (w *Writer) usable(op string) error {
	if w.err == ErrClosed {
		return &Error{op, ErrClosed}
	}
	return w.err
}

// fail remembers an error of the output.
func (w *Writer) fail(err error) error {
	if err != nil && w.err == nil {
		w.err = err
	}
	return err
}

// node returns an inode that was given out.
func (w *Writer) node(id NodeID) *node {
	return &w.nodes[id>>segmentBits][id&(1<<segmentBits-1)]
}

// known says if the identifier is one of this writer's.
func (w *Writer) known(id NodeID) bool { return id != 0 && uint32(id) < w.count }

// Limit is one more than the largest NodeID given out.
func (w *Writer) Limit() NodeID { return NodeID(w.count) }

// TextBytes is how much memory link targets and extended attributes take: what
// a caller that reads hostile input may want to bound.
func (w *Writer) TextBytes() int64 { return w.text.size + w.xattrs.size }

// add makes an inode.
func (w *Writer) add(op string, mode uint16, a Attr) (NodeID, *node, error) {
	if err := w.usable(op); err != nil {
		return 0, nil, err
	}
	var id NodeID
	if n := len(w.recycled); n > 0 {
		id = w.recycled[n-1]
	} else if w.count == ^uint32(0) {
		return 0, nil, tooLarge(op, "more than %d inodes", w.count)
	} else {
		id = NodeID(w.count)
		if int(id>>segmentBits) == len(w.nodes) {
			w.nodes = append(w.nodes, new(segment))
		}
	}
	n := node{mode: mode}
	if err := w.setAttr(op, &n, a); err != nil {
		return 0, nil, err
	}
	if k := len(w.recycled); k > 0 {
		w.recycled = w.recycled[:k-1]
	} else {
		w.count++
	}
	p := w.node(id)
	*p = n
	return id, p, nil
}

func (w *Writer) setAttr(op string, n *node, a Attr) error {
	if a.MtimeNsec >= 1e9 {
		return invalid(op, "%d nanoseconds", a.MtimeNsec)
	}
	set, err := w.xattrs.add(op, a.Xattrs)
	if err != nil {
		return err
	}
	n.mode = n.mode&ModeType | a.Mode&^ModeType
	n.uid, n.gid = a.UID, a.GID
	n.mtime, n.nsec = a.Mtime, a.MtimeNsec
	n.xattr = set
	return nil
}

// AddFile makes a regular file of data, which belongs to it from now on.
func (w *Writer) AddFile(a Attr, d Data) (NodeID, error) {
	id, n, err := w.add("add file", ModeRegular, a)
	if err != nil {
		return 0, err
	}
	n.size, n.data, n.layout = d.size, d.block, layoutPlain
	if d.chunk != 0 {
		n.data, n.layout = d.chunk, layoutChunks
	}
	return id, nil
}

// AddDir makes a directory. What is in it is said at the end, see [Writer.Close].
func (w *Writer) AddDir(a Attr) (NodeID, error) {
	id, _, err := w.add("add directory", ModeDir, a)
	return id, err
}

// AddSymlink makes a symbolic link to target: 1 to 4095 bytes, none of them 0.
func (w *Writer) AddSymlink(a Attr, target []byte) (NodeID, error) {
	const op = "add symbolic link"
	if len(target) == 0 || len(target) > targetMax || bytes.IndexByte(target, 0) >= 0 {
		return 0, invalid(op, "target %.64q of %d bytes", target, len(target))
	}
	id, n, err := w.add(op, ModeSymlink, a)
	if err != nil {
		return 0, err
	}
	n.size, n.data = int64(len(target)), w.text.add(target)
	return id, nil
}

// AddSpecial makes the device, FIFO or socket that the attributes' Mode says.
func (w *Writer) AddSpecial(a Attr) (NodeID, error) {
	const op = "add special file"
	t := a.Mode & ModeType
	switch t {
	case ModeChar, ModeBlock, ModeFIFO, ModeSocket:
	default:
		return 0, invalid(op, "mode %#o", a.Mode)
	}
	id, n, err := w.add(op, t, a)
	if err != nil {
		return 0, err
	}
	if t == ModeChar || t == ModeBlock {
		n.data = a.Rdev
	}
	return id, nil
}

// SetAttr changes an inode's attributes; its type and its device number stay.
func (w *Writer) SetAttr(id NodeID, a Attr) error {
	const op = "set attributes"
	if err := w.usable(op); err != nil {
		return err
	}
	if !w.known(id) {
		return invalid(op, "inode %d", id)
	}
	return w.setAttr(op, w.node(id), a)
}

// Mode returns an inode's type and permissions.
func (w *Writer) Mode(id NodeID) uint16 { return w.node(id).mode }

// FileSize returns a regular file's length, a symbolic link's too.
func (w *Writer) FileSize(id NodeID) int64 { return w.node(id).size }

// Target returns where a symbolic link points; not to be changed. It is nil for
// other inodes.
func (w *Writer) Target(id NodeID) []byte {
	n := w.node(id)
	if n.mode&ModeType != ModeSymlink {
		return nil
	}
	return w.text.get(n.data, int(n.size))
}

// Link counts a reference to an inode, [Writer.Unlink] takes it back. With the
// last one gone the inode's space is free and its identifier belongs to nobody.
// Both are optional: inodes that are not in the tree are not written, but what
// their data takes is not freed.
func (w *Writer) Link(id NodeID) { w.node(id).links++ }

// Unlink takes back a [Writer.Link].
func (w *Writer) Unlink(id NodeID) error {
	const op = "unlink"
	if err := w.usable(op); err != nil {
		return err
	}
	if !w.known(id) || w.node(id).links == 0 {
		return invalid(op, "inode %d has no link", id)
	}
	n := w.node(id)
	if n.links--; n.links > 0 {
		return nil
	}
	w.recycled = append(w.recycled, id)
	if n.mode&ModeType != ModeRegular {
		return nil
	}
	d := Data{size: n.size, block: n.data}
	if n.layout == layoutChunks {
		d.chunk = n.data
	}
	return w.fail(w.discard(d))
}

// arena keeps short byte strings without an allocation for each.
type arena struct {
	chunks [][]byte
	size   int64
}

const arenaChunkBits = 16

// add copies p, at most 4095 bytes, and returns where it is.
func (a *arena) add(p []byte) uint32 {
	k := len(a.chunks) - 1
	if k < 0 || cap(a.chunks[k])-len(a.chunks[k]) < len(p) {
		a.chunks = append(a.chunks, make([]byte, 0, 1<<arenaChunkBits))
		k++
	}
	ref := uint32(k)<<arenaChunkBits | uint32(len(a.chunks[k]))
	a.chunks[k] = append(a.chunks[k], p...)
	a.size += int64(len(p))
	return ref
}

func (a *arena) get(ref uint32, n int) []byte {
	off := ref & (1<<arenaChunkBits - 1)
	return a.chunks[ref>>arenaChunkBits][off:][:n:n]
}
