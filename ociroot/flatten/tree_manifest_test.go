package flatten_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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
