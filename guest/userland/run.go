package userland

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// execProgram replaces this process. It returns only on failure, with the
// status that POSIX gives: 127 not found, 126 not executable.
func (c *command) execProgram(args []string) {
	c.flush()
	environ := os.Environ()
	if os.Getenv("PATH") == "" { // what the C library searches then
		os.Setenv("PATH", "/bin:/usr/bin")
		defer os.Unsetenv("PATH")
	}
	path, err := exec.LookPath(args[0])
	if err == nil || errors.Is(err, exec.ErrDot) {
		err = unix.Exec(path, args, environ)
	}
	c.startFailed(args[0], err)
}

func (c *command) startFailed(name string, err error) {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, unix.ENOENT) {
		c.errorf("'%s': No such file or directory", name)
		c.status = 127
		return
	}
	c.errorf("'%s': %v", name, reason(err))
	c.status = 126
}

// exitCode is what a shell shows for a command that ended.
func exitCode(err error) int {
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		if ws, ok := ee.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal())
		}
		return ee.ExitCode()
	}
	return 0
}

func env(c *command) {
	args, ok := c.parse("+iu:0C:S:", "ignore-environment=i unset=u null=0 chdir=C split-string=S")
	if !ok {
		c.status = 125
		return
	}
	if s := c.opts.get('S', ""); s != "" {
		args = append(strings.Fields(s), args...)
	}
	if c.opts.has('i') || len(args) > 0 && args[0] == "-" {
		os.Clearenv()
		if len(args) > 0 && args[0] == "-" {
			args = args[1:]
		}
	}
	for _, n := range c.opts.values['u'] {
		os.Unsetenv(n)
	}
	for len(args) > 0 && strings.Contains(args[0], "=") {
		k, v, _ := strings.Cut(args[0], "=")
		os.Setenv(k, v)
		args = args[1:]
	}
	if d := c.opts.get('C', ""); d != "" {
		if err := os.Chdir(d); err != nil {
			c.fail(d, err)
			c.status = 125
			return
		}
	}
	if len(args) > 0 {
		c.execProgram(args)
		return
	}
	end := "\n"
	if c.opts.has('0') {
		end = "\x00"
	}
	for _, kv := range os.Environ() {
		c.out.WriteString(kv + end)
	}
}

func printenv(c *command) {
	args, ok := c.parse("0", "null=0")
	if !ok {
		return
	}
	if len(args) == 0 {
		for _, kv := range os.Environ() {
			fmt.Fprintln(c.out, kv)
		}
	}
	for _, a := range args {
		if v, ok := os.LookupEnv(a); ok {
			fmt.Fprintln(c.out, v)
		} else {
			c.status = 1
		}
	}
}

// duration parses sleep's and timeout's numbers with s, m, h or d.
func duration(v string) (time.Duration, error) {
	unit := time.Second
	if v != "" {
		switch v[len(v)-1] {
		case 's':
			v = v[:len(v)-1]
		case 'm':
			unit, v = time.Minute, v[:len(v)-1]
		case 'h':
			unit, v = time.Hour, v[:len(v)-1]
		case 'd':
			unit, v = 24*time.Hour, v[:len(v)-1]
		}
	}
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || f < 0 || f != f {
		return 0, fmt.Errorf("invalid time interval '%s'", v)
	}
	if f *= float64(unit); f > float64(1<<62) {
		return 1 << 62, nil
	}
	return time.Duration(f), nil
}

func sleep(c *command) {
	args, ok := c.parse("+", "")
	if !ok {
		return
	}
	if len(args) == 0 {
		c.errorf("missing operand")
		return
	}
	var total time.Duration
	for _, a := range args {
		d := time.Duration(1 << 62)
		if a != "infinity" && a != "inf" {
			var err error
			if d, err = duration(a); err != nil {
				c.errorf("%v", err)
				return
			}
		}
		if total += d; total < 0 {
			total = 1 << 62
		}
	}
	time.Sleep(total)
}

