package userland

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// parseDate understands the forms that scripts pass to date -d and touch -d.
func parseDate(v string, now time.Time) (time.Time, error) {
	loc := time.Local
	if s, ok := strings.CutPrefix(v, "@"); ok {
		sec, frac, _ := strings.Cut(s, ".")
		n, err := strconv.ParseInt(sec, 10, 64)
		ns, _ := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
		return time.Unix(n, ns), err
	}
	switch v {
	case "now", "today", "":
		return now, nil
	case "tomorrow":
		return now.AddDate(0, 0, 1), nil
	case "yesterday":
		return now.AddDate(0, 0, -1), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999 -0700", "2006-01-02 15:04:05 MST", "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999", "2006-01-02 15:04", "2006-01-02", "20060102", "15:04:05", "15:04", time.UnixDate, time.ANSIC, time.RFC1123Z, time.RFC1123, "200601021504.05", "200601021504"} {
		if t, err := time.ParseInLocation(layout, v, loc); err == nil {
			if t.Year() == 0 {
				t = time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, loc)
			}
			return t, nil
		}
	}
	// "5 days ago", "+2 hours", "2024-01-01 + 1 day"
	f := strings.Fields(strings.ReplaceAll(v, "+", " + "))
	base, sign := now, 1
	if len(f) > 2 && f[0] != "+" {
		if t, err := parseDate(f[0], now); err == nil && strings.Contains(f[0], "-") {
			base, f = t, f[1:]
		}
	}
	if len(f) > 0 && f[0] == "+" {
		f = f[1:]
	}
	if len(f) > 0 && f[len(f)-1] == "ago" {
		sign, f = -1, f[:len(f)-1]
	}
	if len(f) == 2 {
		if n, err := strconv.Atoi(f[0]); err == nil {
			n *= sign
			switch strings.TrimSuffix(f[1], "s") {
			case "second", "sec":
				return base.Add(time.Duration(n) * time.Second), nil
			case "minute", "min":
				return base.Add(time.Duration(n) * time.Minute), nil
			case "hour":
				return base.Add(time.Duration(n) * time.Hour), nil
			case "day":
				return base.AddDate(0, 0, n), nil
			case "week":
				return base.AddDate(0, 0, 7*n), nil
			case "month":
				return base.AddDate(0, n, 0), nil
			case "year":
				return base.AddDate(n, 0, 0), nil
			}
		}
	}
	return now, fmt.Errorf("invalid date '%s'", v)
}

func date(c *command) {
	args, ok := c.parse("ud:r:s:RI::f:", "utc=u universal=u date=d reference=r set=s rfc-email=R iso-8601=I")
	if !ok {
		return
	}
	if c.opts.has('u') {
		os.Setenv("TZ", "UTC")
		time.Local = time.UTC
	}
	t := time.Now()
	var err error
	if v := c.opts.get('d', ""); c.opts.has('d') {
		t, err = parseDate(v, t)
	} else if v := c.opts.get('r', ""); v != "" {
		var fi os.FileInfo
		if fi, err = os.Stat(v); err == nil {
			t = fi.ModTime()
		}
	} else if v := c.opts.get('s', ""); v != "" {
		if t, err = parseDate(v, t); err == nil {
			tv := unix.NsecToTimeval(t.UnixNano())
			err = unix.Settimeofday(&tv)
		}
	}
	if err != nil {
		c.errorf("%v", reason(err))
		return
	}
	format := "%a %b %e %H:%M:%S %Z %Y"
	switch {
	case len(args) > 0 && strings.HasPrefix(args[0], "+"):
		format = args[0][1:]
	case len(args) > 0:
		c.errorf("invalid date '%s'", args[0])
		return
	case c.opts.has('R'):
		format = "%a, %d %b %Y %H:%M:%S %z"
	case c.opts.has('I'):
		format = map[string]string{"": "%F", "date": "%F", "hours": "%FT%H%:z", "minutes": "%FT%H:%M%:z", "seconds": "%FT%H:%M:%S%:z", "s": "%FT%H:%M:%S%:z", "ns": "%FT%H:%M:%S,%N%:z"}[c.opts.get('I', "")]
	}
	fmt.Fprintln(c.out, strftime(format, t))
}

