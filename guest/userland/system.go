package userland

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/u-root/u-root/pkg/mount"
	"golang.org/x/sys/unix"
)

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

func uname(c *command) {
	if _, ok := c.parse("asnrvmpio", "all=a kernel-name=s nodename=n kernel-release=r kernel-version=v machine=m processor=p hardware-platform=i operating-system=o"); !ok {
		return
	}
	if c.name == "arch" {
		c.opts.values['m'] = []string{""}
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		c.errorf("%v", reason(err))
		return
	}
	o := c.opts
	all := o.has('a')
	var parts []string
	add := func(letter byte, v string) {
		if o.has(letter) || all && letter != 'p' && letter != 'i' {
			parts = append(parts, v)
		}
	}
	if len(o.values) == 0 {
		o.values['s'] = []string{""}
	}
	add('s', cString(u.Sysname[:]))
	add('n', cString(u.Nodename[:]))
	add('r', cString(u.Release[:]))
	add('v', cString(u.Version[:]))
	add('m', cString(u.Machine[:]))
	add('p', cString(u.Machine[:]))
	add('i', cString(u.Machine[:]))
	add('o', "GNU/Linux")
	fmt.Fprintln(c.out, strings.Join(parts, " "))
}

func hostname(c *command) {
	args, ok := c.parse("fsidF:", "fqdn=f long=f short=s ip-address=i domain=d file=F")
	if !ok {
		return
	}
	if f := c.opts.get('F', ""); f != "" {
		text, err := os.ReadFile(f)
		if err != nil {
			c.fail(f, err)
			return
		}
		args = []string{strings.TrimSpace(string(text))}
	}
	if len(args) > 0 {
		if err := unix.Sethostname([]byte(args[0])); err != nil {
			c.errorf("%v", reason(err))
		}
		return
	}
	h, err := os.Hostname()
	if err != nil {
		c.errorf("%v", reason(err))
	}
	if c.opts.has('s') {
		h, _, _ = strings.Cut(h, ".")
	}
	fmt.Fprintln(c.out, h)
}

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

// mountPoint is a line of /proc/self/mounts.
type mountPoint struct{ dev, dir, fstype, opts string }

func mounts() ([]mountPoint, error) {
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var list []mountPoint
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) >= 4 {
			list = append(list, mountPoint{unescape.Replace(f[0]), unescape.Replace(f[1]), f[2], f[3]})
		}
	}
	return list, nil
}

func df(c *command) {
	paths, ok := c.parse("ahHikmPTlt:x:B:", "all=a human-readable=h inodes=i portability=P print-type=T local=l type=t exclude-type=x")
	if !ok {
		return
	}
	list, err := mounts()
	if err != nil {
		c.fail("/proc/self/mounts", err)
		return
	}
	if len(paths) > 0 {
		var chosen []mountPoint
		for _, p := range paths {
			if m, err := mountOf(list, p); err != nil {
				c.fail(p, err)
			} else {
				chosen = append(chosen, m)
			}
		}
		list = chosen
	}
	show := func(n int64) string {
		switch {
		case c.opts.has('h') || c.opts.has('H'):
			return human(n)
		case c.opts.has('m'):
			return strconv.FormatInt((n+1<<20-1)>>20, 10)
		}
		return strconv.FormatInt((n+1023)>>10, 10)
	}
	head := []string{"Filesystem", "1K-blocks", "Used", "Available", "Use%", "Mounted on"}
	switch {
	case c.opts.has('i'):
		head = []string{"Filesystem", "Inodes", "IUsed", "IFree", "IUse%", "Mounted on"}
	case c.opts.has('h') || c.opts.has('H'):
		head[1], head[3] = "Size", "Avail"
	case c.opts.has('m'):
		head[1] = "1M-blocks"
	case c.opts.has('P'):
		head[1], head[4] = "1024-blocks", "Capacity"
	}
	rows := [][]string{head}
	seen := map[string]bool{}
	for _, m := range list {
		var st unix.Statfs_t
		if err := unix.Statfs(m.dir, &st); err != nil {
			continue
		}
		if len(paths) == 0 && (!c.opts.has('a') && (st.Blocks == 0 || seen[m.dir]) || c.opts.has('t') && m.fstype != c.opts.get('t', "") || m.fstype == c.opts.get('x', "\x00")) {
			continue
		}
		seen[m.dir] = true
		unit := int64(st.Frsize)
		if unit == 0 {
			unit = int64(st.Bsize)
		}
		total, free, avail := int64(st.Blocks)*unit, int64(st.Bfree)*unit, int64(st.Bavail)*unit
		used := total - free
		row := []string{m.dev, show(total), show(used), show(avail), percent(used, used+avail), m.dir}
		if c.opts.has('i') {
			n := int64(st.Files) - int64(st.Ffree)
			row = []string{m.dev, strconv.FormatUint(st.Files, 10), strconv.FormatInt(n, 10), strconv.FormatUint(st.Ffree, 10), percent(n, int64(st.Files)), m.dir}
		}
		if c.opts.has('T') {
			row = append([]string{row[0], m.fstype}, row[1:]...)
		}
		rows = append(rows, row)
	}
	shift := 0
	if c.opts.has('T') {
		rows[0] = append([]string{head[0], "Type"}, head[1:]...)
		shift = 1
	}
	c.table(rows, func(i int) bool { return i > shift && i < 5+shift })
}

