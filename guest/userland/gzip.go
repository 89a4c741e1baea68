package userland

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// gzipCmd is gzip, gunzip and zcat.
func gzipCmd(c *command) {
	paths, ok := c.parse("123456789cdfklnqtvS:", "stdout=c to-stdout=c decompress=d uncompress=d force=f keep=k test=t quiet=q verbose=v fast=1 best=9")
	if !ok {
		return
	}
	decompress := c.opts.has('d') || c.name != "gzip"
	level := 6
	if l := c.opts.last("123456789"); l != 0 {
		level = int(l - '0')
	}
	if len(paths) == 0 {
		paths = []string{"-"}
	}
	for _, p := range paths {
		if err := c.gzipFile(p, decompress, level); err != nil {
			c.fail(p, err)
		}
	}
}

func (c *command) gzipFile(p string, decompress bool, level int) (err error) {
	convert := func(w io.Writer, r io.Reader) error {
		if decompress {
			zr, err := gzip.NewReader(bufio.NewReader(r))
			if err != nil {
				return fmt.Errorf("not in gzip format")
			}
			_, err = io.Copy(w, zr)
			return err
		}
		zw, err := gzip.NewWriterLevel(w, level)
		if err != nil {
			return err
		}
		_, err = io.Copy(zw, r)
		return errors.Join(err, zw.Close())
	}
	in, err := c.open(p)
	if err != nil {
		return err
	}
	switch {
	case c.opts.has('t'):
		decompress = true
		return convert(io.Discard, in)
	case p == "-" || c.opts.has('c') || c.name == "zcat":
		if p != "-" {
			defer in.Close()
		}
		return convert(c.out, in)
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return errors.Join(err, errors.New("not a regular file -- ignored"))
	}
	dst := p + ".gz"
	if decompress {
		switch {
		case strings.HasSuffix(p, ".gz"):
			dst = strings.TrimSuffix(p, ".gz")
		case strings.HasSuffix(p, ".tgz"):
			dst = strings.TrimSuffix(p, ".tgz") + ".tar"
		default:
			return errors.New("unknown suffix -- ignored")
		}
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if c.opts.has('f') {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	out, err := os.OpenFile(dst, flags, fi.Mode().Perm())
	if err != nil {
		return fmt.Errorf("%s: %w", dst, reason(err))
	}
	if err := errors.Join(convert(out, in), out.Close()); err != nil {
		os.Remove(dst)
		return err
	}
	os.Chtimes(dst, fi.ModTime(), fi.ModTime())
	if !c.opts.has('k') {
		return os.Remove(p)
	}
	return nil
}
