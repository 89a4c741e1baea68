package userland

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is what /proc tells about a process.
type process struct {
	pid, ppid, pgid, sid, tty, nice, threads int
	uid                                      int
	name, state, args                        string
	cpu                                      time.Duration
	start                                    time.Duration // since boot
	vsize, rss                               int64
}

// clockTick is the unit of times in /proc: the kernel's user-visible 100 Hz.
const clockTick = 10 * time.Millisecond

func readProcess(pid int) (process, error) {
	p := process{pid: pid}
	dir := "/proc/" + strconv.Itoa(pid)
	data, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return p, err
	}
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 0 || end < open {
		return p, errors.New("malformed stat")
	}
	p.name = string(data[open+1 : end])
	f := strings.Fields(string(data[end+1:]))
	if len(f) < 22 {
		return p, errors.New("malformed stat")
	}
	num := func(i int) int { n, _ := strconv.Atoi(f[i-3]); return n } // numbered as in proc(5)
	p.state, p.ppid, p.pgid, p.sid, p.tty = f[0], num(4), num(5), num(6), num(7)
	p.cpu = time.Duration(num(14)+num(15)) * clockTick
	p.nice, p.threads = num(19), num(20)
	p.start = time.Duration(num(22)) * clockTick
	p.vsize, p.rss = int64(num(23)), int64(num(24))*int64(os.Getpagesize())
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil {
		p.uid = int(st.Uid)
	}
	cmd, _ := os.ReadFile(dir + "/cmdline")
	p.args = strings.TrimRight(strings.ReplaceAll(string(cmd), "\x00", " "), " ")
	if p.args == "" {
		p.args = "[" + p.name + "]"
	}
	return p, nil
}

func processes() []process {
	es, _ := os.ReadDir("/proc")
	var list []process
	for _, e := range es {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if p, err := readProcess(pid); err == nil {
				list = append(list, p)
			}
		}
	}
	slices.SortFunc(list, func(a, b process) int { return a.pid - b.pid })
	return list
}

// procNumber reads "Name: 123 kB" lines.
func procNumber(text, name string) int64 {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			f := strings.Fields(v)
			if len(f) > 0 {
				n, _ := strconv.ParseInt(f[0], 10, 64)
				return n
			}
		}
	}
	return 0
}

func uptimeNow() time.Duration {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano())
}

func kill(c *command) {
	args := c.args
	sig := unix.SIGTERM
	var err error
	if len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && args[0] != "--" {
		opt := args[0]
		args = args[1:]
		switch {
		case opt == "-l" || opt == "-L":
			for n := 1; n < 32; n++ {
				fmt.Fprintf(c.out, "%2d) %s\n", n, unix.SignalName(syscall.Signal(n)))
			}
			return
		case opt == "-s" || opt == "-n":
			if len(args) > 0 {
				sig, err = parseSignal(args[0])
				args = args[1:]
			}
		default:
			sig, err = parseSignal(opt[1:])
		}
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if err != nil {
		c.errorf("%v", err)
		return
	}
	if len(args) == 0 {
		c.usage("[-s signal | -signal] pid …")
	}
	for _, a := range args {
		pid, err := strconv.Atoi(a)
		if err != nil {
			c.errorf("invalid pid '%s'", a)
			continue
		}
		if err := unix.Kill(pid, sig); err != nil {
			c.errorf("(%d): %v", pid, reason(err))
		}
	}
}

// pgrep is pgrep, pkill, pidof and killall.
func pgrep(c *command) {
	args := c.args
	sig := unix.SIGTERM
	if (c.name == "pkill" || c.name == "killall") && len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		if s, err := parseSignal(args[0][1:]); err == nil {
			sig = s
			c.args = args[1:]
		}
	}
	args, ok := c.parse("flaxnovqs:u:P:c", "full=f list-name=l list-full=a exact=x newest=n oldest=o signal=s parent=P count=c euid=u")
	if !ok {
		c.status = 2
		return
	}
	if v := c.opts.get('s', ""); v != "" && c.name != "pidof" {
		s, err := parseSignal(v)
		if err != nil {
			c.errorf("%v", err)
			c.status = 2
			return
		}
		sig = s
	}
	exact := c.name == "pidof" || c.name == "killall"
	if len(args) == 0 && !c.opts.has('P') && !c.opts.has('u') {
		c.usage("pattern")
		c.status = 2
		return
	}
	var rx *regexp.Regexp
	if !exact && len(args) > 0 {
		var err error
		expr := args[0]
		if c.opts.has('x') {
			expr = "^(" + expr + ")$"
		}
		if rx, err = compileRegex(expr, true, false); err != nil {
			c.errorf("%v", err)
			c.status = 2
			return
		}
	}
	var hits []process
	for _, p := range processes() {
		if p.pid == os.Getpid() {
			continue
		}
		text := p.name
		if c.opts.has('f') {
			text = p.args
		}
		argv0, _, _ := strings.Cut(p.args, " ")
		hit := rx == nil && !exact || rx != nil && rx.MatchString(text) ||
			exact && (slices.Contains(args, p.name) || slices.Contains(args, filepath.Base(argv0)))
		if v := c.opts.get('P', ""); v != "" && v != strconv.Itoa(p.ppid) {
			hit = false
		}
		if v := c.opts.get('u', ""); v != "" {
			if uid, err := userID(v); err != nil || uid != p.uid {
				hit = false
			}
		}
		if hit {
			hits = append(hits, p)
		}
	}
	if len(hits) > 1 && (c.opts.has('n') || c.opts.has('o')) {
		slices.SortStableFunc(hits, func(a, b process) int { return int(a.start - b.start) })
		if c.opts.has('n') {
			hits = hits[len(hits)-1:]
		} else {
			hits = hits[:1]
		}
	}
	if len(hits) == 0 {
		if c.name == "killall" {
			c.errorf("%s: no process found", strings.Join(args, " "))
		}
		c.status = 1
		return
	}
	switch c.name {
	case "pidof":
		var pids []string
		for _, p := range hits {
			pids = append([]string{strconv.Itoa(p.pid)}, pids...)
		}
		fmt.Fprintln(c.out, strings.Join(pids, " "))
	case "pgrep":
		if c.opts.has('c') {
			fmt.Fprintln(c.out, len(hits))
			return
		}
		for _, p := range hits {
			switch {
			case c.opts.has('a'):
				fmt.Fprintln(c.out, p.pid, p.args)
			case c.opts.has('l'):
				fmt.Fprintln(c.out, p.pid, p.name)
			default:
				fmt.Fprintln(c.out, p.pid)
			}
		}
	default:
		for _, p := range hits {
			if err := unix.Kill(p.pid, sig); err != nil {
				c.errorf("(%d): %v", p.pid, reason(err))
			}
		}
	}
}

