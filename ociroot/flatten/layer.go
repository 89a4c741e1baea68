package flatten

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"io"
	"strings"

	"github.com/sandpit-vm/sandpit/ociroot/erofs"
)

// Names of whiteouts, OCI image specification, layer.md.
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	aufsPrefix     = ".wh..wh."
)

// readBuffer saves calls of the decompressor for headers and small files.
const readBuffer = 256 << 10

// Layer adds a layer on top of what is there: an uncompressed tar archive, which
// is read to its end, beyond the archive's own if there is more. An error leaves
// the builder useless.
func (b *Builder) Layer(ctx context.Context, archive io.Reader) error {
	if err := b.begin(); err != nil {
		return err
	}
	src := &source{ctx: ctx, r: archive, b: b}
	buf := bufio.NewReaderSize(src, readBuffer)
	tr := tar.NewReader(buf)
	data := &content{ctx, tr}
	l := layer{b: b}
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if errors.Is(err, tar.ErrInsecurePath) {
			err = nil // a setting of the process's; names are judged below
		}
		if err == nil {
			err = l.entry(h, data)
		}
		if err != nil {
			name := ""
			if h != nil {
				name = h.Name
			}
			return b.fail(name, src.blame(err))
		}
	}
	// The digest of a layer is over all of it.
	if _, err := io.Copy(io.Discard, buf); err != nil {
		return b.fail("", src.blame(err))
	}
	return nil
}

// source reads the archive, and tells its failures from the archive's own.
type source struct {
	ctx context.Context
	r   io.Reader
	b   *Builder
	err error
}

func (s *source) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.err = s.ctx.Err(); s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	if s.b.stream += int64(n); s.b.stream > s.b.limits.Bytes {
		s.err = &LimitError{"Bytes", s.b.limits.Bytes}
		return n, s.err
	}
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// blame returns the error that a failed read came from.
func (s *source) blame(err error) error {
	if s.err != nil {
		return s.err
	}
	var ours *erofs.Error
	switch {
	case errors.Is(err, ErrMalformed), errors.Is(err, ErrLimit):
		return err
	case errors.Is(err, erofs.ErrTooLarge):
		return malformed("%w", err)
	case errors.As(err, &ours), s.ctx.Err() != nil && errors.Is(err, s.ctx.Err()):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return malformed("the archive ends early")
	}
	return malformed("%w", err)
}

// content reads an entry's data: holes of sparse files do not come from source.
type content struct {
	ctx context.Context
	r   io.Reader
}

func (c *content) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// layer is an archive being read.
type layer struct {
	b      *Builder
	path   [][]byte
	target [][]byte
	xattrs []erofs.Xattr

	xattrBytes int
}

// entry adds one of the archive's entries.
func (l *layer) entry(h *tar.Header, r io.Reader) error {
	b := l.b
	if h.Typeflag == tar.TypeXGlobalHeader {
		return b.count()
	}
	if err := b.count(); err != nil {
		return err
	}
	var err error
	if l.path, err = splitPath(l.path, h.Name); err != nil {
		return err
	}
	if len(l.path) == 0 {
		return l.rootEntry(h)
	}
	dirs, base := l.path[:len(l.path)-1], l.path[len(l.path)-1]
	for _, c := range dirs {
		if isAUFS(c) {
			return nil
		}
		if hasPrefix(c, whiteoutPrefix) {
			return malformed("a whiteout as a directory")
		}
	}
	if hasPrefix(base, whiteoutPrefix) {
		return l.whiteout(dirs, base)
	}
	attr, err := l.attr(h)
	if err != nil {
		return err
	}
	dir, err := b.resolve(dirs, &made{attr.Mtime, attr.MtimeNsec})
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return b.putDir(dir, base, attr)
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return b.putFile(dir, base, attr, r, h.Size)
	case tar.TypeLink:
		return l.link(dir, base, h.Linkname)
	case tar.TypeSymlink:
		switch {
		case h.Linkname == "":
			return malformed("symbolic link to nothing")
		case len(h.Linkname) > pathMax:
			return malformed("symbolic link to a name of %d bytes", len(h.Linkname))
		case strings.IndexByte(h.Linkname, 0) >= 0:
			return malformed("NUL in a symbolic link's target")
		}
		id, err := b.w.AddSymlink(attr, []byte(h.Linkname))
		return b.put(dir, base, id, err)
	case tar.TypeChar, tar.TypeBlock:
		return l.device(dir, base, attr, h)
	case tar.TypeFifo:
		attr.Mode |= erofs.ModeFIFO
		id, err := b.w.AddSpecial(attr)
		return b.put(dir, base, id, err)
	}
	return malformed("entry of unknown type %q", h.Typeflag)
}

