package flatten

import (
	"archive/tar"
	"slices"
	"strings"

	"github.com/sandpit-vm/sandpit/ociroot/erofs"
)

// xattrRecord is the PAX record of an extended attribute, as all who make layers
// write it.
const xattrRecord = "SCHILY.xattr."

// xattrNames undoes what GNU tar does to names that PAX has no room for.
var xattrNames = strings.NewReplacer("%3D", "=", "%25", "%")

// Of overlayfs: its own attributes, and how one is spelled that only looks so.
const (
	overlayPrefix  = "trusted.overlay."
	overlayEscaped = "trusted.overlay.overlay."
)

// attr translates an entry's attributes. Its Xattrs are valid until the next
// call.
func (l *layer) attr(h *tar.Header) (erofs.Attr, error) {
	const maxID = 1<<32 - 1 // Linux' "no id"
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= maxID || int64(h.Gid) >= maxID {
		return erofs.Attr{}, malformed("owner %d:%d", h.Uid, h.Gid)
	}
	a := erofs.Attr{
		Mode:      uint16(h.Mode & 0o7777),
		UID:       uint32(h.Uid),
		GID:       uint32(h.Gid),
		Mtime:     h.ModTime.Unix(),
		MtimeNsec: uint32(h.ModTime.Nanosecond()),
	}
	if h.Typeflag == tar.TypeSymlink {
		a.Mode = 0o777 // Linux knows no other
	}
	l.xattrs, l.xattrBytes = l.xattrs[:0], 0
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok {
			continue
		}
		if err := l.addXattr(xattrNames.Replace(name), []byte(value)); err != nil {
			return a, err
		}
	}
	// In the order of their names, so that the same input makes the same bytes.
	slices.SortFunc(l.xattrs, func(a, b erofs.Xattr) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(l.xattrs); i++ {
		if l.xattrs[i].Name == l.xattrs[i-1].Name {
			return a, malformed("two attributes %.300q", l.xattrs[i].Name)
		}
	}
	a.Xattrs = l.xattrs
	return a, nil
}

// Linux allows 65536 bytes in an attribute, and EROFS one byte less. No file
// system of Linux has as many in one file as maxXattrBytes.
const (
	maxXattrValue = 1<<16 - 1
	maxXattrBytes = 1 << 17
)

func (l *layer) addXattr(name string, value []byte) error {
	name, ok := xattrName(name)
	if !ok {
		l.b.stats.DroppedXattrs++
		return nil
	}
	if len(value) > maxXattrValue {
		return malformed("%d bytes in attribute %.300q", len(value), name)
	}
	if l.xattrBytes += len(name) + len(value); l.xattrBytes > maxXattrBytes {
		return malformed("more than %d bytes of attributes", maxXattrBytes)
	}
	l.xattrs = append(l.xattrs, erofs.Xattr{Name: name, Value: value})
	return nil
}

// xattrName is how an attribute is called in the image, if it can be there.
func xattrName(name string) (string, bool) {
	if rest, ok := strings.CutPrefix(name, overlayPrefix); ok {
		name = overlayEscaped + rest
	}
	return name, erofs.XattrOK(name)
}
