package userland

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func ttyName(dev int) string {
	major, minor := unix.Major(uint64(dev)), unix.Minor(uint64(dev))
	switch {
	case dev == 0:
		return "?"
	case major >= 136 && major <= 143:
		return fmt.Sprintf("pts/%d", (major-136)*256+minor)
	case major == 4 && minor >= 64:
		return fmt.Sprintf("ttyS%d", minor-64)
	case major == 4:
		return fmt.Sprintf("tty%d", minor)
	case major == 229:
		return fmt.Sprintf("hvc%d", minor)
	}
	return "?"
}

func ps(c *command) {
	if len(c.args) > 0 && c.args[0] != "" && c.args[0][0] != '-' { // BSD style: ps aux
		c.args[0] = "-" + c.args[0]
	}
	bsd := len(c.args) > 0 && strings.Contains(c.args[0], "u")
	args, ok := c.parse("AaefFlwxuo:p:C:U:", "pid=p format=o")
	if !ok {
		return
	}
	c.opts.values['p'] = append(c.opts.values['p'], args...) // ps -p 1 2
	cols := []string{"pid", "tty", "time", "comm"}
	switch {
	case c.opts.has('o'):
		cols = nil
		for _, v := range c.opts.values['o'] {
			cols = append(cols, strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' })...)
		}
	case bsd:
		cols = []string{"user", "pid", "%cpu", "%mem", "vsz", "rss", "tty", "stat", "start", "time", "args"}
	case c.opts.has('f') || c.opts.has('F') || c.opts.has('l'):
		cols = []string{"user", "pid", "ppid", "c", "start", "tty", "time", "args"}
	case !c.opts.has('e') && !c.opts.has('A'):
		cols = []string{"pid", "user", "tty", "time", "args"}
	}
	var pids []string
	for _, v := range c.opts.values['p'] {
		pids = append(pids, strings.Split(v, ",")...)
	}
	uptime := uptimeNow()
	var mem string
	if data, err := os.ReadFile("/proc/meminfo"); err == nil {
		mem = string(data)
	}
	total := max(1, procNumber(mem, "MemTotal")*1024)
	list := processes()
	list = slices.DeleteFunc(list, func(p process) bool {
		return len(pids) > 0 && !slices.Contains(pids, strconv.Itoa(p.pid)) || c.opts.has('C') && p.name != c.opts.get('C', "")
	})
	if len(pids) > 0 && len(list) == 0 {
		c.status = 1
	}
	rows := [][]string{{}}
	header := false
	for i, col := range cols {
		name, title, custom := strings.Cut(col, "=")
		if !custom {
			title = psTitle(name)
		}
		cols[i] = name
		header = header || title != ""
		rows[0] = append(rows[0], title)
	}
	for _, p := range list {
		var row []string
		for _, col := range cols {
			row = append(row, p.column(col, uptime, total))
		}
		rows = append(rows, row)
	}
	if !header {
		rows = rows[1:]
	}
	c.table(rows, func(i int) bool { return psNumeric(cols[i]) })
}

// table prints rows in columns, the last unpadded.
func (c *command) table(rows [][]string, right func(col int) bool) {
	var width []int
	for _, r := range rows {
		for i, cell := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], len(cell))
		}
	}
	for _, r := range rows {
		for i, cell := range r {
			if i > 0 {
				c.out.WriteByte(' ')
			}
			switch {
			case right(i):
				fmt.Fprintf(c.out, "%*s", width[i], cell)
			case i == len(r)-1:
				c.out.WriteString(cell)
			default:
				fmt.Fprintf(c.out, "%-*s", width[i], cell)
			}
		}
		c.out.WriteByte('\n')
	}
}

func psTitle(col string) string {
	switch col {
	case "args", "cmd", "command":
		return "COMMAND"
	case "comm", "ucmd":
		return "COMMAND"
	case "pcpu":
		return "%CPU"
	case "pmem":
		return "%MEM"
	case "state", "s":
		return "S"
	case "tt", "tty":
		return "TTY"
	}
	return strings.ToUpper(col)
}

func psNumeric(col string) bool {
	switch col {
	case "pid", "ppid", "pgid", "sid", "vsz", "rss", "%cpu", "pcpu", "%mem", "pmem", "nlwp", "ni", "nice", "c", "uid", "time", "etime", "etimes":
		return true
	}
	return false
}

func (p process) column(col string, uptime time.Duration, memory int64) string {
	age := max(uptime-p.start, clockTick)
	switch col {
	case "pid":
		return strconv.Itoa(p.pid)
	case "ppid":
		return strconv.Itoa(p.ppid)
	case "pgid", "pgrp":
		return strconv.Itoa(p.pgid)
	case "sid", "sess":
		return strconv.Itoa(p.sid)
	case "uid", "euid":
		return strconv.Itoa(p.uid)
	case "user", "euser", "uname":
		return userName(p.uid)
	case "tty", "tt":
		return ttyName(p.tty)
	case "time", "cputime":
		s := int(p.cpu.Seconds())
		return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
	case "etime":
		s := int(age.Seconds())
		if s >= 3600 {
			return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
		}
		return fmt.Sprintf("%02d:%02d", s/60, s%60)
	case "etimes":
		return strconv.Itoa(int(age.Seconds()))
	case "start", "stime", "lstart":
		return time.Now().Add(-age).Format("15:04")
	case "comm", "ucmd":
		return p.name
	case "args", "cmd", "command":
		return p.args
	case "stat", "state", "s":
		return p.state
	case "vsz":
		return strconv.FormatInt(p.vsize>>10, 10)
	case "rss":
		return strconv.FormatInt(p.rss>>10, 10)
	case "%cpu", "pcpu", "c":
		v := float64(p.cpu) * 100 / float64(age)
		if col == "c" {
			return strconv.Itoa(int(v))
		}
		return strconv.FormatFloat(v, 'f', 1, 64)
	case "%mem", "pmem":
		return strconv.FormatFloat(float64(p.rss)*100/float64(memory), 'f', 1, 64)
	case "ni", "nice":
		return strconv.Itoa(p.nice)
	case "nlwp", "thcount":
		return strconv.Itoa(p.threads)
	}
	return "-"
}
