package flatten_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	oracle "github.com/erofs/go-erofs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// treeManifest describes a directory tree of the host completely, a line for
// each name: all that lstat says of it but where it is stored, the extended
// attributes, link target, and a digest of the content.
func treeManifest(t testing.TB, root string) []string {
	var lines []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		rel, err := filepath.Rel(root, p)
		require.NoError(t, err)
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(p, &st))
		line := fmt.Sprintf("%q %o %d:%d n%d %d.%09d", rel, st.Mode, st.Uid, st.Gid, st.Nlink, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			line += fmt.Sprintf(" %d %s", st.Size, digest(t, p))
		case unix.S_IFLNK:
			target, err := os.Readlink(p)
			require.NoError(t, err)
			line += fmt.Sprintf(" %d -> %q", st.Size, target)
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" dev %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		lines = append(lines, line+xattrLine(t, p))
		return nil
	})
	require.NoError(t, err)
	slices.Sort(lines)
	return lines
}

func digest(t testing.TB, path string) string {
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	require.NoError(t, err)
	return fmt.Sprintf("%x", h.Sum(nil)[:12])
}

func xattrLine(t testing.TB, path string) string {
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return ""
	}
	require.NoError(t, err, path)
	names := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	line := ""
	for _, name := range names {
		n, err := unix.Lgetxattr(path, name, buf)
		require.NoError(t, err, "%s of %s", name, path)
		line += fmt.Sprintf(" %s=%x", name, buf[:n])
	}
	return line
}

// imageManifest describes an image as treeManifest describes a directory, by
// way of an EROFS reader that is not ours.
func imageManifest(t testing.TB, f *os.File) []string {
	fsys, err := oracle.Open(f)
	require.NoError(t, err)
	var lines []string
	err = fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		require.NoError(t, err, p)
		info, err := fs.Lstat(fsys, p)
		require.NoError(t, err)
		s := info.Sys().(*oracle.Stat)
		line := fmt.Sprintf("%q %o %d:%d n%d %d.%09d", p, unixMode(s.Mode), s.UID, s.GID, s.Nlink, int64(s.Mtime), s.MtimeNs)
		switch {
		case info.Mode().IsRegular():
			r, err := fsys.Open(p)
			require.NoError(t, err)
			h := sha256.New()
			n, err := io.Copy(h, r)
			require.NoError(t, err, p)
			require.Equal(t, s.Size, n)
			require.NoError(t, r.Close())
			line += fmt.Sprintf(" %d %x", n, h.Sum(nil)[:12])
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := fs.ReadLink(fsys, p)
			require.NoError(t, err)
			line += fmt.Sprintf(" %d -> %q", s.Size, target)
		case info.Mode()&fs.ModeDevice != 0:
			line += fmt.Sprintf(" dev %d:%d", s.Rdev>>8&0xfff, s.Rdev&0xff|s.Rdev>>12&^0xff)
		}
		for _, name := range slices.Sorted(maps.Keys(s.Xattrs)) {
			line += fmt.Sprintf(" %s=%x", strings.TrimSuffix(name, "."), s.Xattrs[name])
		}
		lines = append(lines, line)
		return nil
	})
	require.NoError(t, err)
	slices.Sort(lines)
	return lines
}

// unixMode is a mode as stat has it.
func unixMode(m fs.FileMode) uint32 {
	u := uint32(m.Perm())
	for bit, v := range map[fs.FileMode]uint32{
		fs.ModeSetuid: unix.S_ISUID, fs.ModeSetgid: unix.S_ISGID, fs.ModeSticky: unix.S_ISVTX,
		fs.ModeDir: unix.S_IFDIR, fs.ModeSymlink: unix.S_IFLNK, fs.ModeNamedPipe: unix.S_IFIFO, fs.ModeSocket: unix.S_IFSOCK,
	} {
		if m&bit != 0 {
			u |= v
		}
	}
	switch {
	case m.IsRegular():
		u |= unix.S_IFREG
	case m&fs.ModeCharDevice != 0:
		u |= unix.S_IFCHR
	case m&fs.ModeDevice != 0:
		u |= unix.S_IFBLK
	}
	return u
}
