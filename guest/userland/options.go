package userland

import (
	"strconv"
	"strings"
)

// options is what parse found: by letter, in order.
type options struct {
	values map[byte][]string
	order  []byte
}

func (o options) has(c byte) bool { return len(o.values[c]) > 0 }

// get returns the last value given for an option, or the default.
func (o options) get(c byte, def string) string {
	if v := o.values[c]; len(v) > 0 {
		return v[len(v)-1]
	}
	return def
}

// last returns which of the given letters came last, or 0.
func (o options) last(letters string) byte {
	for i := len(o.order) - 1; i >= 0; i-- {
		if strings.IndexByte(letters, o.order[i]) >= 0 {
			return o.order[i]
		}
	}
	return 0
}

// parse reads options as getopt_long does: spec is its short option string
// ("ab:c::"), long a list of "name=letter". Operands may come between options,
// unless spec begins with "+". It fills c.opts and returns the operands; on a
// mistake it reports and returns false.
func (c *command) parse(spec, long string) (operands []string, ok bool) {
	stopAtOperand := strings.HasPrefix(spec, "+")
	spec = strings.TrimPrefix(spec, "+")
	c.opts = options{values: make(map[byte][]string)}
	arg := func(letter byte) (takes, optional bool) {
		i := strings.IndexByte(spec, letter)
		takes = i >= 0 && i+1 < len(spec) && spec[i+1] == ':'
		return takes, takes && i+2 < len(spec) && spec[i+2] == ':'
	}
	set := func(letter byte, v string) {
		c.opts.values[letter] = append(c.opts.values[letter], v)
		c.opts.order = append(c.opts.order, letter)
	}
	args := c.args
	for len(args) > 0 {
		a := args[0]
		args = args[1:]
		switch {
		case a == "--":
			return append(operands, args...), true
		case len(a) < 2 || a[0] != '-':
			operands = append(operands, a)
			if stopAtOperand {
				return append(operands, args...), true
			}
		case strings.HasPrefix(a, "--"):
			name, val, hasVal := strings.Cut(a[2:], "=")
			letter := longLetter(long, name)
			takes, optional := arg(letter)
			switch {
			case letter == 0 || !takes && hasVal:
				c.errorf("unrecognized option '%s'", a)
				return nil, false
			case takes && !hasVal && !optional:
				if len(args) == 0 {
					c.errorf("option '%s' requires an argument", a)
					return nil, false
				}
				val, args = args[0], args[1:]
			}
			set(letter, val)
		default:
			for i := 1; i < len(a); i++ {
				letter := a[i]
				if letter == ':' || letter == '+' || strings.IndexByte(spec, letter) < 0 {
					c.errorf("invalid option -- '%c'", letter)
					return nil, false
				}
				takes, optional := arg(letter)
				if !takes {
					set(letter, "")
					continue
				}
				val := a[i+1:]
				if val == "" && !optional {
					if len(args) == 0 {
						c.errorf("option requires an argument -- '%c'", letter)
						return nil, false
					}
					val, args = args[0], args[1:]
				}
				set(letter, val)
				break
			}
		}
	}
	return operands, true
}

// longLetter finds a long option by its name or an unambiguous prefix.
func longLetter(long, name string) byte {
	var found byte
	for pair := range strings.FieldsSeq(long) {
		n, letter, _ := strings.Cut(pair, "=")
		if n == name {
			return letter[0]
		}
		if name != "" && strings.HasPrefix(n, name) {
			if found != 0 && found != letter[0] {
				return 0
			}
			found = letter[0]
		}
	}
	return found
}

// size parses a number with an optional suffix: b (512), k, K, M, G, T, kB, MB…
func size(v string) (int64, error) {
	digits := strings.TrimRight(v, "bBkKMGTciw")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, err
	}
	mult := int64(1)
	switch v[len(digits):] {
	case "", "c":
	case "w":
		mult = 2
	case "b":
		mult = 512
	case "k", "K", "KiB":
		mult = 1 << 10
	case "M", "MiB":
		mult = 1 << 20
	case "G", "GiB":
		mult = 1 << 30
	case "T", "TiB":
		mult = 1 << 40
	case "kB", "KB":
		mult = 1e3
	case "MB":
		mult = 1e6
	case "GB":
		mult = 1e9
	case "TB":
		mult = 1e12
	default:
		return 0, strconv.ErrSyntax
	}
	if n > (1<<63-1)/mult || n < -(1<<63-1)/mult {
		return 0, strconv.ErrRange
	}
	return n * mult, nil
}

// human prints a size as ls -h and df -h do: 1.5K, 12M.
func human(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10)
	}
	v := float64(n)
	unit := 0
	for v >= 1024 && unit < 6 {
		v /= 1024
		unit++
	}
	suffix := string("KMGTPE"[unit-1])
	if v < 9.95 {
		tenths := int64(v * 10)
		if float64(tenths) < v*10 {
			tenths++ // sizes are rounded up
		}
		if tenths < 100 {
			return strconv.FormatFloat(float64(tenths)/10, 'f', 1, 64) + suffix
		}
	}
	whole := int64(v)
	if float64(whole) < v {
		whole++
	}
	return strconv.FormatInt(whole, 10) + suffix
}
