package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/sandpit-vm/sandpit/guest/proto"
)

// ReadFile reads a whole file, of at most [MaxReadFile] bytes: the guest decides
// how large a file is. A small one takes a single round trip.
func (f *FS) ReadFile(ctx context.Context, name string) ([]byte, error) {
	resp, err := f.call(ctx, &proto.FileRequest{Kind: proto.FileRequest_READ_FILE, Path: guestPath(name)})
	if err != nil {
		return nil, f.pathError("open", name, err)
	}
	if resp.GetEof() {
		if resp.GetData() == nil {
			return []byte{}, nil
		}
		return resp.GetData(), nil
	}
	file, err := f.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var b limitedBuffer
	if _, err := file.WriteTo(&b); err != nil {
		if b.full {
			err = &Error{f.sandbox, "read " + name, fmt.Errorf("the file has more than %d bytes; use Open", MaxReadFile)}
		}
		return nil, err
	}
	return b.Bytes(), nil
}

// limitedBuffer takes MaxReadFile bytes.
type limitedBuffer struct {
	bytes.Buffer
	full bool
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > MaxReadFile {
		b.full = true
		return 0, bytes.ErrTooLarge
	}
	return b.Buffer.Write(p)
}

// WriteFile writes a whole file: it makes it, with these permissions before the
// umask, or empties it first. A failure in the middle leaves what was written.
func (f *FS) WriteFile(ctx context.Context, name string, data []byte, perm fs.FileMode) error {
	if len(data) > proto.MaxChunk {
		file, err := f.OpenFile(ctx, name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
		if err != nil {
			return err
		}
		_, err = file.Write(data)
		if closeErr := file.Close(); err == nil {
			err = closeErr
		}
		return err
	}
	resp, err := f.call(ctx, &proto.FileRequest{
		Kind: proto.FileRequest_WRITE_FILE, Path: guestPath(name), Data: data, Mode: unixMode(perm),
		Flags: uint32(proto.OpenFlag_OPEN_WRITE | proto.OpenFlag_OPEN_CREATE | proto.OpenFlag_OPEN_TRUNC),
	})
	op := "open"
	if resp.GetWritten() > 0 {
		op = "write"
	}
	if err == nil && int64(resp.GetWritten()) != int64(len(data)) {
		op, err = "write", io.ErrShortWrite
	}
	return f.pathError(op, name, err)
}

// DirFS returns the tree at dir as an [fs.FS], as os.DirFS does: links in it
// that lead out of it are followed. It implements also fs.StatFS, ReadFileFS,
// ReadDirFS, ReadLinkFS and SubFS. ctx governs everything done with it.
func (f *FS) DirFS(ctx context.Context, dir string) fs.FS { return &dirFS{ctx, f, dir} }

type dirFS struct {
	ctx context.Context
	fs  *FS
	dir string
}

// name is the guest's name of one of the tree's.
func (d *dirFS) name(op, name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return path.Join("/", d.dir, name), nil
}

// relative gives errors the tree's names instead of the guest's.
func relative(name string, err error) error {
	if pe, ok := err.(*fs.PathError); ok {
		pe.Path = name
	}
	return err
}

// within does one operation in a tree.
func within[T any](d *dirFS, op, name string, do func(context.Context, string) (T, error)) (T, error) {
	whole, err := d.name(op, name)
	if err != nil {
		var none T
		return none, err
	}
	v, err := do(d.ctx, whole)
	return v, relative(name, err)
}

// Open implements fs.FS.
func (d *dirFS) Open(name string) (fs.File, error) {
	file, err := within(d, "open", name, d.fs.Open)
	if err != nil {
		return nil, err // not a nil *File
	}
	return file, nil
}

// ReadFile implements fs.ReadFileFS.
func (d *dirFS) ReadFile(name string) ([]byte, error) { return within(d, "open", name, d.fs.ReadFile) }

// ReadDir implements fs.ReadDirFS.
func (d *dirFS) ReadDir(name string) ([]fs.DirEntry, error) {
	return within(d, "open", name, d.fs.ReadDir)
}

// Stat implements fs.StatFS.
func (d *dirFS) Stat(name string) (fs.FileInfo, error) { return within(d, "stat", name, d.fs.Stat) }

// Lstat implements fs.ReadLinkFS.
func (d *dirFS) Lstat(name string) (fs.FileInfo, error) { return within(d, "lstat", name, d.fs.Lstat) }

// ReadLink implements fs.ReadLinkFS.
func (d *dirFS) ReadLink(name string) (string, error) {
	return within(d, "readlink", name, d.fs.Readlink)
}

// Sub implements fs.SubFS.
func (d *dirFS) Sub(dir string) (fs.FS, error) {
	whole, err := d.name("sub", dir)
	if err != nil {
		return nil, err
	}
	return &dirFS{d.ctx, d.fs, whole}, nil
}
