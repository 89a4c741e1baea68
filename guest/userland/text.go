package userland

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

func cat(c *command) {
	paths, ok := c.parse("nbesuvETA", "number=n number-nonblank=b squeeze-blank=s show-ends=E show-tabs=T show-all=A")
	if !ok {
		return
	}
	o := c.opts
	number, nonblank, squeeze := o.has('n'), o.has('b'), o.has('s')
	ends, tabs := o.has('E') || o.has('e') || o.has('A'), o.has('T') || o.has('A')
	if !number && !nonblank && !squeeze && !ends && !tabs {
		// Straight through: the kernel moves the data where it can.
		c.inputs(paths, func(_ string, r io.Reader) error {
			_, err := io.Copy(os.Stdout, r)
			return err
		})
		return
	}
	n, blank := 0, false
	c.inputs(paths, func(_ string, r io.Reader) error {
		return lines(r, func(line []byte, nl bool) bool {
			empty := len(line) == 0
			if squeeze && empty && blank {
				return true
			}
			blank = empty
			if nonblank && !empty || number && !nonblank {
				n++
				fmt.Fprintf(c.out, "%6d\t", n)
			}
			if tabs {
				line = bytes.ReplaceAll(line, []byte("\t"), []byte("^I"))
			}
			c.out.Write(line)
			if nl {
				if ends {
					c.out.WriteByte('$')
				}
				c.out.WriteByte('\n')
			}
			return true
		})
	})
}

func wc(c *command) {
	paths, ok := c.parse("lwcmL", "lines=l words=w bytes=c chars=m max-line-length=L")
	if !ok {
		return
	}
	show := "lwc"
	if len(c.opts.order) > 0 {
		show = ""
		for _, k := range "lwmcL" {
			if c.opts.has(byte(k)) {
				show += string(k)
			}
		}
	}
	type counts map[rune]int64
	width := 1
	if len(show) > 1 || len(paths) > 1 {
		width = 7
	}
	print := func(n counts, name string) {
		for i, k := range show {
			if i > 0 {
				c.out.WriteByte(' ')
			}
			fmt.Fprintf(c.out, "%*d", width, n[k])
		}
		if name != "" {
			c.out.WriteString(" " + name)
		}
		c.out.WriteByte('\n')
	}
	total := counts{}
	onlyBytes := show == "c"
	c.inputs(paths, func(name string, r io.Reader) error {
		n := counts{}
		var err error
		if onlyBytes {
			n['c'], err = io.Copy(io.Discard, struct{ io.Reader }{r})
		} else {
			err = count(r, n)
		}
		for k, v := range n {
			total[k] += v
		}
		total['L'] = max(total['L'], n['L'])
		if len(paths) == 0 {
			name = ""
		}
		print(n, name)
		return err
	})
	if len(paths) > 1 {
		print(total, "total")
	}
}