func timeout(c *command) {
	args, ok := c.parse("+s:k:pfv", "signal=s kill-after=k preserve-status=p foreground=f verbose=v")
	if !ok || len(args) < 2 {
		if ok {
			c.usage("[-s signal] [-k duration] duration command [arg …]")
		}
		c.status = 125
		return
	}
	sig, err := parseSignal(c.opts.get('s', "TERM"))
	var limit, grace time.Duration
	if err == nil {
		limit, err = duration(args[0])
	}
	if err == nil {
		grace, err = duration(c.opts.get('k', "0"))
	}
	if err != nil {
		c.errorf("%v", err)
		c.status = 125
		return
	}
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if !c.opts.has('f') {
		// A group of our own: the signal reaches what the command started.
		unix.Setpgid(0, 0)
	}
	sigs := make(chan os.Signal, 8)
	signal.Notify(sigs, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGTTIN, unix.SIGTTOU)
	if err := cmd.Start(); err != nil {
		c.startFailed(args[1], err)
		return
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var expire, kill <-chan time.Time
	if limit > 0 {
		expire = time.After(limit)
	}
	send := func(s syscall.Signal) {
		cmd.Process.Signal(s)
		if !c.opts.has('f') {
			signal.Ignore(s)
			unix.Kill(0, s)
		}
		cmd.Process.Signal(unix.SIGCONT)
	}
	expired := false
	for {
		select {
		case err := <-done:
			if c.status = exitCode(err); expired && !c.opts.has('p') && c.status != 137 {
				c.status = 124
			}
			return
		case <-expire:
			expired = true
			send(sig)
			if grace > 0 {
				kill = time.After(grace)
			}
			if sig == unix.SIGKILL {
				c.status = 137
			}
		case <-kill:
			cmd.Process.Kill()
		case s := <-sigs:
			if n, ok := s.(syscall.Signal); ok {
				cmd.Process.Signal(n)
			}
		}
	}
}

func parseSignal(v string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(v); err == nil && n >= 0 && n < 65 {
		return syscall.Signal(n), nil
	}
	if s := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(v), "SIG")); s != 0 {
		return s, nil
	}
	return 0, fmt.Errorf("invalid signal '%s'", v)
}

