package flatten

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/ociroot/erofs"
)

// attr is the attributes of the file that fd is, or of a name in the directory
// that fd is.
func (h *hostDir) attr(st *unix.Stat_t, fd int, name string) (erofs.Attr, error) {
	a := erofs.Attr{
		Mode:  uint16(st.Mode & 0o7777),
		UID:   st.Uid,
		GID:   st.Gid,
		Mtime: st.Mtim.Sec, MtimeNsec: uint32(st.Mtim.Nsec),
	}
	var err error
	a.Xattrs, err = h.xattrs(fd, name)
	return a, err
}

// xattrs reads extended attributes. Those of what cannot be opened are read by
// way of /proc, which ends at the name and follows nothing.
func (h *hostDir) xattrs(fd int, name string) ([]erofs.Xattr, error) {
	list := func(p []byte) (int, error) { return unix.Flistxattr(fd, p) }
	get := func(attr string, p []byte) (int, error) { return unix.Fgetxattr(fd, attr, p) }
	if name != "" {
		at := "/proc/self/fd/" + strconv.Itoa(fd) + "/" + name
		list = func(p []byte) (int, error) { return unix.Llistxattr(at, p) }
		get = func(attr string, p []byte) (int, error) { return unix.Lgetxattr(at, attr, p) }
	}
	if h.buf == nil {
		h.buf = make([]byte, 1<<16) // XATTR_LIST_MAX and XATTR_SIZE_MAX
	}
	n, err := list(h.buf)
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("listxattr", err)
	}
	var xattrs []erofs.Xattr
	for _, attr := range strings.Split(strings.TrimSuffix(string(h.buf[:n]), "\x00"), "\x00") {
		stored, ok := xattrName(attr)
		if !ok {
			h.b.stats.DroppedXattrs++
			continue
		}
		n, err := get(attr, h.buf)
		if errors.Is(err, unix.ENODATA) {
			continue // gone meanwhile
		}
		if err != nil {
			return nil, os.NewSyscallError("getxattr", err)
		}
		xattrs = append(xattrs, erofs.Xattr{Name: stored, Value: slices.Clone(h.buf[:n])})
	}
	return xattrs, nil
}
