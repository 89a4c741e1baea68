package userland

import (
	"bufio"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"strconv"
	"strings"
)

// newHash returns the hash that a command's name promises.
func newHash(name string) hash.Hash {
	switch name {
	case "md5sum":
		return md5.New()
	case "sha1sum":
		return sha1.New()
	case "sha224sum":
		return sha256.New224()
	case "sha384sum":
		return sha512.New384()
	case "sha512sum":
		return sha512.New()
	}
	return sha256.New()
}

func digest(name string, r io.Reader) (string, error) {
	h := newHash(name)
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// checksum is md5sum, sha1sum, sha256sum and so on.
func checksum(c *command) {
	paths, ok := c.parse("bctqsw", "binary=b check=c text=t quiet=q status=s warn=w")
	if !ok {
		return
	}
	if c.opts.has('c') {
		c.inputs(paths, c.check)
		return
	}
	c.inputs(paths, func(name string, r io.Reader) error {
		if f, ok := r.(*os.File); ok {
			if fi, err := f.Stat(); err == nil && fi.IsDir() {
				//lint:ignore ST1005 as the C library says it, which users compare
				return fmt.Errorf("Is a directory")
			}
		}
		sum, err := digest(c.name, r)
		if err != nil {
			return err
		}
		mark := " "
		if c.opts.has('b') {
			mark = "*"
		}
		fmt.Fprintf(c.out, "%s %s%s\n", sum, mark, name)
		return nil
	})
}

// check verifies the files that a list of sums names.
func (c *command) check(list string, r io.Reader) error {
	bad, missing, good := 0, 0, 0
	size := newHash(c.name).Size() * 2
	err := lines(r, func(line []byte, _ bool) bool {
		want, name, ok := strings.Cut(string(line), " ")
		if !ok || len(want) != size || len(name) < 2 {
			return true
		}
		name = name[1:]
		f, err := c.open(name)
		got := ""
		if err == nil {
			got, err = digest(c.name, f)
			f.Close()
		}
		switch {
		case err != nil:
			c.fail(name, err)
			if !c.opts.has('s') {
				fmt.Fprintf(c.out, "%s: FAILED open or read\n", name)
			}
			missing++
		case !strings.EqualFold(got, want):
			if !c.opts.has('s') {
				fmt.Fprintf(c.out, "%s: FAILED\n", name)
			}
			bad++
		default:
			good++
			if !c.opts.has('q') && !c.opts.has('s') {
				fmt.Fprintf(c.out, "%s: OK\n", name)
			}
		}
		return true
	})
	if err == nil && good+bad+missing == 0 {
		return fmt.Errorf("no properly formatted checksum lines found")
	}
	if bad+missing > 0 {
		c.status = 1
		if bad > 0 && !c.opts.has('s') {
			c.errorf("WARNING: %d computed checksum did NOT match", bad)
		}
	}
	return err
}

func base64Cmd(c *command) {
	paths, ok := c.parse("diw:", "decode=d ignore-garbage=i wrap=w")
	if !ok {
		return
	}
	width, err := strconv.Atoi(c.opts.get('w', "76"))
	if err != nil || width < 0 {
		c.errorf("invalid wrap size: '%s'", c.opts.get('w', ""))
		return
	}
	c.inputs(paths, func(_ string, r io.Reader) error {
		if c.opts.has('d') {
			// The decoder skips newlines by itself.
			if _, err := io.Copy(c.out, base64.NewDecoder(base64.StdEncoding, bufio.NewReader(r))); err != nil {
				return fmt.Errorf("invalid input")
			}
			return nil
		}
		w := &wrapWriter{w: c.out, width: width}
		enc := base64.NewEncoder(base64.StdEncoding, w)
		if _, err := io.CopyBuffer(enc, struct{ io.Reader }{r}, make([]byte, 48<<10)); err != nil {
			return err
		}
		enc.Close()
		if w.col > 0 && width > 0 {
			c.out.WriteByte('\n')
		}
		return nil
	})
}

// wrapWriter breaks lines at a width.
type wrapWriter struct {
	w          *bufio.Writer
	width, col int
}

func (w *wrapWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		n := len(p)
		if w.width > 0 {
			n = min(n, w.width-w.col)
		}
		if _, err := w.w.Write(p[:n]); err != nil {
			return 0, err
		}
		p = p[n:]
		if w.col += n; w.width > 0 && w.col == w.width {
			w.w.WriteByte('\n')
			w.col = 0
		}
	}
	return total, nil
}
