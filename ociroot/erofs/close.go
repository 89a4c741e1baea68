package erofs

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
)

const opClose = "close image"

// Close writes the tree from root on, which list describes, and with it the
// image. Hard links are inodes that it names more than once. Nothing works on
// the writer afterwards but [Writer.Size].
func (w *Writer) Close(root NodeID, list Lister) error {
	if err := w.usable(opClose); err != nil {
		return err
	}
	if err := w.close(root, list); err != nil {
		return w.fail(err)
	}
	w.err = ErrClosed
	w.nodes, w.chunks, w.text, w.xattrs, w.order, w.data.buf = nil, nil, arena{}, xattrTable{}, nil, nil
	return nil
}

// Size is the image's size in bytes, once it is closed.
func (w *Writer) Size() int64 { return w.size }

func (w *Writer) close(root NodeID, list Lister) error {
	if !w.known(root) || w.Mode(root)&ModeType != ModeDir {
		return invalid(opClose, "the root is no directory")
	}
	if err := w.punch(); err != nil {
		return err
	}
	if err := w.walk(root, list); err != nil {
		return err
	}

	// The three parts of the metadata, each from the start of a block.
	dirs := w.data.end()
	shared := w.xattrs.layOutShared()
	dirBytes, inodeBytes, chunked, err := w.layOut()
	if err != nil {
		return err
	}
	attrs := dirs + dirBytes
	meta := attrs + roundUp(shared, blockSize)
	w.size = roundUp(meta+inodeBytes, blockSize)
	if w.size/blockSize > maxBlocks {
		return tooLarge(opClose, "%d blocks", w.size/blockSize)
	}

	// Directories' blocks and inodes are written at the same time.
	half := len(w.data.buf) / 2
	if err := w.data.flush(); err != nil {
		return err
	}
	buf := w.data.buf
	w.data = stream{out: w.data.out, buf: buf[:half], pos: dirs}
	inodes := &stream{out: w.data.out, buf: buf[half:], pos: attrs}
	if err := w.xattrs.writeShared(inodes); err != nil {
		return err
	}
	if err := inodes.pad(meta); err != nil {
		return err
	}
	if err := w.writeInodes(inodes, meta, list); err != nil {
		return err
	}
	if err := inodes.pad(w.size); err != nil {
		return err
	}
	for _, s := range []*stream{&w.data, inodes} {
		if err := s.flush(); err != nil {
			return err
		}
	}

	sb := superblock{
		options: w.options,
		root:    uint16(w.node(root).nid),
		inodes:  uint64(len(w.order)),
		blocks:  uint32(w.size / blockSize),
		meta:    uint32(meta / blockSize),
		xattrs:  uint32(attrs / blockSize),
	}
	if chunked {
		sb.incompat = incompatChunked
	}
	if _, err := w.data.out.WriteAt(sb.encode(), 0); err != nil {
		return &Error{"write superblock", err}
	}
	if err := w.data.out.Truncate(w.size); err != nil {
		return &Error{"truncate image", err}
	}
	return nil
}

// walk finds the inodes of the tree, in the order in which they will be written:
// those of a directory one after the other, then those of its first
// subdirectory. It counts links and attributes, and measures directories.
func (w *Writer) walk(root NodeID, list Lister) error {
	for id := NodeID(1); id < w.Limit(); id++ {
		w.node(id).links = 0
	}
	w.order = append(make([]NodeID, 0, w.count-1), root)
	r := w.node(root)
	r.links, r.data = 2, uint32(root)
	w.xattrs.use(r.xattr)
	var pack dirPacker
	var last []byte
	for stack := []NodeID{root}; len(stack) > 0; {
		dir := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		below := len(stack)
		pack.reset()
		last = last[:0]
		d := w.node(dir)
		err := w.eachEntry(list, dir, NodeID(d.data), func(name []byte, id NodeID, listed bool) error {
			if !listed {
				return pack.add(name, 0, 0)
			}
			if err := checkName(opClose, name); err != nil {
				return err
			}
			if bytes.Compare(last, name) >= 0 {
				return invalid(opClose, "name %q comes after %q", name, last)
			}
			last = append(last[:0], name...)
			if !w.known(id) {
				return invalid(opClose, "inode %d", id)
			}
			n := w.node(id)
			n.links++
			if n.links == 1 {
				w.order = append(w.order, id)
				w.xattrs.use(n.xattr)
			}
			if n.mode&ModeType == ModeDir {
				if n.links > 1 {
					return invalid(opClose, "directory %q is in the tree twice", name)
				}
				n.links, n.data = 2, uint32(dir)
				d.links++
				stack = append(stack, id)
			}
			return pack.add(name, 0, 0)
		})
		if err != nil {
			return err
		}
		d.size = pack.size()
		slices.Reverse(stack[below:])
	}
	return nil
}

