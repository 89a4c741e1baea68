package userland

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// sedParser parses a script.
type sedParser struct {
	text string
	at   int
	prog *sedProgram
}

func (p *sedParser) peek() byte {
	if p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

func (p *sedParser) skip(set string) {
	for p.at < len(p.text) && strings.IndexByte(set, p.text[p.at]) >= 0 {
		p.at++
	}
}

func (p *sedParser) parse() ([]*sedCommand, error) {
	var cmds []*sedCommand
	var blocks []int
	labels := map[string]int{}
	for {
		p.skip(" \t\n;")
		if p.at >= len(p.text) {
			break
		}
		cmd := &sedCommand{}
		if err := p.addresses(cmd); err != nil {
			return nil, err
		}
		p.skip(" \t")
		for p.peek() == '!' {
			cmd.negate = true
			p.at++
			p.skip(" \t")
		}
		cmd.name = p.peek()
		if cmd.name == 0 {
			return nil, errors.New("missing command")
		}
		p.at++
		switch cmd.name {
		case '{':
			blocks = append(blocks, len(cmds))
		case '}':
			if len(blocks) == 0 {
				return nil, errors.New("unexpected '}'")
			}
			cmds[blocks[len(blocks)-1]].jump = len(cmds)
			blocks = blocks[:len(blocks)-1]
		}
		if err := p.arguments(cmd); err != nil {
			return nil, err
		}
		if cmd.name == ':' {
			labels[cmd.text] = len(cmds)
		}
		cmds = append(cmds, cmd)
	}
	if len(blocks) > 0 {
		return nil, errors.New("unmatched '{'")
	}
	for _, c := range cmds {
		if c.name == 'b' || c.name == 't' || c.name == 'T' {
			to, ok := labels[c.text]
			if c.text == "" {
				to, ok = len(cmds), true
			}
			if !ok {
				return nil, fmt.Errorf("can't find label for jump to '%s'", c.text)
			}
			c.jump = to
		}
	}
	return cmds, nil
}

func (p *sedParser) addresses(cmd *sedCommand) error {
	var err error
	if cmd.from, err = p.address(); err != nil || cmd.from == nil {
		return err
	}
	p.skip(" \t")
	if p.peek() != ',' {
		if cmd.from.zero {
			return errors.New("invalid usage of line address 0")
		}
		return nil
	}
	p.at++
	p.skip(" \t")
	if cmd.to, err = p.address(); err == nil && cmd.to == nil {
		err = errors.New("unexpected ','")
	}
	return err
}

func (p *sedParser) number() int {
	n := 0
	for c := p.peek(); c >= '0' && c <= '9' && n < 1<<40; c = p.peek() {
		n = n*10 + int(c-'0')
		p.at++
	}
	return n
}

func (p *sedParser) address() (*sedAddress, error) {
	switch c := p.peek(); {
	case c == '$':
		p.at++
		return &sedAddress{last: true}, nil
	case c == '+' || c == '~':
		p.at++
		if c == '+' {
			return &sedAddress{relative: true, line: p.number()}, nil
		}
		return &sedAddress{step: max(1, p.number())}, nil
	case c >= '0' && c <= '9':
		a := &sedAddress{line: p.number()}
		a.zero = a.line == 0
		if p.peek() == '~' {
			p.at++
			a.step, a.zero = p.number(), false
			if a.step == 0 {
				a.step = 1 << 40
			}
		}
		return a, nil
	case c == '/' || c == '\\':
		if p.at++; c == '\\' {
			c = p.peek()
			p.at++
		}
		expr, err := p.delimited(c, true)
		if err != nil {
			return nil, errors.New("unterminated address regex")
		}
		fold := false
		for p.peek() == 'I' || p.peek() == 'M' {
			fold = fold || p.peek() == 'I'
			p.at++
		}
		if expr == "" {
			return &sedAddress{reuse: true}, nil
		}
		rx, err := compileRegex(expr, p.prog.extended, fold)
		return &sedAddress{rx: rx}, err
	}
	return nil, nil
}

// delimited reads up to an unescaped delimiter. In an expression a delimiter
// within brackets does not count.
func (p *sedParser) delimited(delim byte, regex bool) (string, error) {
	var b strings.Builder
	bracket := false
	for p.at < len(p.text) {
		c := p.text[p.at]
		p.at++
		switch {
		case c == '\\' && p.at < len(p.text) && !bracket:
			n := p.text[p.at]
			p.at++
			switch {
			case n == delim && (strings.IndexByte(`.*[]^$+?(){}|`, delim) < 0 || !regex):
				if !regex && (n == '&' || n >= '0' && n <= '9') {
					b.WriteByte('\\')
				}
				b.WriteByte(n)
			case n == '\n' && regex:
				b.WriteString(`\n`)
			default:
				b.WriteByte('\\')
				b.WriteByte(n)
			}
		case c == delim && !bracket:
			return b.String(), nil
		default:
			if regex && c == '[' && !bracket {
				bracket = true
				b.WriteByte(c)
				for _, lead := range "^]" {
					if p.at < len(p.text) && p.text[p.at] == byte(lead) {
						b.WriteByte(byte(lead))
						p.at++
					}
				}
				continue
			}
			if bracket && c == '[' && p.at < len(p.text) && strings.IndexByte(":.=", p.text[p.at]) >= 0 {
				if end := strings.Index(p.text[p.at+1:], p.text[p.at:p.at+1]+"]"); end >= 0 {
					b.WriteString(p.text[p.at-1 : p.at+end+3])
					p.at += end + 3
					continue
				}
			}
			if bracket && c == ']' {
				bracket = false
			}
			b.WriteByte(c)
		}
	}
	return "", errors.New("unterminated")
}

func (p *sedParser) restOfLine() string {
	end := strings.IndexByte(p.text[p.at:], '\n')
	if end < 0 {
		end = len(p.text) - p.at
	}
	v := p.text[p.at : p.at+end]
	p.at += end
	return v
}

func (p *sedParser) arguments(cmd *sedCommand) error {
	switch cmd.name {
	case '{':
		return nil
	case '}', '=', 'd', 'D', 'g', 'G', 'h', 'H', 'l', 'n', 'N', 'p', 'P', 'x':
	case '#':
		p.restOfLine()
		return nil
	case 'a', 'i', 'c':
		cmd.text = p.textArgument()
		return nil
	case ':':
		p.skip(" \t")
		cmd.text = strings.TrimSpace(p.restOfLine())
		if i := strings.IndexByte(cmd.text, ';'); i >= 0 {
			p.at -= len(cmd.text) - i
			cmd.text = strings.TrimSpace(cmd.text[:i])
		}
		return nil
	case 'b', 't', 'T':
		p.skip(" \t")
		start := p.at
		for p.at < len(p.text) && strings.IndexByte(";\n} \t", p.text[p.at]) < 0 {
			p.at++
		}
		cmd.text = p.text[start:p.at]
	case 'q', 'Q':
		p.skip(" \t")
		cmd.number = p.number()
	case 'r', 'w':
		p.skip(" \t")
		cmd.text = p.restOfLine()
		return p.openOutput(cmd)
	case 's':
		if err := p.substitution(cmd); err != nil {
			return err
		}
	case 'y':
		if err := p.transliteration(cmd); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unknown command: '%c'", cmd.name)
	}
	p.skip(" \t")
	switch p.peek() {
	case 0, '\n', ';', '#', '}':
		return nil
	}
	return errors.New("extra characters after command")
}

// openOutput creates the file of a w, as POSIX wants: before any input is read.
func (p *sedParser) openOutput(cmd *sedCommand) error {
	if cmd.text == "" {
		return errors.New("missing filename in r/R/w/W commands")
	}
	if cmd.name == 'r' || strings.HasPrefix(cmd.text, "/dev/std") || p.prog.files[cmd.text] != nil {
		return nil
	}
	f, err := os.Create(cmd.text)
	if err != nil {
		return err
	}
	p.prog.files[cmd.text] = bufio.NewWriter(f)
	return nil
}

// textArgument reads the text of a, i and c: after "\" and a newline, or, as
// GNU allows, on the same line. A backslash continues it.
func (p *sedParser) textArgument() string {
	p.skip(" \t")
	if p.peek() == '\\' {
		p.at++
		p.skip(" \t")
		if p.peek() == '\n' {
			p.at++
		}
	}
	var b strings.Builder
	for p.at < len(p.text) {
		c := p.text[p.at]
		p.at++
		if c == '\\' && p.at < len(p.text) {
			b.WriteByte(p.text[p.at])
			p.at++
			continue
		}
		if c == '\n' {
			break
		}
		b.WriteByte(c)
	}
	b.WriteByte('\n')
	return b.String()
}

func (p *sedParser) substitution(cmd *sedCommand) error {
	delim := p.peek()
	if delim == 0 || delim == '\n' || delim == '\\' {
		return errors.New("unterminated 's' command")
	}
	p.at++
	expr, err := p.delimited(delim, true)
	if err != nil {
		return errors.New("unterminated 's' command")
	}
	repl, err := p.delimited(delim, false)
	if err != nil {
		return errors.New("unterminated 's' command")
	}
	cmd.number = 1
	fold, multi := false, false
flags:
	for {
		switch c := p.peek(); {
		case c == 'g':
			cmd.global = true
		case c == 'p':
			cmd.print = true
		case c == 'i' || c == 'I':
			fold = true
		case c == 'm' || c == 'M':
			multi = true
		case c >= '1' && c <= '9':
			cmd.number = p.number()
			continue
		case c == 'w':
			p.at++
			p.skip(" \t")
			cmd.text = p.restOfLine()
			if err := p.openOutput(cmd); err != nil {
				return err
			}
			break flags
		default:
			break flags
		}
		p.at++
	}
	if expr != "" {
		if cmd.rx, err = compileRegex(expr, p.prog.extended, fold); err != nil {
			return err
		}
		if multi {
			cmd.rx = regexp.MustCompile("(?m)" + cmd.rx.String())
			cmd.rx.Longest()
		}
	}
	cmd.replacement, err = parseReplacement(repl, cmd.rx)
	return err
}

func (p *sedParser) transliteration(cmd *sedCommand) error {
	delim := p.peek()
	p.at++
	a, err := p.delimited(delim, false)
	if err == nil {
		var b string
		if b, err = p.delimited(delim, false); err == nil {
			unescape := strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\t`, "\t")
			x, y := []rune(unescape.Replace(a)), []rune(unescape.Replace(b))
			if len(x) != len(y) {
				return errors.New("strings for 'y' command are different lengths")
			}
			cmd.translate = make(map[rune]rune, len(x))
			for i, r := range x {
				if _, ok := cmd.translate[r]; !ok {
					cmd.translate[r] = y[i]
				}
			}
			return nil
		}
	}
	return errors.New("unterminated 'y' command")
}