func percent(used, total int64) string {
	if total <= 0 {
		return "-"
	}
	return strconv.FormatInt((used*100+total-1)/total, 10) + "%"
}

// mountOf finds the mount that holds a path: the last one listed on its device
// whose directory is a prefix.
func mountOf(list []mountPoint, p string) (mountPoint, error) {
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		return mountPoint{}, &os.PathError{Op: "stat", Path: p, Err: err}
	}
	real, err := canonicalize(p, 'f')
	if err != nil {
		return mountPoint{}, err
	}
	best := mountPoint{dev: "-", dir: "/"}
	for _, m := range list {
		if (m.dir == "/" || real == m.dir || strings.HasPrefix(real, m.dir+"/")) && len(m.dir) >= len(best.dir) {
			best = m
		}
	}
	return best, nil
}

// mountCmd mounts through u-root's mount package, which finds the file
// system's type where none is given.
func mountCmd(c *command) {
	args, ok := c.parse("t:o:rwnvaBRM", "types=t options=o read-only=r bind=B rbind=R move=M")
	if !ok {
		return
	}
	if len(args) == 0 {
		list, err := mounts()
		if err != nil {
			c.fail("/proc/self/mounts", err)
		}
		for _, m := range list {
			if t := c.opts.get('t', m.fstype); t == m.fstype {
				fmt.Fprintf(c.out, "%s on %s type %s (%s)\n", m.dev, m.dir, m.fstype, m.opts)
			}
		}
		return
	}
	flags, data, loop := mountOptions(strings.Join(c.opts.values['o'], ","))
	switch {
	case c.opts.has('B'):
		flags |= unix.MS_BIND
	case c.opts.has('R'):
		flags |= unix.MS_BIND | unix.MS_REC
	case c.opts.has('M'):
		flags |= unix.MS_MOVE
	}
	if c.opts.has('r') {
		flags |= unix.MS_RDONLY
	}
	fstype := c.opts.get('t', "")
	var src, dst string
	switch {
	case len(args) == 1 && flags&unix.MS_REMOUNT != 0:
		src, dst = "none", args[0]
	case len(args) == 2:
		src, dst = args[0], args[1]
	default:
		c.usage("[-t type] [-o options] [device] directory")
		return
	}
	var err error
	switch {
	case loop:
		err = fmt.Errorf("loop devices are not supported here")
	case flags&(unix.MS_BIND|unix.MS_MOVE|unix.MS_REMOUNT|unix.MS_SHARED|unix.MS_PRIVATE|unix.MS_SLAVE) != 0:
		err = unix.Mount(src, dst, fstype, flags, data)
		if err == nil && flags&unix.MS_BIND != 0 && flags&unix.MS_RDONLY != 0 && flags&unix.MS_REMOUNT == 0 {
			err = unix.Mount("none", dst, "", flags|unix.MS_REMOUNT, "") // a bind takes flags only then
		}
	case fstype == "" || fstype == "auto":
		_, err = mount.TryMount(src, dst, data, flags)
	default:
		_, err = mount.Mount(src, dst, fstype, data, flags)
	}
	if err != nil {
		c.errorf("mounting %s on %s failed: %v", src, dst, reason(err))
		c.status = 32
	}
}

