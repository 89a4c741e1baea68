package userland

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sandpit-vm/sandpit/guest/userland/shell"
	"golang.org/x/sys/unix"
)

func trueCmd(*command) {}

func falseCmd(c *command) { c.status = 1 }

func echo(c *command) { c.out.WriteString(shell.Echo(c.args)) }

func printf(c *command) {
	out, err := shell.Printf(c.args)
	c.out.WriteString(out)
	if err != nil {
		c.errorf("%v", err)
	}
}

func testCmd(c *command) {
	ok, err := shell.Test(append([]string{c.name}, c.args...), func(fd int) bool {
		_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		return err == nil
	})
	switch {
	case err != nil:
		c.errorf("%v", err)
		c.status = 2
	case !ok:
		c.status = 1
	}
}

func yes(c *command) {
	line := "y"
	if len(c.args) > 0 {
		line = strings.Join(c.args, " ")
	}
	block := []byte(strings.Repeat(line+"\n", max(1, 16<<10/(len(line)+1))))
	for {
		if _, err := os.Stdout.Write(block); err != nil {
			c.errorf("write error: %v", reason(err))
			return
		}
	}
}

func pwd(c *command) {
	if _, ok := c.parse("LP", "logical=L physical=P"); !ok {
		return
	}
	var wd string
	var err error
	if c.opts.last("LP") == 'L' {
		wd, err = os.Getwd()
	} else {
		wd, err = unix.Getwd()
	}
	if err != nil {
		c.errorf("%v", reason(err))
		return
	}
	fmt.Fprintln(c.out, wd)
}

func basename(c *command) {
	args, ok := c.parse("+as:z", "multiple=a suffix=s zero=z")
	if !ok {
		return
	}
	suffix := c.opts.get('s', "")
	if !c.opts.has('a') && !c.opts.has('s') {
		if len(args) == 2 {
			suffix, args = args[1], args[:1]
		} else if len(args) != 1 {
			c.usage("path [suffix]")
			return
		}
	}
	for _, a := range args {
		b := filepath.Base(a)
		if a == "" {
			b = ""
		}
		if b != suffix {
			b = strings.TrimSuffix(b, suffix)
		}
		fmt.Fprintln(c.out, b)
	}
}

func dirname(c *command) {
	args, ok := c.parse("z", "zero=z")
	if !ok {
		return
	}
	if len(args) == 0 {
		c.errorf("missing operand")
	}
	for _, a := range args {
		t := strings.TrimRight(a, "/")
		i := strings.LastIndexByte(t, '/')
		switch {
		case t == "" && a != "":
			t = "/"
		case i < 0:
			t = "."
		default:
			if t = strings.TrimRight(t[:i], "/"); t == "" {
				t = "/"
			}
		}
		fmt.Fprintln(c.out, t)
	}
}

func seq(c *command) {
	// Negative operands are no options.
	var opts []string
	args := c.args
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && !(args[0][1] >= '0' && args[0][1] <= '9' || args[0][1] == '.') {
		n := 1
		if args[0] == "-s" || args[0] == "-f" {
			n = 2
		}
		n = min(n, len(args))
		opts = append(opts, args[:n]...)
		args = args[n:]
	}
	c.args = opts
	if _, ok := c.parse("s:wf:", "separator=s equal-width=w format=f"); !ok {
		return
	}
	if len(args) < 1 || len(args) > 3 {
		c.usage("[-w] [-s separator] [-f format] [first [increment]] last")
		return
	}
	first, step, last := "1", "1", args[len(args)-1]
	if len(args) > 1 {
		first = args[0]
	}
	if len(args) > 2 {
		step = args[1]
	}
	decimals := 0
	var v [3]float64
	for i, s := range []string{first, step, last} {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsNaN(f) {
			c.errorf("invalid floating point argument: '%s'", s)
			return
		}
		v[i] = f
		if _, frac, ok := strings.Cut(s, "."); ok && i < 2 {
			decimals = max(decimals, len(frac))
		}
	}
	if v[1] == 0 {
		c.errorf("invalid Zero increment value: '%s'", step)
		return
	}
	sep := c.opts.get('s', "\n")
	width := 0
	if c.opts.has('w') {
		width = max(len(strconv.FormatFloat(v[0], 'f', decimals, 64)), len(strconv.FormatFloat(v[2], 'f', decimals, 64)))
	}
	format := c.opts.get('f', "")
	for i := 0; ; i++ {
		x := v[0] + float64(i)*v[1]
		if v[1] > 0 && x > v[2]+1e-10*math.Abs(v[1]) || v[1] < 0 && x < v[2]-1e-10*math.Abs(v[1]) {
			if i > 0 {
				c.out.WriteByte('\n')
			}
			return
		}
		if i > 0 {
			c.out.WriteString(sep)
		}
		switch {
		case format != "":
			text, err := shell.Printf([]string{format, strconv.FormatFloat(x, 'f', -1, 64)})
			if err != nil {
				c.errorf("%v", err)
				return
			}
			c.out.WriteString(text)
		default:
			s := strconv.FormatFloat(x, 'f', decimals, 64)
			if pad := width - len(s); pad > 0 {
				neg := strings.HasPrefix(s, "-")
				s = strings.Repeat("0", pad) + strings.TrimPrefix(s, "-")
				if neg {
					s = "-" + s
				}
			}
			c.out.WriteString(s)
		}
	}
}

func clearCmd(c *command) {
	if _, ok := c.parse("xT:", ""); ok {
		c.out.WriteString("\x1b[H\x1b[2J\x1b[3J")
	}
}

func mountpoint(c *command) {
	args, ok := c.parse("qd", "quiet=q")
	if !ok || len(args) != 1 {
		c.status = 1
		return
	}
	var a, b unix.Stat_t
	err := unix.Stat(args[0], &a)
	if err == nil {
		err = unix.Stat(filepath.Join(args[0], ".."), &b)
	}
	is := err == nil && (a.Dev != b.Dev || a.Ino == b.Ino)
	if !is {
		c.status = 1
	}
	if c.opts.has('q') {
		return
	}
	switch {
	case err != nil:
		c.fail(args[0], err)
	case is:
		fmt.Fprintf(c.out, "%s is a mountpoint\n", args[0])
	default:
		fmt.Fprintf(c.out, "%s is not a mountpoint\n", args[0])
	}
}
