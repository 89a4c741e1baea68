package flatten

import "github.com/sandpit-vm/sandpit/ociroot/erofs"

// tally counts what is in the tree.
func (b *Builder) tally() {
	seen := make([]uint64, (b.w.Limit()+63)/64)
	for e := uint32(rootEntry); e < b.tree.count; e++ {
		id := b.tree.at(e).node
		if id == 0 {
			continue
		}
		if seen[id/64]&(1<<(id%64)) != 0 {
			b.stats.Links++
			continue
		}
		seen[id/64] |= 1 << (id % 64)
		switch b.w.Mode(id) & erofs.ModeType {
		case erofs.ModeRegular:
			b.stats.Files++
			b.stats.Bytes += b.w.FileSize(id)
		case erofs.ModeDir:
			b.stats.Dirs++
		case erofs.ModeSymlink:
			b.stats.Symlinks++
		default:
			b.stats.Specials++
		}
	}
}
