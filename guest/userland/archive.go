package userland

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// tarCmd creates, lists and extracts archives.
func tarCmd(c *command) {
	if len(c.args) > 0 && c.args[0] != "" && c.args[0][0] != '-' {
		c.args = append([]string{"-" + c.args[0]}, c.args[1:]...)
		// The old style takes option arguments from the following words.
		if i := strings.IndexByte(c.args[0], 'f'); i >= 0 && i != len(c.args[0])-1 {
			c.args[0] = c.args[0][:i] + c.args[0][i+1:] + "f"
		}
	}
	paths, ok := c.parse("cxtf:C:zJjavkpPhmoOT:X:Z", "create=c extract=x get=x list=t file=f directory=C gzip=z zstd=Z auto-compress=a verbose=v exclude=X files-from=T keep-old-files=k preserve-permissions=p same-permissions=p dereference=h touch=m no-same-owner=o to-stdout=O absolute-names=P")
	if !ok {
		c.status = 2
		return
	}
	name := c.opts.get('f', "-")
	if list := c.opts.get('T', ""); list != "" {
		text, err := os.ReadFile(list)
		if err != nil {
			c.fail(list, err)
			return
		}
		paths = append(paths, strings.Split(strings.TrimSpace(string(text)), "\n")...)
	}
	var err error
	switch mode := c.opts.last("cxt"); mode {
	case 'c':
		err = c.tarCreate(name, paths)
	case 'x', 't':
		err = c.tarRead(name, paths, mode == 'x')
	default:
		err = errors.New("you must specify one of -c, -x or -t")
	}
	if err != nil {
		c.errorf("%v", err)
		c.status = 2
	}
}

func (c *command) tarCreate(name string, paths []string) (err error) {
	if len(paths) == 0 {
		return errors.New("cowardly refusing to create an empty archive")
	}
	out := os.Stdout
	if name != "-" {
		if out, err = os.Create(name); err != nil {
			return fmt.Errorf("%s: %w", name, reason(err))
		}
	}
	buf := bufio.NewWriterSize(out, 128<<10)
	var w io.Writer = buf
	var zip io.Closer
	auto := c.opts.has('a')
	switch {
	case c.opts.has('z') || auto && (strings.HasSuffix(name, "gz")):
		z := gzip.NewWriter(buf)
		w, zip = z, z
	case c.opts.has('Z') || auto && strings.HasSuffix(name, ".zst"):
		z, err := zstd.NewWriter(buf, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return err
		}
		w, zip = z, z
	}
	t := &tarWriter{c: c, w: tar.NewWriter(w), archive: name, seen: map[[2]uint64]string{}}
	dir := c.opts.get('C', ".")
	for _, p := range paths {
		t.add(dir, p)
	}
	err = t.w.Close()
	if zip != nil {
		err = errors.Join(err, zip.Close())
	}
	return errors.Join(err, buf.Flush(), out.Close())
}

type tarWriter struct {
	c       *command
	w       *tar.Writer
	archive string
	seen    map[[2]uint64]string // hard links by device and inode
}

func (t *tarWriter) add(dir, name string) {
	c := t.c
	path := filepath.Join(dir, name)
	if filepath.IsAbs(name) {
		path = name
	}
	stat := os.Lstat
	if c.opts.has('h') {
		stat = os.Stat
	}
	fi, err := stat(path)
	if err != nil {
		c.fail(name, err)
		c.status = 2
		return
	}
	for _, pat := range c.opts.values['X'] {
		if m, _ := filepath.Match(pat, filepath.Base(name)); m || pat == name {
			return
		}
	}
	if ai, err := os.Stat(t.archive); err == nil && os.SameFile(fi, ai) && fi.Mode().IsRegular() {
		return // the archive itself
	}
	if err := t.write(path, name, fi); err != nil {
		c.fail(name, err)
		c.status = 2
		return
	}
	if fi.IsDir() {
		es, err := os.ReadDir(path)
		if err != nil {
			c.fail(name, err)
			c.status = 2
		}
		for _, e := range es {
			t.add(dir, strings.TrimSuffix(name, "/")+"/"+e.Name())
		}
	}
}

func (t *tarWriter) write(path, name string, fi fs.FileInfo) error {
	c := t.c
	link := ""
	if fi.Mode()&fs.ModeSymlink != 0 {
		link, _ = os.Readlink(path)
	}
	if fi.Mode()&fs.ModeSocket != 0 {
		c.errorf("%s: socket ignored", name)
		c.status = 0
		return nil
	}
	h, err := tar.FileInfoHeader(fi, link)
	if err != nil {
		return err
	}
	h.Name = strings.TrimLeft(name, "/")
	if h.Name == "" {
		h.Name = "."
	}
	if fi.IsDir() {
		h.Name = strings.TrimSuffix(h.Name, "/") + "/"
	}
	st := fi.Sys().(*syscall.Stat_t)
	h.Uname, h.Gname = userName(int(st.Uid)), groupName(int(st.Gid))
	if fi.Mode().IsRegular() && st.Nlink > 1 {
		id := [2]uint64{st.Dev, st.Ino}
		if first, ok := t.seen[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			t.seen[id] = h.Name
		}
	}
	if c.opts.has('v') {
		fmt.Fprintln(os.Stderr, h.Name)
	}
	var f *os.File
	if h.Typeflag == tar.TypeReg {
		if f, err = os.Open(path); err != nil {
			return err
		}
		defer f.Close()
	}
	if err := t.w.WriteHeader(h); err != nil || f == nil {
		return err
	}
	n, err := io.CopyN(t.w, f, h.Size)
	if n < h.Size { // it shrank: pad, or the archive is lost
		c.errorf("%s: file shrank by %d bytes", name, h.Size-n)
		_, err = io.CopyN(t.w, zeros{}, h.Size-n)
	}
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// tarInput opens an archive and removes its compression, whatever the options.
func (c *command) tarInput(name string) (io.Reader, func(), error) {
	f, err := c.open(name)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: cannot open: %w", name, reason(err))
	}
	br := bufio.NewReaderSize(f, 128<<10)
	head, _ := br.Peek(4)
	done := func() { f.Close() }
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		return z, done, err
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1))
		return z, done, err
	case bytes.HasPrefix(head, []byte("BZh")), bytes.HasPrefix(head, []byte("\xfd7zX")):
		done()
		return nil, nil, errors.New("this compression is not supported")
	}
	return br, done, nil
}

