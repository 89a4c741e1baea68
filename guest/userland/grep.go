package userland

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// grepper is one run of grep.
type grepper struct {
	c                     *command
	rx                    *regexp.Regexp
	fixed                 []byte // one fixed string, the fast way
	invert                bool
	quiet, count, onlyHit bool
	listHit, listMiss     bool
	number, names         bool
	before, after, limit  int
	color                 bool
	matched               bool
}

func grep(c *command) {
	paths, ok := c.parse("A:B:C:EFGHLPRabce:f:hilm:noqrsvwxyZ:zI:O:D:", "extended-regexp=E fixed-strings=F basic-regexp=G perl-regexp=P regexp=e file=f ignore-case=i invert-match=v word-regexp=w line-regexp=x count=c color=Z colour=Z files-with-matches=l files-without-match=L max-count=m only-matching=o quiet=q silent=q no-messages=s line-number=n with-filename=H no-filename=h recursive=r after-context=A before-context=B context=C include=I exclude=O text=a line-buffered=b")
	if !ok {
		c.status = 2
		return
	}
	o := c.opts
	patterns := o.values['e']
	for _, f := range o.values['f'] {
		text, err := os.ReadFile(f)
		if err != nil {
			c.fail(f, err)
			c.status = 2
			return
		}
		if len(text) > 0 {
			patterns = append(patterns, strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")...)
		}
	}
	if !o.has('e') && !o.has('f') {
		if len(paths) == 0 {
			c.usage("[-EFivwxclLnqrsohH] [-A n] [-B n] [-C n] [-m n] pattern [file …]")
			c.status = 2
			return
		}
		patterns, paths = strings.Split(paths[0], "\n"), paths[1:]
	}
	g := &grepper{c: c, invert: o.has('v'), quiet: o.has('q'), count: o.has('c'), onlyHit: o.has('o'), listHit: o.has('l'), listMiss: o.has('L'), number: o.has('n'), limit: -1}
	if err := g.compile(patterns); err != nil {
		c.errorf("%v", err)
		c.status = 2
		return
	}
	num := func(letter byte, def int) int {
		if !o.has(letter) {
			return def
		}
		n, err := strconv.Atoi(o.get(letter, ""))
		if err != nil || n < 0 {
			c.errorf("invalid number: %s", o.get(letter, ""))
			c.status = 2
		}
		return n
	}
	around := num('C', 0)
	g.before, g.after, g.limit = num('B', around), num('A', around), num('m', -1)
	if c.status != 0 {
		return
	}
	recursive := o.has('r') || o.has('R')
	if recursive && len(paths) == 0 {
		paths = []string{"."}
	}
	g.names = len(paths) > 1
	if fi, err := os.Stat(firstOf(paths)); recursive && err == nil && fi.IsDir() {
		g.names = true
	}
	switch o.last("hH") {
	case 'h':
		g.names = false
	case 'H':
		g.names = true
	}
	switch when := o.get('Z', "never"); when {
	case "always":
		g.color = true
	case "auto", "":
		fi, err := os.Stdout.Stat()
		g.color = err == nil && fi.Mode()&fs.ModeCharDevice != 0
	}
	if len(paths) == 0 {
		paths = []string{"-"}
	}
	for _, p := range paths {
		g.path(p, recursive, true)
		if g.quiet && g.matched {
			c.status = 0
			return
		}
	}
	if c.status == 0 && !g.matched {
		c.status = 1
	}
}

func firstOf(paths []string) string {
	if len(paths) == 0 {
		return ""
	}
	return paths[0]
}

// compile joins the patterns into one expression.
func (g *grepper) compile(patterns []string) error {
	o := g.c.opts
	kind := o.last("EFGP")
	if kind == 0 {
		switch g.c.name {
		case "egrep":
			kind = 'E'
		case "fgrep":
			kind = 'F'
		}
	}
	fold := o.has('i') || o.has('y')
	if kind == 'F' && len(patterns) == 1 && !fold && !o.has('w') && !o.has('x') && !o.has('o') {
		g.fixed = []byte(patterns[0])
		return nil
	}
	var alts []string
	for _, p := range patterns {
		e := p
		switch kind {
		case 'F':
			e = regexp.QuoteMeta(p)
		case 'P':
		default:
			var err error
			if e, err = translateRegex(p, kind == 'E'); err != nil {
				return err
			}
		}
		alts = append(alts, "(?:"+e+")")
	}
	expr := strings.Join(alts, "|")
	if len(alts) == 0 {
		expr = `\z\A.` // no pattern: nothing matches
	}
	if o.has('x') {
		expr = "^(?:" + expr + ")$"
	} else if o.has('w') {
		expr = `(?:^|\b)(?:` + expr + `)(?:\b|$)`
	}
	if fold {
		expr = "(?i)" + expr
	}
	rx, err := regexp.Compile(expr)
	if err != nil {
		return fmt.Errorf("invalid expression: %w", err)
	}
	if kind != 'P' {
		rx.Longest()
	}
	g.rx = rx
	return nil
}

func (g *grepper) match(line []byte) bool {
	if g.fixed != nil || g.rx == nil {
		return bytes.Contains(line, g.fixed) != g.invert
	}
	return g.rx.Match(line) != g.invert
}

func (g *grepper) path(p string, recursive, top bool) {
	c := g.c
	bad := func(err error) {
		if !c.opts.has('s') {
			c.fail(p, err)
		}
		c.status = 2
	}
	if p != "-" {
		fi, err := os.Stat(p)
		if err != nil {
			bad(err)
			return
		}
		if fi.IsDir() {
			if !recursive {
				if !c.opts.has('s') {
					c.out.Flush()
					fmt.Fprintf(os.Stderr, "grep: %s: Is a directory\n", p)
				}
				return
			}
			es, err := os.ReadDir(p)
			if err != nil {
				bad(err)
			}
			for _, e := range es {
				if e.Type()&fs.ModeSymlink == 0 || c.opts.has('R') {
					g.path(filepath.Join(p, e.Name()), true, false)
				}
			}
			return
		}
		if !top && (!fi.Mode().IsRegular() || !g.wanted(filepath.Base(p))) {
			return
		}
	}
	f, err := c.open(p)
	if err != nil {
		bad(err)
		return
	}
	if p == "-" {
		p = "(standard input)"
	} else {
		defer f.Close()
	}
	if err := g.file(p, f); err != nil {
		bad(err)
	}
}

// wanted applies --include and --exclude.
func (g *grepper) wanted(base string) bool {
	ok := !g.c.opts.has('I')
	for _, pat := range g.c.opts.values['I'] {
		if m, _ := filepath.Match(pat, base); m {
			ok = true
		}
	}
	for _, pat := range g.c.opts.values['O'] {
		if m, _ := filepath.Match(pat, base); m {
			ok = false
		}
	}
	return ok
}

func (g *grepper) file(name string, r io.Reader) error {
	type numbered struct {
		n    int
		text []byte
	}
	var held []numbered // candidates for context before a hit
	hits, n, trailing, last := 0, 0, 0, 0
	binary := false
	err := lines(r, func(line []byte, _ bool) bool {
		n++
		if n == 1 && bytes.IndexByte(line, 0) >= 0 && !g.c.opts.has('a') {
			binary = true
		}
		if !g.match(line) {
			switch {
			case trailing > 0:
				trailing--
				g.print(name, n, line, '-', false)
				last = n
			case g.before > 0:
				if len(held) == g.before {
					held = held[1:]
				}
				held = append(held, numbered{n, bytes.Clone(line)})
			}
			return g.limit < 0 || hits < g.limit || trailing > 0
		}
		if g.limit >= 0 && hits >= g.limit {
			return false
		}
		hits++
		g.matched = g.matched || !g.listMiss
		if g.quiet || g.listHit || g.listMiss {
			return false
		}
		if g.count {
			return g.limit < 0 || hits < g.limit
		}
		if binary {
			fmt.Fprintf(g.c.out, "Binary file %s matches\n", name)
			return false
		}
		first := n
		if len(held) > 0 {
			first = held[0].n
		}
		if (g.before > 0 || g.after > 0) && last > 0 && first > last+1 {
			g.c.out.WriteString("--\n")
		}
		for _, h := range held {
			g.print(name, h.n, h.text, '-', false)
		}
		held = nil
		g.print(name, n, line, ':', true)
		last, trailing = n, g.after
		return g.limit < 0 || hits < g.limit || g.after > 0
	})
	switch {
	case g.quiet:
	case g.listHit && hits > 0, g.listMiss && hits == 0:
		g.c.out.WriteString(name + "\n")
		g.matched = true
	case g.count:
		if g.names {
			g.c.out.WriteString(name + ":")
		}
		fmt.Fprintf(g.c.out, "%d\n", hits)
	}
	return err
}

func (g *grepper) print(name string, n int, line []byte, sep byte, hit bool) {
	w := g.c.out
	prefix := func() {
		if g.names {
			w.WriteString(name)
			w.WriteByte(sep)
		}
		if g.number {
			w.WriteString(strconv.Itoa(n))
			w.WriteByte(sep)
		}
	}
	switch {
	case hit && g.onlyHit && !g.invert:
		for _, m := range g.rx.FindAllIndex(line, -1) {
			if m[0] == m[1] {
				continue
			}
			prefix()
			w.Write(line[m[0]:m[1]])
			w.WriteByte('\n')
		}
		return
	case g.onlyHit:
		return
	}
	prefix()
	if hit && g.color && g.rx != nil && !g.invert {
		at := 0
		for _, m := range g.rx.FindAllIndex(line, -1) {
			w.Write(line[at:m[0]])
			w.WriteString("\x1b[1;31m")
			w.Write(line[m[0]:m[1]])
			w.WriteString("\x1b[0m")
			at = m[1]
		}
		line = line[at:]
	}
	w.Write(line)
	w.WriteByte('\n')
	if g.c.opts.has('b') {
		w.Flush()
	}
}
