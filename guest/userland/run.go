package userland

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

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
