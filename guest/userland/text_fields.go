package userland

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// interval is one element of cut's list, from and to inclusive, counted from 1.
type interval struct{ from, to int }

func parseList(list string) ([]interval, error) {
	var out []interval
	for part := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		a, b, isRange := strings.Cut(part, "-")
		iv := interval{1, 1<<62 - 1}
		var err error
		if a != "" {
			if iv.from, err = strconv.Atoi(a); err != nil || iv.from < 1 {
				return nil, fmt.Errorf("invalid list: '%s'", part)
			}
		}
		switch {
		case !isRange:
			iv.to = iv.from
		case b != "":
			if iv.to, err = strconv.Atoi(b); err != nil || iv.to < iv.from {
				return nil, fmt.Errorf("invalid list: '%s'", part)
			}
		case a == "":
			return nil, fmt.Errorf("invalid list: '%s'", part)
		}
		out = append(out, iv)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("invalid list: '%s'", list)
	}
	return out, nil
}

func selected(list []interval, n int, complement bool) bool {
	for _, iv := range list {
		if n >= iv.from && n <= iv.to {
			return !complement
		}
	}
	return complement
}

func cut(c *command) {
	paths, ok := c.parse("b:c:f:d:snCO:", "bytes=b characters=c fields=f delimiter=d only-delimited=s complement=C output-delimiter=O")
	if !ok {
		return
	}
	mode := c.opts.last("bcf")
	if mode == 0 {
		c.errorf("you must specify a list of bytes, characters, or fields")
		return
	}
	list, err := parseList(c.opts.get(mode, ""))
	if err != nil {
		c.errorf("%v", err)
		return
	}
	delim := c.opts.get('d', "\t")
	if utf8.RuneCountInString(delim) != 1 {
		c.errorf("the delimiter must be a single character")
		return
	}
	outDelim := c.opts.get('O', "")
	if mode == 'f' && !c.opts.has('O') {
		outDelim = delim
	}
	inv := c.opts.has('C')
	c.inputs(paths, func(_ string, r io.Reader) error {
		return lines(r, func(line []byte, _ bool) bool {
			if mode == 'f' {
				if !bytes.Contains(line, []byte(delim)) {
					if !c.opts.has('s') {
						c.out.Write(line)
						c.out.WriteByte('\n')
					}
					return true
				}
				first := true
				for i, f := range bytes.Split(line, []byte(delim)) {
					if selected(list, i+1, inv) {
						if !first {
							c.out.WriteString(outDelim)
						}
						first = false
						c.out.Write(f)
					}
				}
			} else {
				prev, any := 0, false
				each := func(i int, part []byte) {
					if selected(list, i, inv) {
						if any && prev != i-1 {
							c.out.WriteString(outDelim)
						}
						prev, any = i, true
						c.out.Write(part)
					}
				}
				if mode == 'b' {
					for i := range line {
						each(i+1, line[i:i+1])
					}
				} else {
					for i := 1; len(line) > 0; i++ {
						_, n := utf8.DecodeRune(line)
						each(i, line[:n])
						line = line[n:]
					}
				}
			}
			c.out.WriteByte('\n')
			return true
		})
	})
}

func uniq(c *command) {
	c.args = numericOption(c.args)
	paths, ok := c.parse("cduif:s:w:n:", "count=c repeated=d unique=u ignore-case=i skip-fields=f skip-chars=s check-chars=w")
	if !ok {
		return
	}
	skipF, _ := strconv.Atoi(c.opts.get('f', "0"))
	skipC, _ := strconv.Atoi(c.opts.get('s', "0"))
	width, _ := strconv.Atoi(c.opts.get('w', "-1"))
	key := func(line []byte) []byte {
		k := line
		for range skipF {
			k = bytes.TrimLeft(k, " \t")
			i := bytes.IndexAny(k, " \t")
			if i < 0 {
				i = len(k)
			}
			k = k[i:]
		}
		k = k[min(skipC, len(k)):]
		if width >= 0 {
			k = k[:min(width, len(k))]
		}
		if c.opts.has('i') {
			k = bytes.ToLower(k)
		}
		return k
	}
	if len(paths) > 1 {
		f, err := os.Create(paths[1])
		if err != nil {
			c.fail(paths[1], err)
			return
		}
		defer f.Close()
		c.out.Reset(f)
		defer c.out.Flush()
		paths = paths[:1]
	}
	var prev, prevKey []byte
	n := 0
	emit := func() {
		if n == 0 || c.opts.has('d') && n < 2 || c.opts.has('u') && n > 1 {
			return
		}
		if c.opts.has('c') {
			fmt.Fprintf(c.out, "%7d ", n)
		}
		c.out.Write(prev)
		c.out.WriteByte('\n')
	}
	c.inputs(paths, func(_ string, r io.Reader) error {
		return lines(r, func(line []byte, _ bool) bool {
			k := key(line)
			if n > 0 && bytes.Equal(k, prevKey) {
				n++
				return true
			}
			emit()
			prev = append(prev[:0], line...)
			prevKey = append(prevKey[:0], k...)
			n = 1
			return true
		})
	})
	emit()
}