func free(c *command) {
	_, ok := c.parse("bkmghtw", "bytes=b kibi=k mebi=m gibi=g human=h total=t wide=w")
	if !ok {
		return
	}
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		c.fail("/proc/meminfo", err)
		return
	}
	get := func(name string) int64 { return procNumber(string(data), name) }
	show := func(kb int64) string {
		switch c.opts.last("bkmgh") {
		case 'b':
			return strconv.FormatInt(kb<<10, 10)
		case 'm':
			return strconv.FormatInt(kb>>10, 10)
		case 'g':
			return strconv.FormatInt(kb>>20, 10)
		case 'h':
			return human(kb << 10)
		}
		return strconv.FormatInt(kb, 10)
	}
	total, freeMem, available := get("MemTotal"), get("MemFree"), get("MemAvailable")
	cache := get("Buffers") + get("Cached") + get("SReclaimable")
	swap, swapFree := get("SwapTotal"), get("SwapFree")
	fmt.Fprintf(c.out, "%7s%13s%12s%12s%12s%12s%12s\n", "", "total", "used", "free", "shared", "buff/cache", "available")
	fmt.Fprintf(c.out, "%-7s%13s%12s%12s%12s%12s%12s\n", "Mem:", show(total), show(total-available), show(freeMem), show(get("Shmem")), show(cache), show(available))
	fmt.Fprintf(c.out, "%-7s%13s%12s%12s\n", "Swap:", show(swap), show(swap-swapFree), show(swapFree))
	if c.opts.has('t') {
		fmt.Fprintf(c.out, "%-7s%13s%12s%12s\n", "Total:", show(total+swap), show(total-available+swap-swapFree), show(freeMem+swapFree))
	}
}

func uptime(c *command) {
	_, ok := c.parse("ps", "pretty=p since=s")
	if !ok {
		return
	}
	up := uptimeNow()
	days, hours, minutes := int(up.Hours())/24, int(up.Hours())%24, int(up.Minutes())%60
	switch {
	case c.opts.has('s'):
		fmt.Fprintln(c.out, time.Now().Add(-up).Format("2006-01-02 15:04:05"))
		return
	case c.opts.has('p'):
		fmt.Fprintf(c.out, "up %d days, %d hours, %d minutes\n", days, hours, minutes)
		return
	}
	text := fmt.Sprintf("%d:%02d", hours, minutes)
	if hours == 0 {
		text = fmt.Sprintf("%d min", minutes)
	}
	if days > 0 {
		text = fmt.Sprintf("%d days, %s", days, text)
	}
	load, _ := os.ReadFile("/proc/loadavg")
	f := strings.Fields(string(load))
	if len(f) > 3 {
		f = f[:3]
	}
	fmt.Fprintf(c.out, " %s up %s,  load average: %s\n", time.Now().Format("15:04:05"), text, strings.Join(f, ", "))
}

func nproc(c *command) {
	_, ok := c.parse("ai:", "all=a ignore=i")
	if !ok {
		return
	}
	n := 0
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err == nil {
		n = set.Count()
	}
	if c.opts.has('a') || n == 0 {
		if es, err := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*"); err == nil && len(es) > 0 {
			n = len(es)
		}
	}
	if v := c.opts.get('i', ""); v != "" {
		skip, err := strconv.Atoi(v)
		if err != nil {
			c.errorf("invalid number '%s'", v)
			return
		}
		n -= skip
	}
	fmt.Fprintln(c.out, max(1, n))
}
