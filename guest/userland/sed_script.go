package userland

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
)

// sedAddress selects lines.
type sedAddress struct {
	line     int
	step     int // first~step
	relative bool
	zero     bool // 0,/re/
	last     bool // $
	reuse    bool // //: the last expression used
	rx       *regexp.Regexp
}

// sedCommand is one command of a script. Blocks are flat: { and b jump.
type sedCommand struct {
	from, to    *sedAddress
	negate      bool
	active      bool // inside its range
	started     int
	name        byte
	text        string // of a, i, c; file of r and w; label
	jump        int
	number      int // which match s replaces; exit status of q
	rx          *regexp.Regexp
	replacement sedReplacement
	global      bool
	print       bool
	translate   map[rune]rune
}

// sedPiece is part of a replacement: text or a group, under a case conversion.
type sedPiece struct {
	text  string
	group int  // -1: text
	mode  byte // U, L, E, or u and l for one character
}

type sedReplacement []sedPiece

func (r sedReplacement) expand(out, src []byte, m []int) []byte {
	mode, once := byte(0), byte(0)
	for _, p := range r {
		if p.mode != 0 {
			switch p.mode {
			case 'U', 'L':
				mode = p.mode
			case 'E':
				mode, once = 0, 0
			default:
				once = p.mode
			}
			continue
		}
		text := p.text
		if p.group >= 0 {
			text = ""
			if 2*p.group+1 < len(m) && m[2*p.group] >= 0 {
				text = string(src[m[2*p.group]:m[2*p.group+1]])
			}
		}
		switch mode {
		case 'U':
			text = strings.ToUpper(text)
		case 'L':
			text = strings.ToLower(text)
		}
		if once != 0 && text != "" {
			rs := []rune(text)
			if once == 'u' {
				rs[0] = unicode.ToUpper(rs[0])
			} else {
				rs[0] = unicode.ToLower(rs[0])
			}
			text, once = string(rs), 0
		}
		out = append(out, text...)
	}
	return out
}

func parseReplacement(text string, rx *regexp.Regexp) (sedReplacement, error) {
	var out sedReplacement
	var lit strings.Builder
	flush := func() {
		if lit.Len() > 0 {
			out = append(out, sedPiece{text: lit.String(), group: -1})
			lit.Reset()
		}
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '&' {
			flush()
			out = append(out, sedPiece{group: 0})
			continue
		}
		if c != '\\' || i+1 == len(text) {
			lit.WriteByte(c)
			continue
		}
		i++
		switch c = text[i]; {
		case c >= '0' && c <= '9':
			n := int(c - '0')
			if rx != nil && n > rx.NumSubexp() {
				return nil, fmt.Errorf("invalid reference \\%d on 's' command's RHS", n)
			}
			flush()
			out = append(out, sedPiece{group: n})
		case strings.IndexByte("ULEul", c) >= 0:
			flush()
			out = append(out, sedPiece{group: -1, mode: c})
		case c == 'n':
			lit.WriteByte('\n')
		case c == 't':
			lit.WriteByte('\t')
		case c == 'r':
			lit.WriteByte('\r')
		default:
			lit.WriteByte(c)
		}
	}
	flush()
	return out, nil
}