func count(r io.Reader, n map[rune]int64) error {
	buf := make([]byte, 128<<10)
	inWord := false
	length := int64(0)
	for {
		m, err := r.Read(buf)
		n['c'] += int64(m)
		for _, b := range buf[:m] {
			switch {
			case b == '\n':
				n['l']++
				n['L'] = max(n['L'], length)
				length = -1
				inWord = false
			case b == ' ' || b >= '\t' && b <= '\r':
				inWord = false
			case !inWord:
				inWord = true
				n['w']++
			}
			if utf8.RuneStart(b) {
				n['m']++
				length++
			}
		}
		if err != nil {
			n['L'] = max(n['L'], length)
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
}

func tee(c *command) {
	paths, ok := c.parse("aip", "append=a ignore-interrupts=i")
	if !ok {
		return
	}
	if c.opts.has('i') {
		signal.Ignore(unix.SIGINT)
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if c.opts.has('a') {
		flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	files := []*os.File{os.Stdout}
	for _, p := range paths {
		f, err := os.OpenFile(p, flags, 0o666)
		if err != nil {
			c.fail(p, err)
			continue
		}
		files = append(files, f)
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := os.Stdin.Read(buf)
		for i, f := range files {
			if f == nil {
				continue
			}
			if _, werr := f.Write(buf[:n]); werr != nil {
				c.fail(f.Name(), werr)
				files[i] = nil
			}
		}
		if err != nil {
			if err != io.EOF {
				c.fail("standard input", err)
			}
			break
		}
	}
	for _, f := range files[1:] {
		if f != nil {
			if err := f.Close(); err != nil {
				c.fail(f.Name(), err)
			}
		}
	}
}

func tac(c *command) {
	paths, ok := c.parse("", "")
	if !ok {
		return
	}
	c.inputs(paths, func(_ string, r io.Reader) error {
		data, err := io.ReadAll(r)
		if len(data) > 0 && data[len(data)-1] != '\n' {
			data = append(data, '\n')
		}
		for len(data) > 0 {
			i := bytes.LastIndexByte(data[:len(data)-1], '\n') + 1
			c.out.Write(data[i:])
			data = data[:i]
		}
		return err
	})
}

func rev(c *command) {
	paths, ok := c.parse("", "")
	if !ok {
		return
	}
	c.inputs(paths, func(_ string, r io.Reader) error {
		return lines(r, func(line []byte, _ bool) bool {
			runes := []rune(string(line))
			for i, j := 0, len(runes)-1; i < j; i, j = i+1, j-1 {
				runes[i], runes[j] = runes[j], runes[i]
			}
			c.out.WriteString(string(runes) + "\n")
			return true
		})
	})
}

func nl(c *command) {
	paths, ok := c.parse("b:w:s:v:", "")
	if !ok {
		return
	}
	width, _ := strconv.Atoi(c.opts.get('w', "6"))
	n, _ := strconv.Atoi(c.opts.get('v', "1"))
	sep := c.opts.get('s', "\t")
	c.inputs(paths, func(_ string, r io.Reader) error {
		return lines(r, func(line []byte, _ bool) bool {
			if len(line) == 0 && c.opts.get('b', "t") != "a" {
				fmt.Fprintf(c.out, "%*s\n", width+len(sep), "")
				return true
			}
			fmt.Fprintf(c.out, "%*d%s%s\n", width, n, sep, line)
			n++
			return true
		})
	})
}

func fold(c *command) {
	paths, ok := c.parse("w:sb", "width=w spaces=s bytes=b")
	if !ok {
		return
	}
	width, err := strconv.Atoi(c.opts.get('w', "80"))
	if err != nil || width < 1 {
		c.errorf("invalid width")
		return
	}
	c.inputs(paths, func(_ string, r io.Reader) error {
		return lines(r, func(line []byte, nl bool) bool {
			text := []rune(string(line))
			for len(text) > width {
				cut := width
				if c.opts.has('s') {
					for i := width; i > 0; i-- {
						if unicode.IsSpace(text[i-1]) {
							cut = i
							break
						}
					}
				}
				c.out.WriteString(string(text[:cut]) + "\n")
				text = text[cut:]
			}
			c.out.WriteString(string(text))
			if nl {
				c.out.WriteByte('\n')
			}
			return true
		})
	})
}

func paste(c *command) {
	paths, ok := c.parse("sd:", "serial=s delimiters=d")
	if !ok {
		return
	}
	if len(paths) == 0 {
		paths = []string{"-"}
	}
	delims := []rune(c.opts.get('d', "\t"))
	delims = []rune(strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\\`, `\`, `\0`, "").Replace(string(delims)))
	delim := func(i int) string {
		if len(delims) == 0 {
			return ""
		}
		return string(delims[i%len(delims)])
	}
	stdin := bufio.NewReader(os.Stdin)
	var readers []*bufio.Reader
	for _, p := range paths {
		if p == "-" {
			readers = append(readers, stdin)
			continue
		}
		f, err := os.Open(p)
		if err != nil {
			c.fail(p, err)
			return
		}
		defer f.Close()
		readers = append(readers, bufio.NewReader(f))
	}
	next := func(r *bufio.Reader) (string, bool) {
		l, err := r.ReadString('\n')
		return strings.TrimSuffix(l, "\n"), err == nil || l != ""
	}
	if c.opts.has('s') {
		for _, r := range readers {
			for i := 0; ; i++ {
				l, ok := next(r)
				if !ok {
					break
				}
				if i > 0 {
					c.out.WriteString(delim(i - 1))
				}
				c.out.WriteString(l)
			}
			c.out.WriteByte('\n')
		}
		return
	}
	for {
		any := false
		row := ""
		for i, r := range readers {
			l, ok := next(r)
			any = any || ok
			if i > 0 {
				row += delim(i - 1)
			}
			row += l
		}
		if !any {
			return
		}
		c.out.WriteString(row + "\n")
	}
}

func cmp(c *command) {
	paths, ok := c.parse("sl", "silent=s quiet=s")
	if !ok || len(paths) < 1 {
		c.usage("[-s] file1 file2")
		c.status = 2
		return
	}
	if len(paths) == 1 {
		paths = append(paths, "-")
	}
	var r [2]*bufio.Reader
	for i := range r {
		f, err := c.open(paths[i])
		if err != nil {
			c.fail(paths[i], err)
			c.status = 2
			return
		}
		defer f.Close()
		r[i] = bufio.NewReaderSize(f, 64<<10)
	}
	line := 1
	for at := int64(1); ; at++ {
		a, errA := r[0].ReadByte()
		b, errB := r[1].ReadByte()
		switch {
		case errA != nil && errB != nil:
			return
		case errA != nil || errB != nil:
			short := paths[0]
			if errB != nil {
				short = paths[1]
			}
			if !c.opts.has('s') {
				c.errorf("EOF on %s after byte %d", short, at-1)
			}
			c.status = 1
			return
		case a != b:
			c.status = 1
			if c.opts.has('l') {
				fmt.Fprintf(c.out, "%d %3o %3o\n", at, a, b)
				continue
			}
			if !c.opts.has('s') {
				fmt.Fprintf(c.out, "%s %s differ: char %d, line %d\n", paths[0], paths[1], at, line)
			}
			return
		}
		if a == '\n' {
			line++
		}
	}
}
