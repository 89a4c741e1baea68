package flatten

import (
	"io"

	"github.com/sandpit-vm/sandpit/ociroot/erofs"
)

// putFile adds a regular file with the data of r.
func (b *Builder) putFile(dir uint32, name []byte, attr erofs.Attr, r io.Reader, size int64) error {
	if size < 0 || size > b.limits.Bytes-b.bytes {
		return &LimitError{"Bytes", b.limits.Bytes}
	}
	b.bytes += size
	data, err := b.w.WriteData(r, size)
	if err != nil {
		return err
	}
	id, err := b.w.AddFile(attr, data)
	return b.put(dir, name, id, err)
}

// putDir adds a directory, or replaces the attributes of the one that is there.
func (b *Builder) putDir(dir uint32, name []byte, attr erofs.Attr) error {
	e := b.tree.lookup(dir, name)
	if e == 0 || !b.tree.isDir(e) {
		id, err := b.w.AddDir(attr)
		return b.put(dir, name, id, err)
	}
	b.tree.touch(e)
	p := b.tree.at(e)
	p.flags |= flagExplicit
	if err := b.w.SetAttr(p.node, attr); err != nil {
		return err
	}
	return b.checkText()
}

// put adds a name for an inode in the place of what is there. It takes the error
// of what made the inode, so that callers need not look at it.
func (b *Builder) put(dir uint32, name []byte, id erofs.NodeID, err error) error {
	if err != nil {
		return err
	}
	b.w.Link(id) // first: what goes may be the inode's other name
	if e := b.tree.lookup(dir, name); e != 0 {
		if err := b.removeAll(e); err != nil {
			return err
		}
	}
	flags := uint8(flagExplicit)
	if b.w.Mode(id)&erofs.ModeType == erofs.ModeDir {
		flags |= flagDir | flagClean
	}
	b.tree.insert(dir, name, id, flags)
	return b.checkText()
}
