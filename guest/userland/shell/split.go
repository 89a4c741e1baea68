package shell

import (
	"strings"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

// The expansion library splits fields at runs of IFS characters. POSIX 2.6.5
// has runs for white space only: any other character of IFS ends a field, be
// it empty. This file does that where IFS has such characters.

// delimiters returns IFS, and whether the library's splitting will not do.
func (s *Shell) delimiters() (ifs string, special bool) {
	v := s.vars["IFS"]
	if !v.Set {
		return " \t\n", false
	}
	return v.String(), strings.Trim(v.String(), " \t\n") != ""
}

func isSpace(r rune) bool { return r == ' ' || r == '\t' || r == '\n' }

// splitWords expands and splits the unquoted expansions of words, and leaves
// words for which there is nothing left to split.
func (s *Shell) splitWords(words []*syntax.Word) ([]*syntax.Word, error) {
	ifs, special := s.delimiters()
	if !special {
		return words, nil
	}
	var out []*syntax.Word
	for _, w := range words {
		if !splittable(w) {
			out = append(out, w)
			continue
		}
		f := fielder{ifs: ifs}
		for _, p := range w.Parts {
			switch p.(type) {
			case *syntax.ParamExp, *syntax.CmdSubst, *syntax.ArithmExp:
				v, err := expand.Literal(s.cfg, &syntax.Word{Parts: []syntax.WordPart{&syntax.DblQuoted{Parts: []syntax.WordPart{p}}}})
				if err != nil {
					return nil, s.expandFailed(err)
				}
				f.split(v)
			default:
				f.add(p)
			}
		}
		f.flush()
		out = append(out, f.words...)
	}
	return out, nil
}

// splittable reports whether a word has unquoted expansions, each with one
// value: lists such as $@ are the library's.
func splittable(w *syntax.Word) bool {
	any := false
	for _, p := range w.Parts {
		switch p := p.(type) {
		case *syntax.ParamExp:
			if p.Param == nil || p.Param.Value == "@" || p.Param.Value == "*" || p.Index != nil || p.Names != 0 {
				return false
			}
			any = true
		case *syntax.CmdSubst, *syntax.ArithmExp:
			any = true
		}
	}
	return any
}

// fielder collects the fields of one word.
type fielder struct {
	ifs   string
	words []*syntax.Word
	parts []syntax.WordPart
	space bool // white space has just ended a field: a delimiter may follow it
}

func (f *fielder) add(p syntax.WordPart) {
	f.parts = append(f.parts, p)
	f.space = false
}

func (f *fielder) flush() {
	if len(f.parts) > 0 {
		f.words = append(f.words, &syntax.Word{Parts: f.parts})
		f.parts = nil
	}
}

func (f *fielder) split(v string) {
	for v != "" {
		i := strings.IndexAny(v, f.ifs)
		if i != 0 {
			if i < 0 {
				i = len(v)
			}
			// Patterns stay alive; a backslash, brace or tilde is itself.
			text := strings.NewReplacer(`\`, `\\`, "{", `\{`, "~", `\~`).Replace(v[:i])
			f.add(&syntax.Lit{Value: text})
			v = v[i:]
			continue
		}
		r, size := rune(v[0]), 1
		for _, c := range v {
			r, size = c, len(string(c))
			break
		}
		v = v[size:]
		switch {
		case isSpace(r):
			f.space = f.space || len(f.parts) > 0
			f.flush()
		case len(f.parts) == 0 && !f.space:
			f.words = append(f.words, &syntax.Word{Parts: []syntax.WordPart{&syntax.SglQuoted{}}})
		default:
			f.flush()
			f.space = false
		}
	}
}

// readFields splits a line for read into at most n fields (n < 0: any number).
// Unless raw, a backslash keeps the next character from being a delimiter.
func (s *Shell) readFields(line string, n int, raw bool) []string {
	ifs, _ := s.delimiters()
	type char struct {
		r     rune
		plain bool // may delimit
	}
	var cs []char
	escaped := false
	for _, r := range line {
		if r == '\\' && !raw && !escaped {
			escaped = true
			continue
		}
		cs = append(cs, char{r, !escaped})
		escaped = false
	}
	delim := func(c char) bool { return c.plain && strings.ContainsRune(ifs, c.r) }
	space := func(c char) bool { return delim(c) && isSpace(c.r) }
	text := func(part []char) string {
		var b strings.Builder
		for _, c := range part {
			b.WriteRune(c.r)
		}
		return b.String()
	}
	skip := func() {
		for len(cs) > 0 && space(cs[0]) {
			cs = cs[1:]
		}
	}
	var out []string
	for skip(); len(cs) > 0; {
		end := 0
		for end < len(cs) && !delim(cs[end]) {
			end++
		}
		rest := end
		for rest < len(cs) && space(cs[rest]) {
			rest++
		}
		if rest < len(cs) && delim(cs[rest]) {
			for rest++; rest < len(cs) && space(cs[rest]); rest++ {
			}
		}
		if n > 0 && len(out) == n-1 && rest < len(cs) { // the last takes all
			for len(cs) > 0 && space(cs[len(cs)-1]) {
				cs = cs[:len(cs)-1]
			}
			return append(out, text(cs))
		}
		out = append(out, text(cs[:end]))
		cs = cs[rest:]
	}
	return out
}