// trSet expands a tr set: ranges, escapes, classes, [x*n].
func trSet(spec string) ([]rune, error) {
	var out []rune
	rs := []rune(spec)
	for i := 0; i < len(rs); i++ {
		r := rs[i]
		switch {
		case r == '[' && i+1 < len(rs) && rs[i+1] == ':':
			end := strings.Index(string(rs[i:]), ":]")
			if end < 0 {
				break
			}
			name := string(rs[i+2 : i+end])
			in := charClass(name)
			if in == nil {
				return nil, fmt.Errorf("invalid character class '%s'", name)
			}
			for x := rune(0); x < 128; x++ {
				if in(x) {
					out = append(out, x)
				}
			}
			i += end + 1
			continue
		case r == '\\' && i+1 < len(rs):
			i++
			r = rs[i]
			if r >= '0' && r <= '7' {
				v := rune(0)
				n := 0
				for ; n < 3 && i+n < len(rs) && rs[i+n] >= '0' && rs[i+n] <= '7'; n++ {
					v = v*8 + rs[i+n] - '0'
				}
				i += n - 1
				r = v
			} else if k := strings.IndexRune("abfnrtv", r); k >= 0 {
				r = rune("\a\b\f\n\r\t\v"[k])
			}
		}
		if i+2 < len(rs) && rs[i+1] == '-' {
			to := rs[i+2]
			if to < r {
				return nil, fmt.Errorf("range-endpoints of '%c-%c' are in reverse order", r, to)
			}
			for x := r; x <= to; x++ {
				out = append(out, x)
			}
			i += 2
			continue
		}
		out = append(out, r)
	}
	return out, nil
}

func charClass(name string) func(rune) bool {
	switch name {
	case "alpha":
		return unicode.IsLetter
	case "digit":
		return unicode.IsDigit
	case "alnum":
		return func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }
	case "upper":
		return unicode.IsUpper
	case "lower":
		return unicode.IsLower
	case "space":
		return func(r rune) bool { return r == ' ' || r >= '\t' && r <= '\r' }
	case "blank":
		return func(r rune) bool { return r == ' ' || r == '\t' }
	case "punct":
		return func(r rune) bool { return r > ' ' && r < 127 && !unicode.IsLetter(r) && !unicode.IsDigit(r) }
	case "cntrl":
		return unicode.IsControl
	case "print":
		return func(r rune) bool { return r >= ' ' && r < 127 }
	case "graph":
		return func(r rune) bool { return r > ' ' && r < 127 }
	case "xdigit":
		return func(r rune) bool { return strings.ContainsRune("0123456789abcdefABCDEF", r) }
	}
	return nil
}

func tr(c *command) {
	sets, ok := c.parse("+cCdst", "complement=c delete=d squeeze-repeats=s truncate-set1=t")
	if !ok {
		return
	}
	del, squeeze := c.opts.has('d'), c.opts.has('s')
	if len(sets) == 0 || len(sets) > 2 || len(sets) == 1 && !del && !squeeze {
		c.usage("[-cds] set1 [set2]")
		return
	}
	a, err := trSet(sets[0])
	var b []rune
	if err == nil && len(sets) > 1 {
		b, err = trSet(sets[1])
	}
	if err == nil && !del && len(sets) > 1 && len(b) == 0 {
		err = fmt.Errorf("when not truncating set1, string2 must be non-empty")
	}
	if err != nil {
		c.errorf("%v", err)
		return
	}
	inA := make(map[rune]int, len(a))
	for i, r := range a {
		inA[r] = i // the last of a repeated character counts
	}
	inB := make(map[rune]bool, len(b))
	for _, r := range b {
		inB[r] = true
	}
	inv := c.opts.has('c') || c.opts.has('C')
	// convert returns the output for a character, or -1.
	convert := func(r rune) rune {
		i, hit := inA[r]
		if inv {
			hit = !hit
			i = len(b) - 1
		}
		switch {
		case !hit:
			return r
		case del:
			return -1
		case len(sets) > 1:
			return b[min(i, len(b)-1)]
		}
		return r
	}
	squeezes := func(r rune) bool {
		if len(sets) > 1 {
			return inB[r]
		}
		_, hit := inA[r]
		return hit != inv
	}
	last := rune(-1)
	data := make([]byte, 64<<10)
	held := 0
	for {
		n, err := os.Stdin.Read(data[held:])
		buf := data[:held+n]
		for len(buf) > 0 && (err != nil || utf8.FullRune(buf)) {
			r, size := utf8.DecodeRune(buf)
			if r == utf8.RuneError && size == 1 {
				r = rune(buf[0]) + 0x110000 // a byte that is no character: itself
			}
			buf = buf[size:]
			o := convert(r)
			if o < 0 || squeeze && o == last && squeezes(o) {
				continue
			}
			last = o
			if o >= 0x110000 {
				c.out.WriteByte(byte(o - 0x110000))
			} else if o >= 0x80 && o < 0x100 && size == 1 && r < 0x80 {
				c.out.WriteByte(byte(o)) // from an octal escape
			} else {
				c.out.WriteRune(o)
			}
		}
		held = copy(data, buf)
		if err != nil {
			return
		}
		if n < len(data)/2 {
			c.out.Flush() // an interactive writer waits for each line
		}
	}
}