func nohup(c *command) {
	if len(c.args) == 0 {
		c.usage("command [arg …]")
		c.status = 125
		return
	}
	tty := func(f *os.File) bool {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		return err == nil
	}
	if tty(os.Stdin) {
		if null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0); err == nil {
			unix.Dup2(int(null.Fd()), 0)
		}
	}
	if tty(os.Stdout) {
		out, err := os.OpenFile("nohup.out", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			out, err = os.OpenFile(filepath.Join(os.Getenv("HOME"), "nohup.out"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		}
		if err != nil {
			c.fail("nohup.out", err)
			c.status = 125
			return
		}
		fmt.Fprintf(os.Stderr, "nohup: appending output to '%s'\n", out.Name())
		unix.Dup2(int(out.Fd()), 1)
	}
	if tty(os.Stderr) {
		unix.Dup2(1, 2)
	}
	signal.Ignore(unix.SIGHUP)
	c.execProgram(c.args)
}

func nice(c *command) {
	c.args = numericOption(c.args)
	args, ok := c.parse("+n:", "adjustment=n")
	if !ok {
		c.status = 125
		return
	}
	n, err := strconv.Atoi(c.opts.get('n', "10"))
	if err != nil {
		c.errorf("invalid adjustment")
		c.status = 125
		return
	}
	now, _ := unix.Getpriority(unix.PRIO_PROCESS, 0)
	now = 20 - now // the raw system call counts from 40 to 1
	if len(args) == 0 {
		fmt.Fprintln(c.out, now)
		return
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, now+n); err != nil {
		c.errorf("cannot set niceness: %v", reason(err))
	}
	c.status = 0
	c.execProgram(args)
}

func setsid(c *command) {
	args, ok := c.parse("+cfw", "ctty=c fork=f wait=w")
	if !ok || len(args) == 0 {
		c.status = 1
		return
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: c.opts.has('c')}
	if unix.Getpgrp() != unix.Getpid() && !c.opts.has('f') {
		if _, err := unix.Setsid(); err == nil {
			if c.opts.has('c') {
				unix.IoctlSetInt(0, unix.TIOCSCTTY, 1)
			}
			c.execProgram(args)
			return
		}
	}
	err := cmd.Start()
	if err == nil && c.opts.has('w') {
		c.status = exitCode(cmd.Wait())
	} else if err != nil {
		c.startFailed(args[0], err)
	}
}

func chroot(c *command) {
	args, ok := c.parse("+u:", "userspec=u")
	if !ok || len(args) == 0 {
		c.usage("[--userspec=user[:group]] directory [command [arg …]]")
		c.status = 125
		return
	}
	err := unix.Chroot(args[0])
	if err == nil {
		err = unix.Chdir("/")
	}
	if err != nil {
		c.errorf("cannot change root directory to '%s': %v", args[0], reason(err))
		c.status = 125
		return
	}
	if spec := c.opts.get('u', ""); spec != "" {
		user, group, _ := strings.Cut(spec, ":")
		uid, err := userID(user)
		gid := primaryGroup(uid)
		if err == nil && group != "" {
			gid, err = groupID(group)
		}
		if err == nil {
			err = errors.Join(unix.Setgroups(nil), unix.Setgid(max(gid, 0)), unix.Setuid(uid))
		}
		if err != nil {
			c.errorf("cannot become '%s': %v", spec, reason(err))
			c.status = 125
			return
		}
	}
	args = args[1:]
	if len(args) == 0 {
		args = []string{"/bin/sh", "-i"}
	}
	c.execProgram(args)
}

func timeCmd(c *command) {
	args, ok := c.parse("+pv", "portability=p verbose=v")
	if !ok || len(args) == 0 {
		return
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGQUIT) // the command's business
	start := time.Now()
	if err := cmd.Start(); err != nil {
		c.startFailed(args[0], err)
		return
	}
	c.status = exitCode(cmd.Wait())
	ps := cmd.ProcessState
	fmt.Fprintf(os.Stderr, "real %.2f\nuser %.2f\nsys %.2f\n", time.Since(start).Seconds(), ps.UserTime().Seconds(), ps.SystemTime().Seconds())
	if ru, ok := ps.SysUsage().(*syscall.Rusage); ok && c.opts.has('v') {
		fmt.Fprintf(os.Stderr, "maxrss %d kB\n", ru.Maxrss)
	}
}

func watch(c *command) {
	args, ok := c.parse("+n:tx", "interval=n no-title=t exec=x")
	if !ok || len(args) == 0 {
		return
	}
	d, err := duration(c.opts.get('n', "2"))
	if err != nil {
		c.errorf("%v", err)
		return
	}
	line := strings.Join(args, " ")
	for {
		fmt.Fprint(os.Stdout, "\x1b[H\x1b[2J")
		if !c.opts.has('t') {
			fmt.Printf("Every %v: %s    %s\n\n", d, line, time.Now().Format(time.ANSIC))
		}
		runCommand(c, "", []string{"/bin/sh", "-c", line})
		time.Sleep(max(d, 100*time.Millisecond))
	}
}

func which(c *command) {
	args, ok := c.parse("a", "all=a")
	if !ok {
		return
	}
	for _, a := range args {
		found := false
		dirs := strings.Split(os.Getenv("PATH"), ":")
		if strings.Contains(a, "/") {
			dirs = []string{""}
		}
		for _, d := range dirs {
			p := filepath.Join(d, a)
			if strings.Contains(a, "/") {
				p = a
			}
			if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && unix.Access(p, unix.X_OK) == nil {
				fmt.Fprintln(c.out, p)
				found = true
				if !c.opts.has('a') {
					break
				}
			}
		}
		if !found {
			c.status = 1
		}
	}
}

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
