package userland

import (
	"errors"
	"regexp"
	"regexp/syntax"
	"strings"
)

// compileRegex compiles a POSIX regular expression, basic or extended, to Go's
// engine: linear in time, and therefore without back-references. Leftmost
// longest matching, as POSIX demands.
func compileRegex(expr string, extended, ignoreCase bool) (*regexp.Regexp, error) {
	goExpr, err := translateRegex(expr, extended)
	if err != nil {
		return nil, err
	}
	if ignoreCase {
		goExpr = "(?i)" + goExpr
	}
	rx, err := regexp.Compile(goExpr)
	if err != nil {
		var se *syntax.Error
		if errors.As(err, &se) {
			return nil, errors.New(string(se.Code))
		}
		return nil, err
	}
	rx.Longest()
	return rx, nil
}

// translateRegex rewrites a POSIX expression in Go's syntax.
func translateRegex(e string, extended bool) (string, error) {
	var b strings.Builder
	start := true // at the start of the expression or a branch, where * is literal
	depth := 0
	for i := 0; i < len(e); i++ {
		c := e[i]
		wasStart := start
		start = false
		switch c {
		case '\\':
			i++
			if i == len(e) {
				return "", errors.New("trailing backslash")
			}
			c = e[i]
			switch {
			case !extended && c == '(':
				depth++
				b.WriteByte('(')
				start = true
			case !extended && c == ')':
				if depth--; depth < 0 {
					return "", errors.New("unmatched \\)")
				}
				b.WriteByte(')')
			case !extended && c == '|':
				b.WriteByte('|')
				start = true
			case !extended && (c == '+' || c == '?'):
				if wasStart {
					b.WriteByte('\\')
				}
				b.WriteByte(c)
			case !extended && c == '{':
				end := strings.Index(e[i:], `\}`)
				if end < 0 {
					return "", errors.New("unmatched \\{")
				}
				b.WriteString(interval2(e[i+1 : i+end]))
				i += end + 1
			case c >= '1' && c <= '9':
				return "", errors.New("back-references are not supported")
			case strings.IndexByte("wWsSbB", c) >= 0:
				b.WriteByte('\\')
				b.WriteByte(c)
			case c == '<' || c == '>':
				b.WriteString(`\b`)
			case c == '`':
				b.WriteString(`\A`)
			case c == '\'':
				b.WriteString(`\z`)
			case c == 'n':
				b.WriteString(`\n`)
			case c == 't':
				b.WriteString(`\t`)
			default:
				b.WriteString(regexp.QuoteMeta(string(c)))
			}
		case '[':
			text, n, err := translateBracket(e[i:])
			if err != nil {
				return "", err
			}
			b.WriteString(text)
			i += n - 1
		case '*':
			if wasStart {
				b.WriteString(`\*`)
			} else if !strings.HasSuffix(b.String(), "*") || strings.HasSuffix(b.String(), `\*`) {
				b.WriteByte('*')
			}
		case '^':
			if extended || wasStart {
				b.WriteByte('^')
				start = true
			} else {
				b.WriteString(`\^`)
			}
		case '$':
			rest := e[i+1:]
			if extended || rest == "" || strings.HasPrefix(rest, `\)`) || strings.HasPrefix(rest, `\|`) {
				b.WriteByte('$')
			} else {
				b.WriteString(`\$`)
			}
		case '{':
			end := strings.IndexByte(e[i:], '}')
			if extended && !wasStart && end > 1 && e[i+1] >= '0' && e[i+1] <= '9' || extended && end > 1 && e[i+1] == ',' {
				b.WriteString(interval2(e[i+1 : i+end]))
				i += end
			} else {
				b.WriteString(`\{`)
			}
		case '(', ')', '|', '+', '?':
			if !extended {
				b.WriteByte('\\')
				b.WriteByte(c)
				break
			}
			if (c == '+' || c == '?') && wasStart {
				b.WriteByte('\\')
			} else if (c == '+' || c == '?') && i > 0 && strings.IndexByte("*+?}", e[i-1]) >= 0 && !strings.HasSuffix(e[:i], `\`+e[i-1:i]) {
				break // a doubled repetition adds nothing; Go would read it as lazy
			}
			b.WriteByte(c)
			start = c == '(' || c == '|'
		case '}':
			b.WriteString(`\}`)
		default:
			b.WriteByte(c)
		}
	}
	if depth > 0 {
		return "", errors.New("unmatched \\(")
	}
	return b.String(), nil
}

func interval2(v string) string {
	if strings.HasPrefix(v, ",") {
		v = "0" + v
	}
	return "{" + v + "}"
}

// translateBracket rewrites a bracket expression: in POSIX a backslash there
// is itself, and a leading ] too. It returns the length of the original.
func translateBracket(e string) (string, int, error) {
	var b strings.Builder
	b.WriteByte('[')
	i := 1
	if i < len(e) && e[i] == '^' {
		b.WriteByte('^')
		i++
	}
	for first := true; ; first = false {
		if i >= len(e) {
			return "", 0, errors.New("unmatched [")
		}
		switch c := e[i]; {
		case c == ']' && !first:
			b.WriteByte(']')
			return b.String(), i + 1, nil
		case c == '[' && i+1 < len(e) && (e[i+1] == ':' || e[i+1] == '.' || e[i+1] == '='):
			end := strings.Index(e[i+2:], e[i+1:i+2]+"]")
			if end < 0 {
				return "", 0, errors.New("unmatched [")
			}
			text := e[i+2 : i+2+end]
			if e[i+1] == ':' {
				b.WriteString("[:" + text + ":]")
			} else {
				b.WriteString(regexp.QuoteMeta(text))
			}
			i += end + 4
			continue
		case c == '\\' && i+1 < len(e) && (e[i+1] == 'n' || e[i+1] == 't'):
			b.WriteString(e[i : i+2]) // as GNU sed
			i++
		case c == '\\' || c == '[' || c == ']' || c == '^' || c == '&' || c == '~':
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
		i++
	}
}
