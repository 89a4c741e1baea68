package userland

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// xargs builds command lines from its input.
func xargs(c *command) {
	args, ok := c.parse("+0a:d:E:I:L:n:P:prs:tx", "null=0 arg-file=a delimiter=d max-args=n max-procs=P replace=I max-lines=L no-run-if-empty=r verbose=t interactive=p max-chars=s exit=x")
	if !ok {
		return
	}
	if len(args) == 0 {
		args = []string{"echo"}
	}
	num := func(letter byte, def int) int {
		n, err := strconv.Atoi(c.opts.get(letter, strconv.Itoa(def)))
		if err != nil || n < 0 {
			c.errorf("invalid number for -%c: '%s'", letter, c.opts.get(letter, ""))
		}
		return n
	}
	maxArgs, maxLines, procs, maxChars := num('n', 0), num('L', 0), num('P', 1), num('s', 128<<10)
	if c.status != 0 {
		return
	}
	in := os.Stdin
	if a := c.opts.get('a', ""); a != "" {
		f, err := os.Open(a)
		if err != nil {
			c.fail(a, err)
			return
		}
		in = f
	}
	x := &xargsRun{c: c, base: args, replace: c.opts.get('I', ""), maxArgs: maxArgs, maxLines: maxLines, maxChars: maxChars, slots: make(chan struct{}, max(1, procs))}
	if procs == 0 {
		x.slots = make(chan struct{}, 64)
	}
	x.split(in)
	if len(x.items) > 0 || !x.ran && !c.opts.has('r') && x.replace == "" {
		x.flush()
	}
	for range cap(x.slots) { // wait for all
		x.slots <- struct{}{}
	}
}

// xargsRun is one run of xargs; slots limits how many commands run at once.
type xargsRun struct {
	c        *command
	base     []string
	replace  string
	maxArgs  int
	maxLines int
	maxChars int
	items    []string
	size     int
	lines    int
	ran      bool
	stop     atomic.Bool
	slots    chan struct{}
	mu       sync.Mutex // guards c.status while commands run
}

func (x *xargsRun) add(item string) {
	if eof := x.c.opts.get('E', ""); eof != "" && item == eof {
		x.stop.Store(true)
		return
	}
	if x.size+len(item)+1 > x.maxChars && len(x.items) > 0 {
		x.flush()
	}
	x.items = append(x.items, item)
	x.size += len(item) + 1
	if x.replace != "" || x.maxArgs > 0 && len(x.items) == x.maxArgs {
		x.flush()
	}
}

func (x *xargsRun) endLine() {
	if x.lines++; x.maxLines > 0 && x.lines >= x.maxLines && len(x.items) > 0 {
		x.flush()
	}
}

// split cuts the input into items.
func (x *xargsRun) split(in *os.File) {
	delim := byte('\n')
	special := true
	switch d := c0(x.c.opts.get('d', "")); {
	case x.c.opts.has('0'):
		delim, special = 0, false
	case d != 0 || x.c.opts.has('d'):
		delim, special = d, false
	}
	if !special {
		records(in, delim, func(rec []byte, _ bool) bool {
			x.add(string(rec))
			return !x.stop.Load()
		})
		return
	}
	br := bufio.NewReader(in)
	for !x.stop.Load() {
		line, err := br.ReadString('\n')
		if err != nil && line == "" {
			return
		}
		line = strings.TrimSuffix(line, "\n")
		if x.replace != "" {
			if line = strings.TrimLeft(line, " \t"); line != "" {
				x.add(unquote(line))
			}
			continue
		}
		items, err2 := quotedFields(line)
		if err2 != nil {
			x.c.errorf("%v", err2)
			return
		}
		for _, it := range items {
			x.add(it)
		}
		if len(items) > 0 {
			x.endLine()
		}
	}
}

func c0(v string) byte {
	switch v {
	case "":
		return 0
	case `\n`:
		return '\n'
	case `\t`:
		return '\t'
	case `\0`:
		return 0
	}
	return v[0]
}

func unquote(line string) string {
	if f, err := quotedFields(line); err == nil && len(f) == 1 {
		return f[0]
	}
	return line
}

// quotedFields splits at blanks; quotes and backslashes protect.
func quotedFields(line string) ([]string, error) {
	var out []string
	var b strings.Builder
	in := false
	for i := 0; i < len(line); i++ {
		switch ch := line[i]; ch {
		case ' ', '\t':
			if in {
				out = append(out, b.String())
				b.Reset()
				in = false
			}
		case '\'', '"':
			end := strings.IndexByte(line[i+1:], ch)
			if end < 0 {
				return nil, errors.New("unmatched quote; by default quotes are special unless you use the -0 option")
			}
			b.WriteString(line[i+1 : i+1+end])
			i += end + 1
			in = true
		case '\\':
			if i+1 < len(line) {
				i++
				b.WriteByte(line[i])
			}
			in = true
		default:
			b.WriteByte(ch)
			in = true
		}
	}
	if in {
		out = append(out, b.String())
	}
	return out, nil
}

func (x *xargsRun) flush() {
	args := slices.Clone(x.base)
	if x.replace != "" {
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], x.replace, strings.Join(x.items, " "))
		}
	} else {
		args = append(args, x.items...)
	}
	x.items, x.size, x.lines, x.ran = nil, 0, 0, true
	if x.stop.Load() {
		return
	}
	if x.c.opts.has('t') || x.c.opts.has('p') {
		fmt.Fprintln(os.Stderr, strings.Join(args, " "))
	}
	cmd := exec.Command(args[0], args[1:]...)
	if x.c.opts.has('a') {
		cmd.Stdin = os.Stdin
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	x.c.out.Flush()
	x.slots <- struct{}{}
	if err := cmd.Start(); err != nil {
		<-x.slots
		x.mu.Lock()
		x.c.startFailed(args[0], err)
		x.mu.Unlock()
		x.stop.Store(true)
		return
	}
	wait := func() {
		code := exitCode(cmd.Wait())
		x.mu.Lock()
		defer func() { x.mu.Unlock(); <-x.slots }()
		switch code {
		case 0:
		case 255:
			x.c.status = 124
			x.stop.Store(true)
		default:
			x.c.status = max(x.c.status, 123)
		}
	}
	if cap(x.slots) == 1 {
		wait()
	} else {
		go wait()
	}
}
