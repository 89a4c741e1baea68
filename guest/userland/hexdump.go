package userland

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
)

// hexdump is hexdump -C and xxd's default format, and od's octal, -c, -x and -t x1.
func hexdump(c *command) {
	var paths []string
	var ok bool
	format := c.name
	var skip, count int64 = 0, -1
	switch c.name {
	case "xxd":
		paths, ok = c.parse("prl:s:c:g:u", "")
		if ok && c.opts.has('r') {
			c.inputs(paths, c.unhex)
			return
		}
		if c.opts.has('p') {
			format = "plain"
		}
	case "od":
		paths, ok = c.parse("A:t:cxbdovN:j:w:", "address-radix=A format=t read-bytes=N skip-bytes=j")
		skip, _ = size(c.opts.get('j', "0"))
	default:
		paths, ok = c.parse("Cvn:s:", "canonical=C length=n skip=s")
	}
	if !ok {
		return
	}
	for _, letter := range "lnN" {
		if v := c.opts.get(byte(letter), ""); v != "" {
			n, err := size(v)
			if err != nil {
				c.errorf("invalid number '%s'", v)
				return
			}
			count = n
		}
	}
	if c.name != "od" {
		skip, _ = size(c.opts.get('s', "0"))
	}
	var all []io.Reader
	c.inputs(paths, func(_ string, r io.Reader) error { // one stream over all files
		if f, isFile := r.(*os.File); isFile && f != os.Stdin {
			data, err := io.ReadAll(f)
			all = append(all, strings.NewReader(string(data)))
			return err
		}
		all = append(all, r)
		return nil
	})
	r := bufio.NewReaderSize(io.MultiReader(all...), 64<<10)
	io.CopyN(io.Discard, r, skip)
	var in io.Reader = r
	if count >= 0 {
		in = io.LimitReader(r, count)
	}
	buf := make([]byte, 16)
	at := skip
	for {
		n, err := io.ReadFull(in, buf)
		if n > 0 {
			c.dumpLine(format, at, buf[:n])
			at += int64(n)
		}
		if err != nil {
			break
		}
	}
	switch format {
	case "od":
		if c.opts.get('A', "o") != "n" {
			c.out.WriteString(odAddress(c.opts.get('A', "o"), at) + "\n")
		}
	case "hexdump":
		if at > skip {
			if c.opts.has('C') {
				fmt.Fprintf(c.out, "%08x\n", at)
			} else {
				fmt.Fprintf(c.out, "%07x\n", at)
			}
		}
	case "plain":
		c.out.WriteByte('\n')
	}
}

func odAddress(radix string, at int64) string {
	switch radix {
	case "x":
		return fmt.Sprintf("%06x", at)
	case "d":
		return fmt.Sprintf("%07d", at)
	case "n":
		return ""
	}
	return fmt.Sprintf("%07o", at)
}

func (c *command) dumpLine(format string, at int64, p []byte) {
	ascii := make([]byte, len(p))
	for i, b := range p {
		ascii[i] = '.'
		if b >= ' ' && b < 127 {
			ascii[i] = b
		}
	}
	var b strings.Builder
	switch {
	case format == "plain":
		b.WriteString(hex.EncodeToString(p))
		c.out.WriteString(b.String())
		return
	case format == "xxd":
		fmt.Fprintf(&b, "%08x: ", at)
		for i := range 16 {
			if i < len(p) {
				fmt.Fprintf(&b, "%02x", p[i])
			} else {
				b.WriteString("  ")
			}
			if i%2 == 1 {
				b.WriteByte(' ')
			}
		}
		b.WriteString(" " + string(ascii))
	case format == "hexdump" && c.opts.has('C'):
		fmt.Fprintf(&b, "%08x ", at)
		for i := range 16 {
			if i == 8 {
				b.WriteByte(' ')
			}
			if i < len(p) {
				fmt.Fprintf(&b, " %02x", p[i])
			} else {
				b.WriteString("   ")
			}
		}
		b.WriteString("  |" + string(ascii) + "|")
	case format == "hexdump":
		fmt.Fprintf(&b, "%07x", at)
		for i := 0; i < len(p); i += 2 {
			b.WriteString(" " + word(p, i, "%04x"))
		}
	default:
		b.WriteString(odAddress(c.opts.get('A', "o"), at))
		kind := c.opts.get('t', "")
		switch {
		case c.opts.has('c') || kind == "c":
			for _, x := range p {
				b.WriteString(odChar(x))
			}
		case kind == "x1":
			for _, x := range p {
				fmt.Fprintf(&b, " %02x", x)
			}
		case kind == "u1" || kind == "d1":
			for _, x := range p {
				fmt.Fprintf(&b, " %3d", x)
			}
		case kind == "o1" || c.opts.has('b'):
			for _, x := range p {
				fmt.Fprintf(&b, " %03o", x)
			}
		case kind == "x4":
			for i := 0; i < len(p); i += 4 {
				v := uint32(0)
				for k := range min(4, len(p)-i) {
					v |= uint32(p[i+k]) << (8 * k)
				}
				fmt.Fprintf(&b, " %08x", v)
			}
		default:
			verb := "%06o"
			switch {
			case c.opts.has('x') || strings.HasPrefix(kind, "x"):
				verb = "%04x"
			case c.opts.has('d') || strings.HasPrefix(kind, "u"):
				verb = "%5d"
			}
			for i := 0; i < len(p); i += 2 {
				b.WriteString(" " + word(p, i, verb))
			}
		}
	}
	c.out.WriteString(b.String() + "\n")
}

func word(p []byte, i int, verb string) string {
	v := uint16(p[i])
	if i+1 < len(p) {
		v |= uint16(p[i+1]) << 8
	}
	return fmt.Sprintf(verb, v)
}

func odChar(x byte) string {
	if x == 0 {
		return `  \0`
	}
	if x >= '\a' && x <= '\r' {
		return `  \` + string("abtnvfr"[x-'\a'])
	}
	if x >= ' ' && x < 127 {
		return "   " + string(rune(x))
	}
	return fmt.Sprintf(" %03o", x)
}

// unhex reverses xxd.
func (c *command) unhex(_ string, r io.Reader) error {
	return lines(r, func(line []byte, _ bool) bool {
		text := string(line)
		if !c.opts.has('p') {
			if _, rest, ok := strings.Cut(text, ": "); ok {
				text = rest
			}
			text, _, _ = strings.Cut(text, "  ")
		}
		data, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
		if err != nil {
			c.errorf("invalid input")
			return false
		}
		c.out.Write(data)
		return true
	})
}
