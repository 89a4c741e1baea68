package flatten

import (
	"fmt"
	"math"

	"github.com/sandpit-vm/sandpit/ociroot/erofs"
)

// Limits bound what layers may ask for. Zero fields have the defaults.
type Limits struct {
	// Entries bounds what is read, over all layers: entries of archives,
	// whiteouts included, and directories made for them. Default 1,000,000.
	Entries int64
	// Bytes bounds the archives' length and the files' sizes, sparse ones with
	// their holes, each over all layers. Default 64 GiB.
	Bytes int64
	// NameBytes bounds the memory for names, link targets and extended
	// attributes. Default 32 MiB: with as many entries as the default allows, 212
	// MiB of heap were measured, half of it what the collector had not freed yet.
	NameBytes int64
}

// WithDefaults fills in what is zero.
func (l Limits) WithDefaults() Limits {
	if l.Entries <= 0 {
		l.Entries = 1_000_000
	}
	if l.Bytes <= 0 {
		l.Bytes = 64 << 30
	}
	if l.NameBytes <= 0 {
		l.NameBytes = 32 << 20
	}
	// The tree counts in 32 bits.
	l.Entries = min(l.Entries, math.MaxUint32/2)
	l.NameBytes = min(l.NameBytes, math.MaxUint32/2)
	return l
}

// Options configure a Builder. The zero value is good.
type Options struct {
	Limits Limits
	// Image is the EROFS image's own. Its BuildTime is also the time of a root
	// that no layer describes.
	Image erofs.Options
}

// Stats describe a finished image.
type Stats struct {
	Layers        int
	Files         int64 // regular files, each once however many names it has
	Dirs          int64 // with the root
	Symlinks      int64
	Specials      int64 // devices and FIFOs
	Links         int64 // names beyond the first
	Bytes         int64 // of the files' sizes
	ImageBytes    int64 // the image's size
	DroppedXattrs int64 // attributes that EROFS cannot express
	Sockets       int64 // sockets left out of a directory
}

// Builder makes one image.
type Builder struct {
	w      *erofs.Writer
	limits Limits
	tree   tree
	err    error // the first; nothing works after it
	stats  Stats

	entries int64 // against the limits
	bytes   int64
	stream  int64
}

// New starts an image in out, which is emptied.
func New(out erofs.Output, o Options) *Builder {
	b := &Builder{w: erofs.NewWriter(out, o.Image), limits: o.Limits.WithDefaults()}
	a := erofs.Attr{Mode: 0o755}
	if t := o.Image.BuildTime; !t.IsZero() {
		a.Mtime, a.MtimeNsec = t.Unix(), uint32(t.Nanosecond())
	}
	root, err := b.w.AddDir(a)
	if err != nil {
		b.err = err
		return b
	}
	b.tree.init(root)
	return b
}

// begin starts a layer.
func (b *Builder) begin() error {
	if b.err != nil {
		return b.err
	}
	if b.stats.Layers > math.MaxUint16-1 {
		b.err = &Error{b.stats.Layers, "", malformed("more than %d layers", math.MaxUint16)}
		return b.err
	}
	b.stats.Layers++
	b.tree.layer = uint16(b.stats.Layers)
	return nil
}

// fail makes err the builder's.
func (b *Builder) fail(name string, err error) error {
	if err == nil {
		return nil
	}
	b.err = &Error{b.stats.Layers - 1, name, err}
	return b.err
}

// count counts an entry against the limit.
func (b *Builder) count() error {
	if b.entries++; b.entries > b.limits.Entries {
		return &LimitError{"Entries", b.limits.Entries}
	}
	return nil
}

// checkText holds the memory for strings against its limit.
func (b *Builder) checkText() error {
	if b.tree.names.size+b.w.TextBytes() > b.limits.NameBytes {
		return &LimitError{"NameBytes", b.limits.NameBytes}
	}
	return nil
}

// Close writes the image's metadata, and so finishes it. The output is neither
// synced nor closed.
func (b *Builder) Close() (Stats, error) {
	if b.err != nil {
		return Stats{}, b.err
	}
	b.tree.dropIndex()
	dirs := make([]uint32, b.w.Limit())
	b.tree.sortAll(func(e uint32) { dirs[b.tree.at(e).node] = e })
	b.tally()
	err := b.w.Close(b.tree.at(rootEntry).node, func(dir erofs.NodeID, yield func([]byte, erofs.NodeID) bool) {
		for e := b.tree.at(dirs[dir]).child; e != 0; e = b.tree.at(e).next {
			if !yield(b.tree.name(e), b.tree.at(e).node) {
				return
			}
		}
	})
	if err != nil {
		b.err = fmt.Errorf("flatten: %w", err)
		return Stats{}, b.err
	}
	b.err = fmt.Errorf("flatten: %w", ErrClosed)
	b.tree = tree{}
	b.stats.ImageBytes = b.w.Size()
	return b.stats, nil
}
