package rig

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/rig/wire"
)

// warmDir returns the directory of the warm rig's socket, lock and log. It is
// the user's alone: whoever can connect can read the user's files.
func warmDir(create bool) (string, error) {
	dir := filepath.Join("/tmp", "kvmrig-"+strconv.Itoa(os.Getuid()))
	if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" {
		dir = filepath.Join(run, "kvmrig")
	}
	if create {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return "", &Error{Op: "warm rig's directory", Err: err}
		}
	}
	// Lstat: in /tmp anyone could have made a link of that name first.
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); errors.Is(err, os.ErrNotExist) {
		return "", ErrNotWarm
	} else if err != nil {
		return "", &Error{Op: "warm rig's directory", Err: err}
	}
	if st.Mode&^unix.S_ISGID != unix.S_IFDIR|0o700 || int(st.Uid) != os.Getuid() {
		return "", &Error{Op: "warm rig's directory", Err: fmt.Errorf("%s must be a directory of mode 0700 that belongs to you", dir)}
	}
	return dir, nil
}

// The files in warmDir.
const (
	warmSocket = "warm.sock"
	warmLock   = "warm.lock"
	warmLog    = "warm.log"
)

// dialWarm connects to the warm rig if there is one that serves c.
func dialWarm(c Config) (*wire.Conn, wire.Status, error) {
	var status wire.Status
	dir, err := warmDir(false)
	if err != nil {
		return nil, status, err
	}
	nc, err := net.DialTimeout("unix", filepath.Join(dir, warmSocket), 2*time.Second)
	if err != nil {
		return nil, status, ErrNotWarm
	}
	conn := wire.NewConn(nc)
	fail := func(err error) (*wire.Conn, wire.Status, error) {
		_ = conn.Close()
		return nil, status, &Error{Op: "warm rig", Err: err}
	}
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
	if err := conn.SendJSON(wire.KindHello, 0, wire.Hello{Version: wire.Version}); err != nil {
		return fail(err)
	}
	f, err := conn.Receive()
	if err != nil {
		return fail(err)
	}
	if err := f.JSON(&status); err != nil {
		return fail(err)
	}
	_ = nc.SetDeadline(time.Time{})
	if err := c.fits(status); err != nil {
		return fail(err)
	}
	return conn, status, nil
}

// fits tells whether a warm rig can do what c asks for.
func (c Config) fits(s wire.Status) error {
	switch {
	case s.Version != wire.Version:
		return fmt.Errorf("it speaks version %d of the protocol, not %d", s.Version, wire.Version)
	case c.asked.CPUs != 0 && c.asked.CPUs != s.CPUs:
		return fmt.Errorf("it has %d processors, not %d", s.CPUs, c.asked.CPUs)
	case c.asked.Memory != 0 && c.asked.Memory != s.Memory:
		return fmt.Errorf("it has %d MiB, not %d", s.Memory, c.asked.Memory)
	case c.asked.Kernel != "" && c.asked.Kernel != s.Kernel:
		return fmt.Errorf("its kernel is %q, not %q", s.Kernel, c.asked.Kernel)
	case c.asked.Append != "":
		return errors.New("its kernel's command line is fixed")
	}
	for _, p := range c.Shares {
		if !slices.ContainsFunc(s.Shares, func(q string) bool { return p == q || strings.HasPrefix(p, q+"/") }) {
			return fmt.Errorf("it does not share %s", p)
		}
	}
	return nil
}

// WarmStart starts a warm rig in the background and returns when it is up.
func WarmStart(c Config, out io.Writer) error {
	c, err := c.validate()
	if err != nil {
		return err
	}
	if conn, s, err := dialWarm(Config{}); err == nil {
		_ = conn.Close()
		if err := c.fits(s); err != nil {
			return &Error{Op: "warm start", Err: fmt.Errorf("one is running already, and %w; kvmrig --warm stop ends it", err)}
		}
		return WarmStatus(out)
	}
	dir, err := warmDir(true)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dir, warmLog), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return &Error{Op: "warm rig's log", Err: err}
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", c.warmArgs()...)
	cmd.Args[0] = "kvmrig"
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{w}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return &Error{Op: "warm start", Err: err}
	}
	// The server writes "up" when it serves, or closes the pipe by ending.
	answer, _ := io.ReadAll(io.LimitReader(r, 2))
	if string(answer) != "up" {
		_ = cmd.Wait()
		text, _ := os.ReadFile(log.Name())
		return &Error{Op: "warm start", Err: errors.New(strings.TrimPrefix(strings.TrimSpace(string(text)), "kvmrig: "))}
	}
	_ = cmd.Process.Release()
	return WarmStatus(out)
}

// warmArgs returns the arguments of the server process.
func (c Config) warmArgs() []string {
	args := []string{"--warm", "serve", "--cpus", strconv.Itoa(c.CPUs), "--memory", strconv.Itoa(c.Memory), "--idle", c.Idle.String()}
	for flag, v := range map[string]string{"--kernel": c.Kernel, "--qemu": c.QEMU, "--append": c.Append} {
		if v != "" {
			args = append(args, flag, v)
		}
	}
	for _, s := range c.Shares {
		args = append(args, "--share", s)
	}
	return args
}

// WarmStatus describes the warm rig.
func WarmStatus(out io.Writer) error {
	conn, s, err := dialWarm(Config{})
	if err != nil {
		return err
	}
	_ = conn.Close()
	fmt.Fprintf(out, "warm rig: process %d, %d processors, %d MiB, up %v, ends after %v unused\n",
		s.PID, s.CPUs, s.Memory, time.Duration(s.Uptime).Round(time.Second), time.Duration(s.Idle))
	fmt.Fprintf(out, "commands: %d running, %d so far\n", s.Running, s.Commands)
	for _, p := range s.Shares {
		fmt.Fprintf(out, "share: %s\n", p)
	}
	return nil
}

// WarmStop ends the warm rig and what runs in it, and returns when it is gone.
func WarmStop() error {
	conn, _, err := dialWarm(Config{})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Send(wire.Frame{Kind: wire.KindStop}); err != nil {
		return err
	}
	// The server closes the connection as its last act.
	if _, err := conn.Receive(); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		return &Error{Op: "warm stop", Err: err}
	}
	return nil
}
