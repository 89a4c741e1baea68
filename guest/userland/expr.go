package userland

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// expr evaluates its arguments as an expression.
func expr(c *command) {
	args := c.args
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	e := &exprParser{args: args}
	v, err := e.or()
	if err == nil && len(e.args) > 0 {
		err = errors.New("syntax error: unexpected argument '" + e.args[0] + "'")
	}
	if err != nil {
		c.errorf("%v", err)
		c.status = 2
		return
	}
	fmt.Fprintln(c.out, v)
	if isNull(v) {
		c.status = 1
	}
}

func isNull(v string) bool {
	n, err := strconv.ParseInt(v, 10, 64)
	return v == "" || err == nil && n == 0
}

type exprParser struct{ args []string }

func (e *exprParser) take(ops ...string) string {
	if len(e.args) > 0 {
		for _, o := range ops {
			if e.args[0] == o {
				e.args = e.args[1:]
				return o
			}
		}
	}
	return ""
}

func (e *exprParser) or() (string, error) {
	l, err := e.and()
	for err == nil && e.take("|") != "" {
		var r string
		if r, err = e.and(); isNull(l) {
			l = r
		}
		if isNull(l) {
			l = "0"
		}
	}
	return l, err
}

func (e *exprParser) and() (string, error) {
	l, err := e.compare()
	for err == nil && e.take("&") != "" {
		var r string
		if r, err = e.compare(); isNull(l) || isNull(r) {
			l = "0"
		}
	}
	return l, err
}

func (e *exprParser) compare() (string, error) {
	l, err := e.sum()
	for err == nil {
		op := e.take("<", "<=", "=", "==", "!=", ">=", ">")
		if op == "" {
			break
		}
		var r string
		if r, err = e.sum(); err != nil {
			break
		}
		d := strings.Compare(l, r)
		if x, xe := strconv.ParseInt(l, 10, 64); xe == nil {
			if y, ye := strconv.ParseInt(r, 10, 64); ye == nil {
				d = 0
				if x < y {
					d = -1
				} else if x > y {
					d = 1
				}
			}
		}
		ok := map[string]bool{"<": d < 0, "<=": d <= 0, "=": d == 0, "==": d == 0, "!=": d != 0, ">=": d >= 0, ">": d > 0}[op]
		l = "0"
		if ok {
			l = "1"
		}
	}
	return l, err
}

func (e *exprParser) number(l, r string) (x, y int64, err error) {
	if x, err = strconv.ParseInt(l, 10, 64); err == nil {
		y, err = strconv.ParseInt(r, 10, 64)
	}
	if err != nil {
		err = errors.New("non-integer argument")
	}
	return x, y, err
}

func (e *exprParser) sum() (string, error) {
	l, err := e.product()
	for err == nil {
		op := e.take("+", "-")
		if op == "" {
			break
		}
		var r string
		if r, err = e.product(); err != nil {
			break
		}
		var x, y int64
		if x, y, err = e.number(l, r); op == "-" {
			y = -y
		}
		l = strconv.FormatInt(x+y, 10)
	}
	return l, err
}

func (e *exprParser) product() (string, error) {
	l, err := e.match()
	for err == nil {
		op := e.take("*", "/", "%")
		if op == "" {
			break
		}
		var r string
		if r, err = e.match(); err != nil {
			break
		}
		var x, y int64
		if x, y, err = e.number(l, r); err != nil {
			break
		}
		if op != "*" && y == 0 {
			return "", errors.New("division by zero")
		}
		switch op {
		case "*":
			x *= y
		case "/":
			x /= y
		default:
			x %= y
		}
		l = strconv.FormatInt(x, 10)
	}
	return l, err
}

func (e *exprParser) match() (string, error) {
	l, err := e.atom()
	for err == nil && e.take(":") != "" {
		var r string
		if r, err = e.atom(); err == nil {
			l, err = exprMatch(l, r)
		}
	}
	return l, err
}

func exprMatch(s, pat string) (string, error) {
	text, err := translateRegex(pat, false)
	if err != nil {
		return "", err
	}
	rx, err := regexp.Compile(`\A(?:` + text + `)`)
	if err != nil {
		return "", errors.New("invalid expression")
	}
	rx.Longest()
	m := rx.FindStringSubmatch(s)
	switch {
	case rx.NumSubexp() > 0 && m == nil:
		return "", nil
	case rx.NumSubexp() > 0:
		return m[1], nil
	case m == nil:
		return "0", nil
	}
	return strconv.Itoa(utf8.RuneCountInString(m[0])), nil
}

func (e *exprParser) atom() (string, error) {
	if len(e.args) == 0 {
		return "", errors.New("syntax error: missing argument")
	}
	word := e.args[0]
	e.args = e.args[1:]
	if len(e.args) == 0 && word != "(" {
		return word, nil
	}
	switch word {
	case "(":
		v, err := e.or()
		if err == nil && e.take(")") == "" {
			err = errors.New("syntax error: expecting ')'")
		}
		return v, err
	case "length":
		v, err := e.atom()
		return strconv.Itoa(utf8.RuneCountInString(v)), err
	case "match":
		s, err := e.atom()
		if err != nil {
			return "", err
		}
		pat, err := e.atom()
		if err != nil {
			return "", err
		}
		return exprMatch(s, pat)
	case "index":
		s, err := e.atom()
		if err != nil {
			return "", err
		}
		set, err := e.atom()
		return strconv.Itoa(strings.IndexAny(s, set) + 1), err
	case "substr":
		s, err := e.atom()
		var a, b string
		if err == nil {
			if a, err = e.atom(); err == nil {
				b, err = e.atom()
			}
		}
		if err != nil {
			return "", err
		}
		from, n, err := e.number(a, b)
		r := []rune(s)
		if err != nil || from < 1 || n < 1 || from > int64(len(r)) {
			return "", nil
		}
		return string(r[from-1 : min(int64(len(r)), from-1+n)]), nil
	case "+":
		return e.atom()
	}
	return word, nil
}
