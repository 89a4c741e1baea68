package userland

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

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
		how := unix.LINUX_REBOOT_CMD_POWER_OFF
		if c.name == "reboot" || c.opts.has('r') {
			how = unix.LINUX_REBOOT_CMD_RESTART
		}
		if err := unix.Reboot(how); err != nil {
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