func (c *command) tarRead(name string, only []string, extract bool) error {
	in, done, err := c.tarInput(name)
	if err != nil {
		return err
	}
	defer done()
	var root *os.Root
	if extract {
		// Nothing in an archive leads outside the directory.
		if root, err = os.OpenRoot(c.opts.get('C', ".")); err != nil {
			return fmt.Errorf("%s: %w", c.opts.get('C', "."), reason(err))
		}
		defer root.Close()
	}
	var dirs []*tar.Header // modes and times are set last
	r := tar.NewReader(in)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if !wantMember(h.Name, only) {
			continue
		}
		if c.opts.has('v') || !extract {
			c.listMember(h, extract)
		}
		if !extract {
			continue
		}
		if c.opts.has('O') {
			io.Copy(c.out, r)
			continue
		}
		if h.Typeflag == tar.TypeDir {
			dirs = append(dirs, h)
		}
		if err := c.extractMember(root, h, r); err != nil {
			c.fail(h.Name, err)
			c.status = 2
		}
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		c.finishMember(root, memberPath(dirs[i].Name), dirs[i])
	}
	return nil
}

func wantMember(name string, only []string) bool {
	if len(only) == 0 {
		return true
	}
	name = strings.TrimSuffix(name, "/")
	for _, o := range only {
		o = strings.TrimSuffix(o, "/")
		if name == o || strings.HasPrefix(name, o+"/") {
			return true
		}
	}
	return false
}

func (c *command) listMember(h *tar.Header, extract bool) {
	if extract || !c.opts.has('v') {
		c.out.WriteString(h.Name + "\n")
		return
	}
	fi := h.FileInfo()
	mode := uint32(fi.Mode().Perm())
	kind := byte('-')
	switch h.Typeflag {
	case tar.TypeDir:
		kind = 'd'
	case tar.TypeSymlink:
		kind = 'l'
	case tar.TypeLink:
		kind = 'h'
	}
	line := fmt.Sprintf("%c%s %s/%s %9d %s %s", kind, modeString(mode)[1:], h.Uname, h.Gname, h.Size, h.ModTime.Local().Format("2006-01-02 15:04"), h.Name)
	switch h.Typeflag {
	case tar.TypeSymlink:
		line += " -> " + h.Linkname
	case tar.TypeLink:
		line += " link to " + h.Linkname
	}
	c.out.WriteString(line + "\n")
}

func memberPath(name string) string {
	return filepath.Clean(strings.TrimLeft(name, "/"))
}

func (c *command) extractMember(root *os.Root, h *tar.Header, r io.Reader) error {
	path := memberPath(h.Name)
	if path == "." {
		return nil
	}
	if dir := filepath.Dir(path); dir != "." {
		if err := root.MkdirAll(dir, 0o777); err != nil {
			return err
		}
	}
	if h.Typeflag != tar.TypeDir {
		if fi, err := root.Lstat(path); err == nil {
			if c.opts.has('k') {
				return fs.ErrExist
			}
			if !fi.IsDir() {
				if err := root.Remove(path); err != nil {
					return err
				}
			}
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil // the rest follows when its contents are there
	case tar.TypeReg:
		f, err := root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := root.Symlink(h.Linkname, path); err != nil {
			return err
		}
	case tar.TypeLink:
		return root.Link(memberPath(h.Linkname), path)
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		return c.extractSpecial(root, path, h)
	default:
		return fmt.Errorf("unknown type '%c'", h.Typeflag)
	}
	c.finishMember(root, path, h)
	return nil
}

func (c *command) extractSpecial(root *os.Root, path string, h *tar.Header) error {
	dir, err := root.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	kind := map[byte]uint32{tar.TypeFifo: unix.S_IFIFO, tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[h.Typeflag]
	dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	return unix.Mknodat(int(dir.Fd()), filepath.Base(path), kind|uint32(h.Mode)&0o7777, int(dev))
}

// finishMember sets owner (as root), mode and time.
func (c *command) finishMember(root *os.Root, path string, h *tar.Header) {
	if os.Geteuid() == 0 && !c.opts.has('o') {
		uid, gid := h.Uid, h.Gid
		root.Lchown(path, uid, gid)
	}
	if h.Typeflag == tar.TypeSymlink {
		return
	}
	mode := fs.FileMode(h.Mode & 0o777)
	if os.Geteuid() != 0 && !c.opts.has('p') {
		mask := unix.Umask(0)
		unix.Umask(mask)
		mode &^= fs.FileMode(mask)
	} else {
		mode |= h.FileInfo().Mode() & (fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	}
	root.Chmod(path, mode)
	if !c.opts.has('m') {
		root.Chtimes(path, time.Time{}, h.ModTime)
	}
}
