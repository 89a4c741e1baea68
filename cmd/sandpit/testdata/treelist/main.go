// Command treelist prints a line for everything beneath a directory, sorted:
// name, type and mode, owner, number of links, time in nanoseconds, size and
// digest of a file, target of a link, numbers of a device, and the extended
// attributes. Two trees with the same lines are the same. (The size of a
// directory is not a property of the tree but of the file system it lies on.)
//
//	treelist DIRECTORY
//	treelist -erofs DEVICE     of the file system on a device, which is mounted for it
package main

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	device := flag.String("erofs", "", "mount this device and list what is on it")
	flag.Parse()
	lines, err := run(*device, flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, "treelist:", err)
		os.Exit(1)
	}
	fmt.Println(strings.Join(lines, "\n"))
}

func run(device, dir string) ([]string, error) {
	if device == "" {
		return list(dir)
	}
	dir, err := os.MkdirTemp("/", "treelist-")
	if err != nil {
		return nil, err
	}
	if err := unix.Mount(device, dir, "erofs", unix.MS_RDONLY, ""); err != nil {
		return nil, fmt.Errorf("mount %s: %w", device, err)
	}
	return list(dir)
}

func list(root string) ([]string, error) {
	var lines []string
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		line, err := describe(path)
		lines = append(lines, fmt.Sprintf("%q %s", rel, line))
		return err
	})
	slices.Sort(lines)
	return lines, err
}

func describe(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	line := fmt.Sprintf("%o %d:%d links=%d %d.%09d", st.Mode, st.Uid, st.Gid, st.Nlink, st.Mtim.Sec, st.Mtim.Nsec)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		sum, err := digest(path)
		if err != nil {
			return "", err
		}
		line += fmt.Sprintf(" %d %s", st.Size, sum)
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		line += fmt.Sprintf(" %d -> %q", st.Size, target)
	case unix.S_IFCHR, unix.S_IFBLK:
		line += fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	attrs, err := attributes(path)
	return line + attrs, err
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return fmt.Sprintf("%x", h.Sum(nil)[:12]), err
}

func attributes(path string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("%s: extended attributes: %w", path, err)
	}
	names := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	line := ""
	for _, name := range names {
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			return "", fmt.Errorf("%s: attribute %s: %w", path, name, err)
		}
		line += fmt.Sprintf(" %s=%x", name, buf[:n])
	}
	return line, nil
}
