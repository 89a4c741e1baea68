package userland

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

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