// strftime expands a date format.
func strftime(format string, t time.Time) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		pad := byte(0)
		if strings.IndexByte("-_0^", format[i]) >= 0 && i+1 < len(format) {
			pad = format[i]
			i++
		}
		digits := 0
		for format[i] >= '0' && format[i] <= '9' && i+1 < len(format) {
			digits = digits*10 + int(format[i]-'0')
			i++
		}
		num := func(n, width int, fill byte) string {
			switch pad {
			case '-':
				width = 0
			case '_':
				fill = ' '
			case '0':
				fill = '0'
			}
			v := strconv.Itoa(n)
			return strings.Repeat(string(fill), max(0, width-len(v))) + v
		}
		_, isoWeek := t.ISOWeek()
		isoYear, _ := t.ISOWeek()
		v := ""
		switch format[i] {
		case 'Y':
			v = num(t.Year(), 4, '0')
		case 'C':
			v = num(t.Year()/100, 2, '0')
		case 'y':
			v = num(t.Year()%100, 2, '0')
		case 'G':
			v = num(isoYear, 4, '0')
		case 'm':
			v = num(int(t.Month()), 2, '0')
		case 'd':
			v = num(t.Day(), 2, '0')
		case 'e':
			v = num(t.Day(), 2, ' ')
		case 'j':
			v = num(t.YearDay(), 3, '0')
		case 'H':
			v = num(t.Hour(), 2, '0')
		case 'k':
			v = num(t.Hour(), 2, ' ')
		case 'I', 'l':
			h := (t.Hour()+11)%12 + 1
			v = num(h, 2, map[byte]byte{'I': '0', 'l': ' '}[format[i]])
		case 'M':
			v = num(t.Minute(), 2, '0')
		case 'S':
			v = num(t.Second(), 2, '0')
		case 'N':
			v = fmt.Sprintf("%09d", t.Nanosecond())
			if digits > 0 && digits < 9 {
				v = v[:digits]
			}
		case 's':
			v = strconv.FormatInt(t.Unix(), 10)
		case 'u':
			v = strconv.Itoa((int(t.Weekday())+6)%7 + 1)
		case 'w':
			v = strconv.Itoa(int(t.Weekday()))
		case 'V':
			v = num(isoWeek, 2, '0')
		case 'U':
			v = num((t.YearDay()+6-int(t.Weekday()))/7, 2, '0')
		case 'W':
			v = num((t.YearDay()+6-(int(t.Weekday())+6)%7)/7, 2, '0')
		case 'a':
			v = t.Format("Mon")
		case 'A':
			v = t.Format("Monday")
		case 'b', 'h':
			v = t.Format("Jan")
		case 'B':
			v = t.Format("January")
		case 'p':
			v = t.Format("PM")
		case 'P':
			v = t.Format("pm")
		case 'Z':
			v = t.Format("MST")
		case 'z':
			v = t.Format("-0700")
		case ':':
			if i+1 < len(format) && format[i+1] == 'z' {
				i++
				v = t.Format("-07:00")
			}
		case 'F':
			v = strftime("%Y-%m-%d", t)
		case 'T', 'X':
			v = strftime("%H:%M:%S", t)
		case 'R':
			v = strftime("%H:%M", t)
		case 'D', 'x':
			v = strftime("%m/%d/%y", t)
		case 'c':
			v = strftime("%a %b %e %H:%M:%S %Y", t)
		case 'r':
			v = strftime("%I:%M:%S %p", t)
		case 'n':
			v = "\n"
		case 't':
			v = "\t"
		case '%':
			v = "%"
		default:
			v = "%" + format[i:i+1]
		}
		if pad == '^' {
			v = strings.ToUpper(v)
		}
		b.WriteString(v)
	}
	return b.String()
}
