package userland

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
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

// sortKey is one -k: fields and characters counted from 1, to == 0 is the end.
type sortKey struct {
	from, fromChar, to, toChar int
	flags                      string
}

func parseKey(spec string) (sortKey, error) {
	var k sortKey
	pos := func(v string) (field, char int, err error) {
		end := strings.IndexFunc(v, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		if end < 0 {
			end = len(v)
		}
		k.flags += v[end:]
		f, ch, has := strings.Cut(v[:end], ".")
		if field, err = strconv.Atoi(f); err == nil && has {
			char, err = strconv.Atoi(ch)
		}
		return field, char, err
	}
	a, b, has := strings.Cut(spec, ",")
	var err error
	if k.from, k.fromChar, err = pos(a); err == nil && has {
		k.to, k.toChar, err = pos(b)
	}
	if err != nil || k.from < 1 {
		return k, fmt.Errorf("invalid key: '%s'", spec)
	}
	return k, nil
}

func sortCmd(c *command) {
	paths, ok := c.parse("bdfghik:mMno:rRst:uVz", "reverse=r numeric-sort=n unique=u key=k field-separator=t output=o ignore-case=f stable=s human-numeric-sort=h version-sort=V general-numeric-sort=g zero-terminated=z check=C")
	if !ok {
		c.status = 2
		return
	}
	flags := ""
	for _, f := range "bdfghiMnrRV" {
		if c.opts.has(byte(f)) {
			flags += string(f)
		}
	}
	var keys []sortKey
	for _, k := range c.opts.values['k'] {
		key, err := parseKey(k)
		if err != nil {
			c.errorf("%v", err)
			c.status = 2
			return
		}
		if strings.Trim(key.flags, "b") == "" {
			key.flags += flags
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		keys = []sortKey{{flags: flags}}
	}
	sep := c.opts.get('t', "")
	if sep == `\t` {
		sep = "\t"
	} else if sep == `\0` {
		sep = "\x00"
	}
	delim := byte('\n')
	if c.opts.has('z') {
		delim = 0
	}
	var all []string
	c.inputs(paths, func(_ string, r io.Reader) error {
		return records(r, delim, func(rec []byte, _ bool) bool {
			all = append(all, string(rec))
			return true
		})
	})
	compare := func(a, b string) int {
		for _, k := range keys {
			n := compareKeys(k.extract(a, sep), k.extract(b, sep), k.flags)
			if strings.Contains(k.flags, "r") {
				n = -n
			}
			if n != 0 {
				return n
			}
		}
		return 0
	}
	slices.SortStableFunc(all, func(a, b string) int {
		n := compare(a, b)
		if n == 0 && !c.opts.has('s') && !c.opts.has('u') {
			if n = strings.Compare(a, b); strings.Contains(flags, "r") {
				n = -n
			}
		}
		return n
	})
	if c.opts.has('u') {
		all = slices.CompactFunc(all, func(a, b string) bool { return compare(a, b) == 0 })
	}
	if p := c.opts.get('o', ""); p != "" {
		f, err := os.Create(p)
		if err != nil {
			c.fail(p, err)
			c.status = 2
			return
		}
		defer f.Close()
		c.out.Reset(f)
		defer c.out.Flush()
	}
	for _, l := range all {
		c.out.WriteString(l)
		c.out.WriteByte(delim)
	}
}

// extract returns the part of a line that a key compares.
func (k sortKey) extract(line, sep string) string {
	if k.from == 0 {
		return line
	}
	start := fieldStart(line, k.from, sep)
	if strings.Contains(k.flags, "b") || k.fromChar > 0 && sep == "" {
		for start < len(line) && (line[start] == ' ' || line[start] == '\t') {
			start++
		}
	}
	start = min(start+max(0, k.fromChar-1), len(line))
	end := len(line)
	if k.to > 0 {
		if k.toChar > 0 {
			end = fieldStart(line, k.to, sep)
			if sep == "" {
				for end < len(line) && (line[end] == ' ' || line[end] == '\t') {
					end++
				}
			}
			end = min(end+k.toChar, len(line))
		} else if end = fieldStart(line, k.to+1, sep); end < len(line) && sep != "" {
			end -= len(sep)
		} else if sep != "" && strings.HasSuffix(line, sep) && strings.Count(line, sep) == k.to {
			end -= len(sep)
		}
	}
	if end < start {
		return ""
	}
	return line[start:end]
}

// fieldStart is the offset of a field, counted from 1. Without a separator a
// field begins with the blanks in front of it.
func fieldStart(line string, field int, sep string) int {
	at := 0
	for range field - 1 {
		if sep != "" {
			i := strings.Index(line[at:], sep)
			if i < 0 {
				return len(line)
			}
			at += i + len(sep)
			continue
		}
		for at < len(line) && (line[at] == ' ' || line[at] == '\t') {
			at++
		}
		for at < len(line) && line[at] != ' ' && line[at] != '\t' {
			at++
		}
	}
	return at
}

func compareKeys(a, b, flags string) int {
	has := func(f string) bool { return strings.Contains(flags, f) }
	switch {
	case has("n"), has("g"), has("h"):
		return compareFloat(leadingNumber(a, has("h"), has("g")), leadingNumber(b, has("h"), has("g")))
	case has("M"):
		return month(a) - month(b)
	case has("V"):
		return compareVersions(a, b)
	}
	if has("b") {
		a, b = strings.TrimLeft(a, " \t"), strings.TrimLeft(b, " \t")
	}
	if has("d") {
		keep := func(r rune) rune {
			if unicode.IsLetter(r) || unicode.IsDigit(r) || r == ' ' || r == '\t' {
				return r
			}
			return -1
		}
		a, b = strings.Map(keep, a), strings.Map(keep, b)
	}
	if has("f") {
		a, b = strings.ToUpper(a), strings.ToUpper(b)
	}
	return strings.Compare(a, b)
}

func compareFloat(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func leadingNumber(v string, suffix, general bool) float64 {
	v = strings.TrimLeft(v, " \t")
	if general {
		for end := len(v); end > 0; end-- {
			if f, err := strconv.ParseFloat(v[:end], 64); err == nil {
				return f
			}
		}
		return 0
	}
	end := 0
	for end < len(v) && (v[end] >= '0' && v[end] <= '9' || v[end] == '.' || end == 0 && v[end] == '-') {
		end++
	}
	f, _ := strconv.ParseFloat(v[:end], 64)
	if suffix && end < len(v) {
		if i := strings.IndexByte("KMGTPE", v[end]&^0x20); i >= 0 {
			for range i + 1 {
				f *= 1024
			}
		}
	}
	return f
}

func month(v string) int {
	v = strings.ToUpper(strings.TrimLeft(v, " \t"))
	if len(v) < 3 {
		return 0
	}
	for i := range 12 {
		if v[:3] == "JANFEBMARAPRMAYJUNJULAUGSEPOCTNOVDEC"[3*i:3*i+3] {
			return i + 1
		}
	}
	return 0
}

// compareVersions compares digit runs by value.
func compareVersions(a, b string) int {
	digit := func(s string, i int) bool { return i < len(s) && s[i] >= '0' && s[i] <= '9' }
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		if digit(a, i) && digit(b, j) {
			si, sj := i, j
			for digit(a, i) {
				i++
			}
			for digit(b, j) {
				j++
			}
			x, y := strings.TrimLeft(a[si:i], "0"), strings.TrimLeft(b[sj:j], "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
			if n := strings.Compare(x, y); n != 0 {
				return n
			}
			continue
		}
		if a[i] != b[j] {
			return int(a[i]) - int(b[j])
		}
		i++
		j++
	}
	return (len(a) - i) - (len(b) - j)
}
