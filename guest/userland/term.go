package userland

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// flag is a named bit of a terminal's settings.
type termFlag struct {
	name  string
	field byte // i, o, c or l
	bit   uint32
	on    bool // part of "sane"
}

func termFlags() []termFlag {
	return []termFlag{
		{"ignbrk", 'i', unix.IGNBRK, false}, {"brkint", 'i', unix.BRKINT, true}, {"ignpar", 'i', unix.IGNPAR, false},
		{"parmrk", 'i', unix.PARMRK, false}, {"inpck", 'i', unix.INPCK, false}, {"istrip", 'i', unix.ISTRIP, false},
		{"inlcr", 'i', unix.INLCR, false}, {"igncr", 'i', unix.IGNCR, false}, {"icrnl", 'i', unix.ICRNL, true},
		{"ixon", 'i', unix.IXON, true}, {"ixoff", 'i', unix.IXOFF, false}, {"ixany", 'i', unix.IXANY, false}, {"imaxbel", 'i', unix.IMAXBEL, true}, {"iutf8", 'i', unix.IUTF8, true},
		{"opost", 'o', unix.OPOST, true}, {"onlcr", 'o', unix.ONLCR, true}, {"ocrnl", 'o', unix.OCRNL, false}, {"onocr", 'o', unix.ONOCR, false}, {"onlret", 'o', unix.ONLRET, false},
		{"parenb", 'c', unix.PARENB, false}, {"parodd", 'c', unix.PARODD, false}, {"hupcl", 'c', unix.HUPCL, true}, {"cstopb", 'c', unix.CSTOPB, false}, {"cread", 'c', unix.CREAD, true}, {"clocal", 'c', unix.CLOCAL, false}, {"crtscts", 'c', unix.CRTSCTS, false},
		{"isig", 'l', unix.ISIG, true}, {"icanon", 'l', unix.ICANON, true}, {"iexten", 'l', unix.IEXTEN, true},
		{"echo", 'l', unix.ECHO, true}, {"echoe", 'l', unix.ECHOE, true}, {"echok", 'l', unix.ECHOK, true}, {"echonl", 'l', unix.ECHONL, false}, {"noflsh", 'l', unix.NOFLSH, false}, {"tostop", 'l', unix.TOSTOP, false}, {"echoctl", 'l', unix.ECHOCTL, true}, {"echoke", 'l', unix.ECHOKE, true},
	}
}

func termField(t *unix.Termios, f byte) *uint32 {
	switch f {
	case 'i':
		return &t.Iflag
	case 'o':
		return &t.Oflag
	case 'c':
		return &t.Cflag
	}
	return &t.Lflag
}

// controlChars names the entries of c_cc with their defaults.
func controlChars() []struct {
	name string
	at   int
	def  uint8
} {
	return []struct {
		name string
		at   int
		def  uint8
	}{{"intr", unix.VINTR, 3}, {"quit", unix.VQUIT, 28}, {"erase", unix.VERASE, 127}, {"kill", unix.VKILL, 21}, {"eof", unix.VEOF, 4}, {"eol", unix.VEOL, 0}, {"start", unix.VSTART, 17}, {"stop", unix.VSTOP, 19}, {"susp", unix.VSUSP, 26}, {"rprnt", unix.VREPRINT, 18}, {"werase", unix.VWERASE, 23}, {"lnext", unix.VLNEXT, 22}}
}

func stty(c *command) {
	args := c.args
	fd := 0
	all, save := false, false
	for len(args) > 0 && (args[0] == "-a" || args[0] == "-g" || args[0] == "-F" || strings.HasPrefix(args[0], "--file=")) {
		switch {
		case args[0] == "-a":
			all = true
		case args[0] == "-g":
			save = true
		default:
			path := strings.TrimPrefix(args[0], "--file=")
			if args[0] == "-F" {
				if len(args) < 2 {
					c.errorf("-F requires an argument")
					return
				}
				path = args[1]
				args = args[1:]
			}
			f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
			if err != nil {
				c.fail(path, err)
				return
			}
			fd = int(f.Fd())
		}
		args = args[1:]
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		c.errorf("'standard input': %v", reason(err))
		return
	}
	if len(args) == 0 {
		c.showTerminal(fd, t, all, save)
		return
	}
	before := *t
	for len(args) > 0 {
		n, err := c.setTerminal(fd, t, args)
		if err != nil {
			c.errorf("%v", err)
			return
		}
		args = args[n:]
	}
	if *t != before {
		if err := unix.IoctlSetTermios(fd, unix.TCSETSW, t); err != nil {
			c.errorf("%v", reason(err))
		}
	}
}