// layOut gives every inode its place and its layout. It returns the sizes of the
// blocks of directories and of the inodes, and if there are sparse files.
func (w *Writer) layOut() (dirs, inodes int64, chunked bool, err error) {
	inodes = inodeSize // 0 is no good number for an inode
	for _, id := range w.order {
		n := w.node(id)
		body := inodeSize + w.xattrs.bodySize(n.xattr)
		together := int64(inodeSize) // must be in one block
		switch n.mode & ModeType {
		case ModeDir, ModeSymlink:
			tail := n.size % blockSize
			if n.layout = layoutPlain; tail > 0 && body+tail <= blockSize {
				n.layout = layoutInline
				body += tail
				together = body
				dirs += n.size - tail
			} else {
				dirs += roundUp(n.size, blockSize)
			}
		case ModeRegular:
			if n.layout == layoutChunks {
				chunked = true
				body += 4 * int64(len(w.chunksOf(n.size, n.data)))
			}
		}
		if inodes%blockSize+together > blockSize {
			inodes = roundUp(inodes, blockSize)
		}
		if inodes/slotSize > math.MaxUint32 {
			return 0, 0, false, tooLarge(opClose, "more than %d bytes of inodes", inodes)
		}
		n.nid = uint32(inodes / slotSize)
		inodes = roundUp(inodes+body, slotSize)
	}
	return dirs, inodes, chunked, nil
}

// writeInodes writes the inodes to s, and what of directories and links is not
// beside them to w.data.
func (w *Writer) writeInodes(s *stream, meta int64, list Lister) error {
	le := binary.LittleEndian
	pack := dirPacker{emit: w.data.write}
	var b []byte
	for i, id := range w.order {
		n := w.node(id)
		if err := s.pad(meta + int64(n.nid)*slotSize); err != nil {
			return err
		}
		var content []byte // of a directory's last block, of a link
		data := n.data
		switch n.mode & ModeType {
		case ModeDir:
			parent := NodeID(n.data)
			data = uint32(w.data.end() / blockSize)
			pack.reset()
			err := w.eachEntry(list, id, parent, func(name []byte, id NodeID, _ bool) error {
				if !w.known(id) {
					return invalid(opClose, "inode %d", id)
				}
				c := w.node(id)
				return pack.add(name, c.nid, fileType(c.mode))
			})
			if err != nil {
				return err
			}
			if pack.size() != n.size {
				return invalid(opClose, "a directory changed meanwhile")
			}
			content = pack.tail()
		case ModeSymlink:
			data = uint32(w.data.end() / blockSize)
			content = w.text.get(n.data, int(n.size))
		case ModeRegular:
			if n.layout == layoutChunks {
				data = chunkBits
			}
		}
		b = append(b[:0], make([]byte, inodeSize)...)
		le.PutUint16(b[0:], extended|uint16(n.layout)<<1)
		b = w.xattrs.appendBody(b, n.xattr)
		if n.xattr != 0 {
			le.PutUint16(b[2:], uint16(1+(len(b)-inodeSize-xattrHeaderSize)/4))
		}
		le.PutUint16(b[4:], n.mode)
		le.PutUint64(b[8:], uint64(n.size))
		le.PutUint32(b[16:], data)
		le.PutUint32(b[20:], uint32(i+1))
		le.PutUint32(b[24:], n.uid)
		le.PutUint32(b[28:], n.gid)
		le.PutUint64(b[32:], uint64(n.mtime))
		le.PutUint32(b[40:], n.nsec)
		le.PutUint32(b[44:], n.links)
		switch {
		case n.layout == layoutChunks:
			for _, block := range w.chunksOf(n.size, n.data) {
				b = le.AppendUint32(b, block)
			}
		case n.layout == layoutInline:
			b = append(b, content...)
		case len(content) > 0:
			if err := w.data.write(content); err != nil {
				return err
			}
			if err := w.data.pad(roundUp(w.data.end(), blockSize)); err != nil {
				return err
			}
		}
		if err := s.write(b); err != nil {
			return err
		}
	}
	return nil
}
