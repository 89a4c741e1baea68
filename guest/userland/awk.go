package userland

import (
	"errors"
	"os"
	"strings"

	"github.com/benhoyt/goawk/interp"
	"github.com/benhoyt/goawk/parser"
)

// awk runs goawk's interpreter.
func awk(c *command) {
	args, ok := c.parse("+F:v:f:", "field-separator=F assign=v file=f")
	if !ok {
		c.status = 2
		return
	}
	var src string
	if files := c.opts.values['f']; len(files) > 0 {
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				c.fail(f, err)
				c.status = 2
				return
			}
			src += string(text) + "\n"
		}
	} else {
		if len(args) == 0 {
			c.usage("[-F fs] [-v var=value] ('program' | -f file) [file …]")
			c.status = 2
			return
		}
		src, args = args[0], args[1:]
	}
	prog, err := parser.ParseProgram([]byte(src), nil)
	if err != nil {
		c.errorf("%v", err)
		c.status = 2
		return
	}
	config := &interp.Config{
		Argv0:  "awk",
		Args:   args,
		Output: c.out,
		Error:  os.Stderr,
	}
	for _, v := range c.opts.values['v'] {
		name, val, ok := strings.Cut(v, "=")
		if !ok {
			c.errorf("-v needs name=value, not '%s'", v)
			c.status = 2
			return
		}
		config.Vars = append(config.Vars, name, unescapeAssign(val))
	}
	if c.opts.has('F') {
		fs := unescapeAssign(c.opts.get('F', " "))
		if fs == "t" {
			fs = "\t"
		}
		config.Vars = append(config.Vars, "FS", fs)
	}
	status, err := interp.ExecProgram(prog, config)
	if err != nil {
		var e *interp.Error
		if errors.As(err, &e) || status == 0 {
			status = 2
		}
		c.errorf("%v", err)
	}
	c.status = status
}

// unescapeAssign processes the escapes of a command-line assignment.
func unescapeAssign(v string) string {
	return strings.NewReplacer(`\t`, "\t", `\n`, "\n", `\r`, "\r", `\\`, `\`).Replace(v)
}