func (c *command) showTerminal(fd int, t *unix.Termios, all, save bool) {
	if save {
		parts := []string{}
		for _, v := range []uint32{t.Iflag, t.Oflag, t.Cflag, t.Lflag} {
			parts = append(parts, strconv.FormatUint(uint64(v), 16))
		}
		for _, v := range t.Cc {
			parts = append(parts, strconv.FormatUint(uint64(v), 16))
		}
		fmt.Fprintln(c.out, strings.Join(parts, ":"))
		return
	}
	fmt.Fprintf(c.out, "speed %d baud;", speeds()[t.Cflag&unix.CBAUD])
	if all {
		if ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil {
			fmt.Fprintf(c.out, " rows %d; columns %d;", ws.Row, ws.Col)
		}
	}
	fmt.Fprintf(c.out, " line = %d;\n", t.Line)
	var shown []string
	for _, k := range controlChars() {
		if all || t.Cc[k.at] != k.def {
			shown = append(shown, fmt.Sprintf("%s = %s;", k.name, showControl(t.Cc[k.at])))
		}
	}
	if len(shown) > 0 {
		fmt.Fprintln(c.out, strings.Join(shown, " "))
	}
	shown = shown[:0]
	for _, f := range termFlags() {
		set := *termField(t, f.field)&f.bit != 0
		if all || set != f.on && f.field != 'c' {
			name := f.name
			if !set {
				name = "-" + name
			}
			shown = append(shown, name)
		}
	}
	if len(shown) > 0 {
		fmt.Fprintln(c.out, strings.Join(shown, " "))
	}
}

func showControl(b uint8) string {
	switch {
	case b == 0:
		return "<undef>"
	case b < 32:
		return "^" + string(rune(b+64))
	case b == 127:
		return "^?"
	}
	return string(rune(b))
}

func speeds() map[uint32]int {
	return map[uint32]int{unix.B0: 0, unix.B300: 300, unix.B1200: 1200, unix.B2400: 2400, unix.B4800: 4800, unix.B9600: 9600, unix.B19200: 19200, unix.B38400: 38400, unix.B57600: 57600, unix.B115200: 115200, unix.B230400: 230400}
}

// setTerminal applies one setting and returns how many words it used.
func (c *command) setTerminal(fd int, t *unix.Termios, args []string) (int, error) {
	word := args[0]
	off := strings.HasPrefix(word, "-")
	name := strings.TrimPrefix(word, "-")
	set := func(field byte, bit uint32, on bool) {
		p := termField(t, field)
		if *p &^= bit; on {
			*p |= bit
		}
	}
	switch name {
	case "size", "rows", "cols", "columns":
		ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
		if err != nil {
			return 0, reason(err)
		}
		if name == "size" {
			fmt.Fprintf(c.out, "%d %d\n", ws.Row, ws.Col)
			return 1, nil
		}
		if len(args) < 2 {
			return 0, fmt.Errorf("missing argument to '%s'", word)
		}
		n, err := strconv.ParseUint(args[1], 10, 16)
		if err != nil {
			return 0, fmt.Errorf("invalid integer argument: '%s'", args[1])
		}
		if name == "rows" {
			ws.Row = uint16(n)
		} else {
			ws.Col = uint16(n)
		}
		return 2, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, ws)
	case "sane":
		for _, f := range termFlags() {
			set(f.field, f.bit, f.on || f.field == 'c' && *termField(t, 'c')&f.bit != 0)
		}
		for _, k := range controlChars() {
			t.Cc[k.at] = k.def
		}
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
		return 1, nil
	case "raw", "cooked":
		if (name == "raw") != off {
			t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
			t.Oflag &^= unix.OPOST
			t.Lflag &^= unix.ICANON | unix.ISIG
			t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
		} else {
			t.Iflag |= unix.BRKINT | unix.ICRNL | unix.IXON
			t.Oflag |= unix.OPOST
			t.Lflag |= unix.ICANON | unix.ISIG
		}
		return 1, nil
	case "cbreak":
		set('l', unix.ICANON, off)
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
		return 1, nil
	case "min", "time":
		if len(args) < 2 {
			return 0, fmt.Errorf("missing argument to '%s'", word)
		}
		n, err := strconv.ParseUint(args[1], 10, 8)
		at := unix.VMIN
		if name == "time" {
			at = unix.VTIME
		}
		t.Cc[at] = uint8(n)
		return 2, err
	case "cs8":
		t.Cflag = t.Cflag&^unix.CSIZE | unix.CS8
		return 1, nil
	}
	for _, f := range termFlags() {
		if f.name == name {
			set(f.field, f.bit, !off)
			return 1, nil
		}
	}
	for _, k := range controlChars() {
		if k.name == name {
			if len(args) < 2 {
				return 0, fmt.Errorf("missing argument to '%s'", word)
			}
			v := args[1]
			switch {
			case v == "undef" || v == "^-":
				t.Cc[k.at] = 0
			case v == "^?":
				t.Cc[k.at] = 127
			case len(v) == 2 && v[0] == '^':
				t.Cc[k.at] = v[1] & 0x1f
			default:
				t.Cc[k.at] = v[0]
			}
			return 2, nil
		}
	}
	for code, speed := range speeds() {
		if strconv.Itoa(speed) == name {
			t.Cflag = t.Cflag&^unix.CBAUD | code
			return 1, nil
		}
	}
	if parts := strings.Split(word, ":"); len(parts) == 4+len(t.Cc) {
		return 1, restoreTerminal(t, parts)
	}
	return 0, fmt.Errorf("invalid argument '%s'", word)
}

// restoreTerminal reads back what -g printed.
func restoreTerminal(t *unix.Termios, parts []string) error {
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 16, 32)
		if err != nil {
			return fmt.Errorf("invalid argument '%s'", p)
		}
		switch i {
		case 0:
			t.Iflag = uint32(v)
		case 1:
			t.Oflag = uint32(v)
		case 2:
			t.Cflag = uint32(v)
		case 3:
			t.Lflag = uint32(v)
		default:
			t.Cc[i-4] = uint8(v)
		}
	}
	return nil
}
