package userland

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

func head(c *command) {
	c.args = numericOption(c.args)
	paths, ok := c.parse("n:c:qv", "lines=n bytes=c quiet=q silent=q verbose=v")
	if !ok {
		return
	}
	byBytes := c.opts.last("nc") == 'c'
	spec := c.opts.get('n', "10")
	if byBytes {
		spec = c.opts.get('c', "")
	}
	n, err := size(spec)
	if err != nil {
		c.errorf("invalid number: '%s'", spec)
		return
	}
	first := true
	c.inputs(paths, func(name string, r io.Reader) error {
		c.header(name, len(paths), &first)
		switch {
		case n < 0:
			return c.allButLast(r, int(-n), byBytes)
		case byBytes:
			_, err := io.CopyN(c.out, r, n)
			if err == io.EOF {
				err = nil
			}
			return err
		case n == 0:
			return nil
		}
		left := n
		return lines(r, func(line []byte, nl bool) bool {
			c.out.Write(line)
			if nl {
				c.out.WriteByte('\n')
			}
			left--
			return left > 0
		})
	})
}

// header prints the "==> name <==" line of head and tail.
func (c *command) header(name string, files int, first *bool) {
	if files < 2 && !c.opts.has('v') || c.opts.has('q') {
		return
	}
	if !*first {
		c.out.WriteByte('\n')
	}
	*first = false
	if name == "-" {
		name = "standard input"
	}
	fmt.Fprintf(c.out, "==> %s <==\n", name)
}

// allButLast prints all but the last n lines or bytes.
func (c *command) allButLast(r io.Reader, n int, byBytes bool) error {
	if byBytes {
		data, err := io.ReadAll(r)
		c.out.Write(data[:max(0, len(data)-n)])
		return err
	}
	var held [][]byte
	return lines(r, func(line []byte, _ bool) bool {
		held = append(held, bytes.Clone(line))
		if len(held) > n {
			c.out.Write(held[0])
			c.out.WriteByte('\n')
			held = held[1:]
		}
		return true
	})
}

// numericOption turns head's and tail's old -5 into -n 5.
func numericOption(args []string) []string {
	if len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		if _, err := strconv.Atoi(args[0][1:]); err == nil {
			return append([]string{"-n", args[0][1:]}, args[1:]...)
		}
	}
	return args
}

func tail(c *command) {
	c.args = numericOption(c.args)
	paths, ok := c.parse("n:c:fFqvs:", "lines=n bytes=c follow=f quiet=q verbose=v")
	if !ok {
		return
	}
	byBytes := c.opts.last("nc") == 'c'
	spec := c.opts.get('n', "10")
	if byBytes {
		spec = c.opts.get('c', "")
	}
	fromStart := strings.HasPrefix(spec, "+")
	n, err := size(strings.TrimLeft(spec, "+-"))
	if err != nil {
		c.errorf("invalid number: '%s'", spec)
		return
	}
	first := true
	c.inputs(paths, func(name string, r io.Reader) error {
		c.header(name, len(paths), &first)
		switch {
		case fromStart:
			return c.fromStart(r, n, byBytes)
		case byBytes:
			return c.lastBytes(r, int(n))
		}
		return c.lastLines(r, int(n))
	})
	if c.opts.has('f') || c.opts.has('F') {
		c.follow(paths)
	}
}

func (c *command) fromStart(r io.Reader, n int64, byBytes bool) error {
	if byBytes {
		if _, err := io.CopyN(io.Discard, r, max(0, n-1)); err == io.EOF {
			return nil
		}
		_, err := io.Copy(c.out, r)
		return err
	}
	at := int64(0)
	return lines(r, func(line []byte, nl bool) bool {
		if at++; at >= n {
			c.out.Write(line)
			if nl {
				c.out.WriteByte('\n')
			}
		}
		return true
	})
}

func (c *command) lastBytes(r io.Reader, n int) error {
	if f, ok := r.(*os.File); ok && n > 0 {
		if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() && fi.Size() > int64(n) {
			f.Seek(-int64(n), io.SeekEnd)
		}
	}
	var held []byte
	buf := make([]byte, 64<<10)
	for {
		m, err := r.Read(buf)
		held = append(held, buf[:m]...)
		if len(held) > n {
			held = append(held[:0], held[len(held)-n:]...)
		}
		if err == io.EOF {
			c.out.Write(held)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// lastLines keeps the last n lines; of a large file it reads the end only.
func (c *command) lastLines(r io.Reader, n int) error {
	if f, ok := r.(*os.File); ok {
		if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() && fi.Size() > 1<<20 {
			if off, err := tailOffset(f, fi.Size(), n); err == nil {
				f.Seek(off, io.SeekStart)
				_, err = io.Copy(c.out, f)
				return err
			}
		}
	}
	ring := make([][]byte, 0, min(n, 1024))
	at := 0
	err := lines(r, func(line []byte, nl bool) bool {
		if n == 0 {
			return true
		}
		l := append([]byte(nil), line...)
		if nl {
			l = append(l, '\n')
		}
		if len(ring) < n {
			ring = append(ring, l)
		} else {
			ring[at] = l
			at = (at + 1) % n
		}
		return true
	})
	for i := range ring {
		c.out.Write(ring[(at+i)%len(ring)])
	}
	return err
}

// tailOffset finds where the last n lines of a file begin.
func tailOffset(f *os.File, size int64, n int) (int64, error) {
	buf := make([]byte, 64<<10)
	end := size
	for end > 0 {
		start := max(0, end-int64(len(buf)))
		part := buf[:end-start]
		if _, err := f.ReadAt(part, start); err != nil {
			return 0, err
		}
		for i := len(part) - 1; i >= 0; i-- {
			if part[i] == '\n' && start+int64(i) != size-1 {
				if n--; n == 0 {
					return start + int64(i) + 1, nil
				}
			}
		}
		end = start
	}
	return 0, nil
}

// follow prints what is appended, until a signal ends the process.
func (c *command) follow(paths []string) {
	if len(paths) == 0 {
		return
	}
	offsets := make(map[string]int64)
	for _, p := range paths {
		if fi, err := os.Stat(p); err == nil {
			offsets[p] = fi.Size()
		}
	}
	c.out.Flush()
	for {
		time.Sleep(200 * time.Millisecond)
		for _, p := range paths {
			f, err := os.Open(p)
			if err != nil {
				continue
			}
			if fi, err := f.Stat(); err == nil && fi.Size() < offsets[p] {
				offsets[p] = 0 // truncated or replaced
			}
			f.Seek(offsets[p], io.SeekStart)
			n, _ := io.Copy(c.out, f)
			offsets[p] += n
			f.Close()
		}
		c.flush()
	}
}