func hasPrefix(name []byte, prefix string) bool {
	return len(name) >= len(prefix) && string(name[:len(prefix)]) == prefix
}

// isAUFS says if a name is one that AUFS kept its own data under.
func isAUFS(name []byte) bool {
	return hasPrefix(name, aufsPrefix) && string(name) != opaqueName
}

// rootEntry is an entry for the root, which can only be a directory's.
func (l *layer) rootEntry(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return malformed("the root is a directory, and nothing else")
	}
	attr, err := l.attr(h)
	if err != nil {
		return err
	}
	l.b.tree.touch(rootEntry)
	if err := l.b.w.SetAttr(l.b.tree.at(rootEntry).node, attr); err != nil {
		return err
	}
	return l.b.checkText()
}

// whiteout removes what lower layers have.
func (l *layer) whiteout(dirs [][]byte, base []byte) error {
	dir, err := l.b.resolve(dirs, nil)
	if err != nil || dir == 0 {
		return err
	}
	if string(base) == opaqueName {
		return l.b.removeLowerIn(dir)
	}
	if isAUFS(base) {
		return nil
	}
	name := base[len(whiteoutPrefix):]
	switch string(name) {
	case "", ".", "..":
		return malformed("a whiteout of no name")
	}
	e := l.b.tree.lookup(dir, name)
	if e == 0 {
		return nil
	}
	return l.b.removeLower(e)
}

// link gives a file one more name.
func (l *layer) link(dir uint32, base []byte, linkname string) error {
	b := l.b
	var err error
	if l.target, err = splitPath(l.target, linkname); err != nil {
		return malformed("hard link to %.300q: %w", linkname, err)
	}
	if len(l.target) == 0 {
		return malformed("hard link to the root")
	}
	n := len(l.target) - 1
	from, err := b.resolve(l.target[:n], nil)
	if err != nil {
		return malformed("hard link to %.300q: %w", linkname, err)
	}
	e := uint32(0)
	if from != 0 {
		e = b.tree.lookup(from, l.target[n])
	}
	switch {
	case e == 0:
		return malformed("hard link to %.300q, which does not exist", linkname)
	case b.tree.isDir(e):
		return malformed("hard link to %.300q, a directory", linkname)
	}
	if from == dir && string(base) == string(l.target[n]) {
		return nil // to itself
	}
	return b.put(dir, base, b.tree.at(e).node, nil)
}

// device adds a device node, unless it is one that overlayfs has a use for.
func (l *layer) device(dir uint32, base []byte, attr erofs.Attr, h *tar.Header) error {
	b := l.b
	if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor > 1<<12-1 || h.Devminor > 1<<20-1 {
		return malformed("device %d:%d, Linux has 12 and 20 bits", h.Devmajor, h.Devminor)
	}
	if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
		if e := b.tree.lookup(dir, base); e != 0 {
			return b.removeAll(e)
		}
		return nil
	}
	attr.Mode |= erofs.ModeChar
	if h.Typeflag == tar.TypeBlock {
		attr.Mode = attr.Mode&^erofs.ModeType | erofs.ModeBlock
	}
	attr.Rdev, _ = erofs.MakeDev(uint32(h.Devmajor), uint32(h.Devminor))
	id, err := b.w.AddSpecial(attr)
	return b.put(dir, base, id, err)
}
