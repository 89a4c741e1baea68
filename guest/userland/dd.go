package userland

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// dd copies blocks. It understands the operands that scripts use.
func dd(c *command) {
	op := map[string]string{}
	for _, a := range c.args {
		k, v, ok := strings.Cut(a, "=")
		if !ok || !strings.Contains(" if of bs ibs obs count skip seek conv status iflag oflag ", " "+k+" ") {
			c.errorf("unrecognized operand '%s'", a)
			return
		}
		op[k] = v
	}
	num := func(k string, def int64) int64 {
		if op[k] == "" {
			return def
		}
		n, err := size(op[k])
		if err != nil || n < 0 {
			c.errorf("invalid number: '%s'", op[k])
		}
		return n
	}
	bs := num("bs", num("ibs", 512))
	count, skip, seek := num("count", -1), num("skip", 0), num("seek", 0)
	if c.status != 0 || bs < 1 || bs > 1<<30 {
		c.status = 1
		return
	}
	in, out := os.Stdin, os.Stdout
	var err error
	if op["if"] != "" {
		if in, err = os.Open(op["if"]); err != nil {
			c.errorf("failed to open '%s': %v", op["if"], reason(err))
			return
		}
	}
	conv := "," + op["conv"] + ","
	if op["of"] != "" {
		flags := os.O_WRONLY | os.O_CREATE
		if !strings.Contains(conv, ",notrunc,") && seek == 0 {
			flags |= os.O_TRUNC
		}
		if strings.Contains(op["oflag"], "append") {
			flags |= os.O_APPEND
		}
		if out, err = os.OpenFile(op["of"], flags, 0o666); err != nil {
			c.errorf("failed to open '%s': %v", op["of"], reason(err))
			return
		}
		if seek > 0 && !strings.Contains(conv, ",notrunc,") {
			out.Truncate(seek * bs)
		}
	}
	if skip > 0 {
		if _, err := in.Seek(skip*bs, io.SeekCurrent); err != nil {
			io.CopyN(io.Discard, in, skip*bs)
		}
	}
	if seek > 0 {
		out.Seek(seek*bs, io.SeekStart)
	}
	full := strings.Contains(op["iflag"], "fullblock")
	var inFull, inPart, outFull, outPart, total int64
	buf := make([]byte, bs)
	for n := int64(0); count < 0 || n < count; n++ {
		var m int
		if full {
			m, err = io.ReadFull(in, buf)
		} else {
			m, err = in.Read(buf)
		}
		if m > 0 {
			if int64(m) == bs {
				inFull++
			} else {
				inPart++
				if strings.Contains(conv, ",sync,") {
					clear(buf[m:])
					m = int(bs)
				}
			}
			if _, werr := out.Write(buf[:m]); werr != nil {
				c.errorf("error writing: %v", reason(werr))
				break
			}
			if int64(m) == bs {
				outFull++
			} else {
				outPart++
			}
			total += int64(m)
		}
		if err != nil {
			if err != io.EOF && err != io.ErrUnexpectedEOF {
				c.errorf("error reading: %v", reason(err))
			}
			break
		}
	}
	if strings.Contains(conv, "sync,") && strings.Contains(conv, "f") {
		out.Sync()
	}
	if err := out.Close(); err != nil {
		c.fail("output", err)
	}
	if op["status"] != "none" {
		fmt.Fprintf(os.Stderr, "%d+%d records in\n%d+%d records out\n", inFull, inPart, outFull, outPart)
		if op["status"] != "noxfer" {
			fmt.Fprintf(os.Stderr, "%d bytes copied\n", total)
		}
	}
}
