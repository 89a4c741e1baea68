package userland

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

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
