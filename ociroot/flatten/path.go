package flatten

import (
	"bytes"

	"github.com/sandpit-vm/sandpit/ociroot/erofs"
)

const (
	pathMax     = 4095 // PATH_MAX without the NUL: no unpacker could make longer names
	nameMax     = 255  // NAME_MAX
	maxSymlinks = 40   // as the kernel's own path walk
	// maxSteps bounds the work that one name can cause, and with it the tree's
	// depth.
	maxSteps = 1024
)

// splitPath cleans a name: components without "", "." and "..". A name of the
// root has none.
func splitPath(parts [][]byte, name string) ([][]byte, error) {
	if len(name) > pathMax {
		return nil, malformed("name of %d bytes, Linux has at most %d", len(name), pathMax)
	}
	parts = parts[:0]
	for c := range bytes.SplitSeq([]byte(name), []byte{'/'}) {
		switch {
		case len(c) == 0 || string(c) == ".":
		case string(c) == "..":
			if len(parts) == 0 {
				return nil, ErrEscape
			}
			parts = parts[:len(parts)-1]
		case len(c) > nameMax:
			return nil, malformed("name component of %d bytes, Linux has at most %d", len(c), nameMax)
		case bytes.IndexByte(c, 0) >= 0:
			return nil, malformed("NUL in a name")
		default:
			parts = append(parts, c)
		}
	}
	return parts, nil
}

// made is how missing directories are made.
type made struct {
	mtime int64
	nsec  uint32
}

// resolve follows a directory's path inside the tree. If m is set, missing
// directories come into being and those on the way are marked as the current
// layer's; without it, the result is 0 if there is no such directory.
func (b *Builder) resolve(path [][]byte, m *made) (uint32, error) {
	dir := uint32(rootEntry)
	if m != nil {
		b.tree.touch(rootEntry)
	}
	links := 0
	rest := path
	for steps := 1; len(rest) > 0; steps++ {
		if steps > maxSteps {
			return 0, malformed("more than %d directories and symbolic links in a name", maxSteps)
		}
		c := rest[0]
		rest = rest[1:]
		switch {
		case len(c) == 0 || string(c) == ".":
			continue
		case string(c) == "..": // of a symbolic link's target
			dir = b.tree.at(dir).parent
			continue
		}
		e := b.tree.lookup(dir, c)
		if e != 0 && !b.tree.isDir(e) {
			if target := b.w.Target(b.tree.at(e).node); target != nil {
				if links++; links > maxSymlinks {
					return 0, malformed("more than %d symbolic links in a name", maxSymlinks)
				}
				if target[0] == '/' {
					dir = rootEntry
				}
				rest = append(bytes.Split(target, []byte{'/'}), rest...)
				continue
			}
			if m == nil {
				return 0, nil
			}
			if b.tree.at(e).layer == b.tree.layer {
				return 0, malformed("%q is no directory", c)
			}
			if err := b.removeAll(e); err != nil {
				return 0, err
			}
			e = 0
		}
		if e == 0 {
			if m == nil {
				return 0, nil
			}
			var err error
			if e, err = b.makeDir(dir, c, *m); err != nil {
				return 0, err
			}
		}
		dir = e
		if m != nil {
			b.tree.touch(e)
		}
	}
	return dir, nil
}

// makeDir makes a directory that no entry describes.
func (b *Builder) makeDir(parent uint32, name []byte, m made) (uint32, error) {
	if len(name) > nameMax {
		return 0, malformed("name component of %d bytes in a symbolic link's target", len(name))
	}
	if err := b.count(); err != nil {
		return 0, err
	}
	id, err := b.w.AddDir(implicit(m))
	if err != nil {
		return 0, err
	}
	b.w.Link(id)
	return b.tree.insert(parent, name, id, flagDir|flagClean), b.checkText()
}

func implicit(m made) erofs.Attr {
	return erofs.Attr{Mode: 0o755, Mtime: m.mtime, MtimeNsec: m.nsec}
}

// removeAll removes an entry with all below it.
func (b *Builder) removeAll(e uint32) error { return b.prune(e, false) }

// removeLower removes what lower layers brought of an entry and all below it:
// what the current layer has stays. A directory that stays only for what the
// layer has below it loses the lower layers' attributes.
func (b *Builder) removeLower(e uint32) error {
	if b.onlyUpper(e) {
		return nil
	}
	return b.prune(e, true)
}

// onlyUpper says if a directory or one that it is in has nothing of lower layers.
func (b *Builder) onlyUpper(e uint32) bool {
	for !b.tree.clean(e) {
		if e == rootEntry {
			return false
		}
		e = b.tree.at(e).parent
	}
	return true
}

// removeLowerIn does so with a directory's entries.
func (b *Builder) removeLowerIn(dir uint32) error {
	if b.onlyUpper(dir) {
		return nil
	}
	for e := b.tree.at(dir).child; e != 0; {
		next := b.tree.at(e).next
		if err := b.prune(e, true); err != nil {
			return err
		}
		e = next
	}
	if d := b.tree.at(dir); d.layer == b.tree.layer {
		d.flags |= flagClean
	}
	return nil
}

// prune is removeAll and removeLower. It does not look below directories that
// have nothing of lower layers, so that many whiteouts cost no more than one.
func (b *Builder) prune(top uint32, lower bool) error {
	for e := top; ; {
		if p := b.tree.at(e); p.child != 0 && !(lower && b.tree.clean(e)) {
			e = p.child
			continue
		}
		for {
			p := b.tree.at(e)
			next, parent := p.next, p.parent
			if err := b.leave(e, lower); err != nil {
				return err
			}
			if e == top {
				return nil
			}
			if next != 0 {
				e = next
				break
			}
			e = parent
		}
	}
}

// leave is prune at an entry whose children were seen.
func (b *Builder) leave(e uint32, lower bool) error {
	p := b.tree.at(e)
	if !lower || p.layer != b.tree.layer {
		id := p.node
		b.tree.remove(e)
		return b.w.Unlink(id)
	}
	if p.flags&flagDir == 0 || p.flags&flagClean != 0 {
		return nil
	}
	p.flags |= flagClean
	if p.flags&flagExplicit != 0 {
		return nil
	}
	return b.w.SetAttr(p.node, implicit(made{}))
}
