package main

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// wholeFile is the size, in bytes, up to which a file is read or written at
// once.
const wholeFile = 64 << 10

// pack writes an archive of a file or a tree of the sandbox. Its names begin
// with the source's own.
func (f *copyFlags) pack(ctx context.Context, files *sandbox.FS, src string, w io.Writer) error {
	top := path.Join("/", src)
	info, err := files.Lstat(ctx, top)
	if f.optionsFor(src).FollowSource {
		info, err = files.Stat(ctx, top)
	}
	if err != nil {
		return err
	}
	prefix := path.Base(top)
	if contentsOnly(src) {
		prefix = "."
	}
	buffered := bufio.NewWriterSize(w, wholeFile)
	tw := tar.NewWriter(buffered)
	if !info.IsDir() {
		err = f.packOne(ctx, files, tw, top, prefix, info)
	} else {
		err = fs.WalkDir(files.DirFS(ctx, top), ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			return f.packOne(ctx, files, tw, path.Join(top, name), path.Join(prefix, name), info)
		})
	}
	if err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return buffered.Flush()
}

func (f *copyFlags) packOne(ctx context.Context, files *sandbox.FS, tw *tar.Writer, from, name string, info fs.FileInfo) error {
	h := &tar.Header{Name: name, ModTime: info.ModTime(), Format: tar.FormatPAX}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		h.Mode, h.Uid, h.Gid = int64(st.Mode&0o7777), int(st.Uid), int(st.Gid)
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		return tw.WriteHeader(h)
	case fs.ModeSymlink:
		target, err := files.Readlink(ctx, from)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
		return tw.WriteHeader(h)
	case 0:
		h.Typeflag = tar.TypeReg
		return packFile(ctx, files, tw, from, h, info.Size())
	}
	f.skipped(from)
	return nil
}

// packFile writes a file as large as it is when it is opened; what is added to
// it afterwards is left out.
func packFile(ctx context.Context, files *sandbox.FS, tw *tar.Writer, from string, h *tar.Header, size int64) error {
	if size <= wholeFile {
		content, err := files.ReadFile(ctx, from)
		if err != nil {
			return err
		}
		h.Size = int64(len(content))
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err = tw.Write(content)
		return err
	}
	file, err := files.Open(ctx, from)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	h.Size = info.Size()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	w := &upTo{w: tw, left: h.Size}
	if _, err := file.WriteTo(w); err != nil && !errors.Is(err, errEnough) {
		return err
	}
	if w.left > 0 {
		return fmt.Errorf("%s became shorter while it was read; copy it again", from)
	}
	return nil
}

var errEnough = errors.New("enough")

// upTo passes so many bytes on.
type upTo struct {
	w    io.Writer
	left int64
}

func (u *upTo) Write(p []byte) (int, error) {
	n, err := u.w.Write(p[:min(int64(len(p)), u.left)])
	u.left -= int64(n)
	if err == nil && n < len(p) {
		err = errEnough
	}
	return n, err
}

// unpack makes what an archive holds in a directory of the sandbox.
func (f *copyFlags) unpack(ctx context.Context, files *sandbox.FS, r io.Reader, dst string) error {
	info, err := files.Stat(ctx, dst)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory: an archive is unpacked in one", dst)
	}
	u := &unpacker{ctx: ctx, files: files, flags: f, dir: dst, made: map[string]bool{}}
	// A stalled Read of standard input is nothing that a context ends; so the
	// reader is left behind.
	done := make(chan error, 1)
	go func() { done <- u.all(tar.NewReader(bufio.NewReaderSize(r, wholeFile))) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

type unpacker struct {
	ctx   context.Context
	files *sandbox.FS
	flags *copyFlags
	dir   string
	made  map[string]bool // directories that exist
	late  []*tar.Header   // of directories, which get their times at the end
}

func (u *unpacker) all(tr *tar.Reader) error {
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("standard input: %w", err)
		}
		name, err := u.name(h.Name)
		if err != nil {
			return err
		}
		if err := u.one(tr, h, name); err != nil {
			return err
		}
	}
	for i := len(u.late) - 1; i >= 0; i-- {
		if err := u.attributes(u.late[i], u.late[i].Name, true); err != nil {
			return err
		}
	}
	return nil
}

// name is where an entry goes: never out of the directory.
func (u *unpacker) name(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("the archive holds %q, which leads out of %s", name, u.dir)
		}
	}
	return path.Join("/", u.dir, name), nil
}

func (u *unpacker) one(tr *tar.Reader, h *tar.Header, name string) error {
	if err := u.mkdir(path.Dir(name)); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		if err := u.mkdir(name); err != nil {
			return err
		}
		late := *h
		late.Name = name
		u.late = append(u.late, &late)
		return nil
	}
	if name == path.Join("/", u.dir) {
		return fmt.Errorf("the archive holds %q, which is %s itself, and not a directory", h.Name, u.dir)
	}
	// What is there is replaced, not written through.
	if err := u.files.Remove(u.ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		if err := u.file(tr, h, name); err != nil {
			return err
		}
		return u.attributes(h, name, true)
	case tar.TypeSymlink:
		if err := u.files.Symlink(u.ctx, h.Linkname, name); err != nil {
			return err
		}
		return u.attributes(h, name, false)
	case tar.TypeLink:
		target, err := u.name(h.Linkname)
		if err != nil {
			return err
		}
		return u.files.Link(u.ctx, target, name)
	}
	u.flags.skipped(h.Name)
	return nil
}

func (u *unpacker) mkdir(name string) error {
	if u.made[name] {
		return nil
	}
	if len(u.made) >= 100_000 { // an archive may hold any number
		clear(u.made)
	}
	u.made[name] = true
	return u.files.MkdirAll(u.ctx, name, 0o755)
}

func (u *unpacker) file(r io.Reader, h *tar.Header, name string) error {
	if h.Size <= wholeFile {
		content, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("standard input: %w", err)
		}
		return u.files.WriteFile(u.ctx, name, content, 0o600)
	}
	file, err := u.files.OpenFile(u.ctx, name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.ReadFrom(r)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// attributes sets what the archive says of an entry.
func (u *unpacker) attributes(h *tar.Header, name string, all bool) error {
	if u.flags.archive {
		if err := u.files.Lchown(u.ctx, name, h.Uid, h.Gid); err != nil {
			return err
		}
	}
	if !all { // a link has no permissions
		return nil
	}
	mode := h.FileInfo().Mode() & (fs.ModePerm | fs.ModeSticky | fs.ModeSetuid | fs.ModeSetgid)
	if !u.flags.archive {
		mode &^= fs.ModeSetuid | fs.ModeSetgid
	}
	if err := u.files.Chmod(u.ctx, name, mode); err != nil {
		return err
	}
	return u.files.Chtimes(u.ctx, name, time.Time{}, h.ModTime)
}