func mountOptions(list string) (flags uintptr, data string, loop bool) {
	var rest []string
	for o := range strings.SplitSeq(list, ",") {
		switch o {
		case "", "defaults", "rw", "auto", "noauto", "user", "nouser", "_netdev", "nofail":
		case "ro":
			flags |= unix.MS_RDONLY
		case "nosuid":
			flags |= unix.MS_NOSUID
		case "nodev":
			flags |= unix.MS_NODEV
		case "noexec":
			flags |= unix.MS_NOEXEC
		case "sync":
			flags |= unix.MS_SYNCHRONOUS
		case "remount":
			flags |= unix.MS_REMOUNT
		case "bind":
			flags |= unix.MS_BIND
		case "rbind":
			flags |= unix.MS_BIND | unix.MS_REC
		case "move":
			flags |= unix.MS_MOVE
		case "noatime":
			flags |= unix.MS_NOATIME
		case "nodiratime":
			flags |= unix.MS_NODIRATIME
		case "relatime":
			flags |= unix.MS_RELATIME
		case "private":
			flags |= unix.MS_PRIVATE
		case "rprivate":
			flags |= unix.MS_PRIVATE | unix.MS_REC
		case "shared":
			flags |= unix.MS_SHARED
		case "rshared":
			flags |= unix.MS_SHARED | unix.MS_REC
		case "slave":
			flags |= unix.MS_SLAVE
		case "rslave":
			flags |= unix.MS_SLAVE | unix.MS_REC
		case "loop":
			loop = true
		default:
			rest = append(rest, o)
		}
	}
	return flags, strings.Join(rest, ","), loop
}

func umount(c *command) {
	args, ok := c.parse("flnrR", "force=f lazy=l")
	if !ok {
		return
	}
	for _, a := range args {
		if err := mount.Unmount(a, c.opts.has('f'), c.opts.has('l')); err != nil {
			c.errorf("%s: %v", a, reason(err))
			c.status = 32
		}
	}
}

func dmesg(c *command) {
	if _, ok := c.parse("cCn:rTwxH", "clear=C read-clear=c raw=r ctime=T"); !ok {
		return
	}
	const actionReadAll, actionReadClear, actionClear, actionSize = 3, 4, 5, 10
	if c.opts.has('C') {
		if _, err := unix.Klogctl(actionClear, nil); err != nil {
			c.errorf("%v", reason(err))
		}
		return
	}
	n, err := unix.Klogctl(actionSize, nil)
	if err == nil {
		buf := make([]byte, n)
		action := actionReadAll
		if c.opts.has('c') {
			action = actionReadClear
		}
		if n, err = unix.Klogctl(action, buf); err == nil {
			for line := range bytes.Lines(buf[:n]) {
				if !c.opts.has('r') && len(line) > 2 && line[0] == '<' {
					if i := bytes.IndexByte(line, '>'); i > 0 {
						line = line[i+1:]
					}
				}
				c.out.Write(line)
			}
		}
	}
	if err != nil {
		c.errorf("read kernel buffer failed: %v", reason(err))
	}
}

// powerOff asks the agent, PID 1, to end the sandbox: it treats SIGTERM as a
// graceful shutdown. It waits, since a script must not go on after it.
func powerOff(c *command) {
	args, ok := c.parse("fnpwdhPr", "force=f no-wtmp=d poweroff=P reboot=r halt=h")
	if !ok {
		return
	}
	if len(args) > 0 && args[0] != "now" && args[0] != "+0" && args[0] != "0" {
		c.errorf("only 'now' is supported")
		return
	}
	unix.Sync()
	if c.opts.has('f') {
		if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
			c.errorf("%v", reason(err))
		}
		return
	}
	if err := unix.Kill(1, unix.SIGTERM); err != nil {
		c.errorf("cannot signal process 1: %v", reason(err))
		return
	}
	time.Sleep(30 * time.Second)
	c.errorf("process 1 did not shut down")
}

func tty(c *command) {
	if _, ok := c.parse("s", "silent=s quiet=s"); !ok {
		c.status = 2
		return
	}
	name := "not a tty"
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err != nil {
		c.status = 1
	} else if p, err := os.Readlink("/proc/self/fd/0"); err == nil {
		name = p
	}
	if !c.opts.has('s') {
		fmt.Fprintln(c.out, name)
	}
}

// unshare runs a command in new namespaces.
func unshare(c *command) {
	args, ok := c.parse("+mupinUrf", "mount=m uts=u pid=p ipc=i net=n user=U map-root-user=r fork=f")
	if !ok {
		return
	}
	flags := 0
	for letter, bit := range map[byte]int{'m': unix.CLONE_NEWNS, 'u': unix.CLONE_NEWUTS, 'i': unix.CLONE_NEWIPC, 'n': unix.CLONE_NEWNET, 'p': unix.CLONE_NEWPID} {
		if c.opts.has(letter) {
			flags |= bit
		}
	}
	if c.opts.has('U') || c.opts.has('r') {
		c.errorf("user namespaces cannot be entered from a threaded program")
		return
	}
	if len(args) == 0 {
		args = []string{"/bin/sh"}
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: uintptr(flags)}
	if err := cmd.Start(); err != nil {
		c.startFailed(args[0], err)
		return
	}
	c.status = exitCode(cmd.Wait())
}
