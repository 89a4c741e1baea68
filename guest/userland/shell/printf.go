package shell

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Echo returns what echo prints: operands joined by spaces, a newline unless
// -n is first, escapes with -e (as Bash; POSIX leaves them open).
func Echo(args []string) string {
	newline, escapes := true, false
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && strings.Trim(args[0][1:], "neE") == "" {
		for _, c := range args[0][1:] {
			switch c {
			case 'n':
				newline = false
			case 'e':
				escapes = true
			case 'E':
				escapes = false
			}
		}
		args = args[1:]
	}
	text := strings.Join(args, " ")
	if escapes {
		var stop bool
		if text, stop = unescape(text, true); stop {
			return text
		}
	}
	if newline {
		text += "\n"
	}
	return text
}

// unescape replaces backslash escapes. With zeroOctal (echo -e, %b) an octal
// number starts with 0, and \c ends the output: stop.
func unescape(v string, zeroOctal bool) (out string, stop bool) {
	if !strings.Contains(v, `\`) {
		return v, false
	}
	var b strings.Builder
	for i := 0; i < len(v); i++ {
		if v[i] != '\\' || i+1 == len(v) {
			b.WriteByte(v[i])
			continue
		}
		i++
		digits := func(from, most, base int) {
			n := 0
			for n < most && from+n < len(v) {
				if _, err := strconv.ParseUint(v[from+n:from+n+1], base, 8); err != nil {
					break
				}
				n++
			}
			x, err := strconv.ParseUint(v[from:from+n], base, 32)
			if err != nil {
				b.WriteString(v[i-1 : i+1])
				return
			}
			if most > 3 {
				b.WriteRune(rune(x))
			} else {
				b.WriteByte(byte(x))
			}
			i = from + n - 1
		}
		switch c := v[i]; c {
		case 'a':
			b.WriteByte('\a')
		case 'b':
			b.WriteByte('\b')
		case 'e', 'E':
			b.WriteByte(0x1b)
		case 'f':
			b.WriteByte('\f')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 't':
			b.WriteByte('\t')
		case 'v':
			b.WriteByte('\v')
		case '\\', '"', '\'':
			b.WriteByte(c)
		case 'x':
			digits(i+1, 2, 16)
		case 'u':
			digits(i+1, 4, 16)
		case 'U':
			digits(i+1, 8, 16)
		case 'c':
			return b.String(), true
		case '0':
			if zeroOctal {
				if i+1 < len(v) && v[i+1] >= '0' && v[i+1] <= '7' {
					digits(i+1, 3, 8)
				} else {
					b.WriteByte(0)
				}
			} else {
				digits(i, 3, 8)
			}
		case '1', '2', '3', '4', '5', '6', '7':
			digits(i, 3, 8)
		default:
			b.WriteByte('\\')
			b.WriteByte(c)
		}
	}
	return b.String(), false
}

// Printf returns what printf prints, and an error for the first bad argument:
// POSIX wants both.
func Printf(args []string) (string, error) {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return "", errors.New("usage: printf format [argument …]")
	}
	p := printer{args: args[1:]}
	for {
		before := len(p.args)
		if p.format(args[0]) {
			break
		}
		if len(p.args) == 0 || len(p.args) == before {
			break
		}
	}
	return p.b.String(), p.err
}

type printer struct {
	b    strings.Builder
	args []string
	err  error
}

func (p *printer) next() string {
	if len(p.args) == 0 {
		return ""
	}
	a := p.args[0]
	p.args = p.args[1:]
	return a
}

func (p *printer) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
}

// format processes the format once and reports whether output has to stop.
func (p *printer) format(f string) (stop bool) {
	for f != "" {
		i := strings.IndexAny(f, `%\`)
		if i < 0 {
			p.b.WriteString(f)
			return false
		}
		p.b.WriteString(f[:i])
		f = f[i:]
		if f[0] == '\\' {
			n := escapeLen(f)
			text, stop := unescape(f[:n], false)
			p.b.WriteString(text)
			if stop {
				return true
			}
			f = f[n:]
			continue
		}
		if strings.HasPrefix(f, "%%") {
			p.b.WriteByte('%')
			f = f[2:]
			continue
		}
		var stop bool
		if f, stop = p.verb(f); stop {
			return true
		}
	}
	return false
}

// escapeLen is the length of the escape at the start of f.
func escapeLen(f string) int {
	if len(f) < 2 {
		return 1
	}
	most, ok := 0, func(byte) bool { return false }
	hex := func(c byte) bool { return strings.IndexByte("0123456789abcdefABCDEF", c) >= 0 }
	start := 2
	switch {
	case f[1] >= '0' && f[1] <= '7':
		start, most, ok = 1, 3, func(c byte) bool { return c >= '0' && c <= '7' }
	case f[1] == 'x':
		most, ok = 2, hex
	case f[1] == 'u':
		most, ok = 4, hex
	case f[1] == 'U':
		most, ok = 8, hex
	}
	n := start
	for n < len(f) && n-start < most && ok(f[n]) {
		n++
	}
	return n
}

// verb prints one conversion and returns the rest of the format.
func (p *printer) verb(f string) (rest string, stop bool) {
	spec := []byte{'%'}
	i := 1
	for i < len(f) && strings.IndexByte("-+ #0'", f[i]) >= 0 {
		if f[i] != '\'' {
			spec = append(spec, f[i])
		}
		i++
	}
	number := func() {
		if i < len(f) && f[i] == '*' {
			spec = strconv.AppendInt(spec, p.int(p.next()), 10)
			i++
			return
		}
		for i < len(f) && f[i] >= '0' && f[i] <= '9' {
			spec = append(spec, f[i])
			i++
		}
	}
	number()
	if i < len(f) && f[i] == '.' {
		spec = append(spec, '.')
		i++
		number()
	}
	for i < len(f) && strings.IndexByte("hlLqjzt", f[i]) >= 0 {
		i++
	}
	if i >= len(f) {
		p.fail("%s: missing conversion", f)
		return "", true
	}
	c := f[i]
	rest = f[i+1:]
	switch c {
	case 's':
		p.string(spec, p.next())
	case 'b':
		text, end := unescape(p.next(), true)
		p.string(spec, text)
		return rest, end
	case 'q':
		p.b.WriteString(quote(p.next()))
	case 'c':
		a := p.next()
		p.string(spec, a[:min(len(a), 1)])
	case 'd', 'i':
		fmt.Fprintf(&p.b, string(integerSpec(spec))+"d", p.int(p.next()))
	case 'u':
		fmt.Fprintf(&p.b, string(integerSpec(spec))+"d", uint64(p.int(p.next())))
	case 'o', 'x', 'X':
		fmt.Fprintf(&p.b, string(integerSpec(spec))+string(c), uint64(p.int(p.next())))
	case 'e', 'E', 'f', 'F', 'g', 'G':
		a := p.next()
		v, err := strconv.ParseFloat(strings.TrimSpace(a), 64)
		if err != nil && a != "" {
			v = float64(p.int(a))
		}
		if c == 'F' {
			c = 'f'
		}
		if (c == 'g' || c == 'G') && !strings.Contains(string(spec), ".") {
			spec = append(spec, ".6"...)
		}
		fmt.Fprintf(&p.b, string(spec)+string(c), v)
	default:
		p.fail("%s: invalid directive", f[:i+1])
		return "", true
	}
	return rest, false
}

// integerSpec drops the 0 flag where a precision is given, as C does.
func integerSpec(spec []byte) []byte {
	if strings.IndexByte(string(spec), '.') < 0 {
		return spec
	}
	i := 1
	for i < len(spec) && strings.IndexByte("-+ #0", spec[i]) >= 0 {
		if spec[i] == '0' {
			spec = append(spec[:i:i], spec[i+1:]...)
			continue
		}
		i++
	}
	return spec
}

// string pads by bytes as C does: Go's own verbs count runes.
func (p *printer) string(spec []byte, v string) {
	flags := strings.Trim(string(spec[1:]), "+ #")
	left := strings.HasPrefix(flags, "-")
	width, prec, hasPrec := strings.Cut(strings.TrimLeft(flags, "-0"), ".")
	if hasPrec {
		n, _ := strconv.Atoi(prec)
		for n < len(v) && n > 0 && !utf8.RuneStart(v[n]) {
			n--
		}
		v = v[:min(n, len(v))]
	}
	w, _ := strconv.Atoi(width)
	pad := strings.Repeat(" ", max(0, min(w, 1<<20)-len(v)))
	if left {
		p.b.WriteString(v + pad)
	} else {
		p.b.WriteString(pad + v)
	}
}

// int parses an integer argument: decimal, 0octal, 0xhex, 'c.
func (p *printer) int(a string) int64 {
	if a == "" {
		return 0
	}
	if a[0] == '\'' || a[0] == '"' {
		r, _ := utf8.DecodeRuneInString(a[1:])
		if len(a) == 1 {
			r = 0
		}
		return int64(r)
	}
	t := strings.TrimLeft(a, " \t\n")
	end := 0
	for end < len(t) && (strings.IndexByte("0123456789abcdefABCDEFxX", t[end]) >= 0 || end == 0 && (t[0] == '-' || t[0] == '+')) {
		end++
	}
	for ; end > 0; end-- {
		if n, err := strconv.ParseInt(t[:end], 0, 64); err == nil && !strings.ContainsAny(t[:end], "bB_") || isHex(t[:end]) && err == nil {
			if end < len(t) {
				p.fail("%s: not completely converted", a)
			}
			return n
		} else if u, err := strconv.ParseUint(t[:end], 0, 64); err == nil && end == len(t) {
			return int64(u)
		} else if errors.Is(err, strconv.ErrRange) {
			p.fail("%s: out of range", a)
			return n
		}
	}
	p.fail("%s: invalid number", a)
	return 0
}

func isHex(v string) bool {
	v = strings.TrimLeft(v, "+-")
	return strings.HasPrefix(v, "0x") || strings.HasPrefix(v, "0X")
}
