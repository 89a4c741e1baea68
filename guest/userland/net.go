package userland

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ip shows addresses, links and routes; it changes nothing.
func ip(c *command) {
	args, ok := c.parse("+46abcdfhoprst", "brief=b oneline=o") // they change the form only
	if !ok {
		return
	}
	what := "addr"
	if len(args) > 0 {
		what = args[0]
	}
	if len(args) > 1 && args[1] != "show" && args[1] != "list" && args[1] != "s" && args[1] != "ls" {
		c.errorf("only 'show' is supported")
		return
	}
	switch {
	case strings.HasPrefix("address", what):
		c.interfaces(true)
	case strings.HasPrefix("link", what):
		c.interfaces(false)
	case strings.HasPrefix("route", what):
		c.routes()
	default:
		c.errorf("Object \"%s\" is unknown, try \"ip addr\", \"ip link\" or \"ip route\"", what)
	}
}

func (c *command) interfaces(addrs bool) {
	list, err := net.Interfaces()
	if err != nil {
		c.errorf("%v", reason(err))
		return
	}
	for _, i := range list {
		flags := strings.ToUpper(strings.ReplaceAll(i.Flags.String(), "|", ","))
		state := "DOWN"
		if i.Flags&net.FlagRunning != 0 {
			state = "UP"
		}
		fmt.Fprintf(c.out, "%d: %s: <%s> mtu %d state %s\n", i.Index, i.Name, flags, i.MTU, state)
		kind := "ether"
		if i.Flags&net.FlagLoopback != 0 {
			kind = "loopback"
		}
		mac := i.HardwareAddr.String()
		if mac == "" {
			mac = "00:00:00:00:00:00"
		}
		fmt.Fprintf(c.out, "    link/%s %s\n", kind, mac)
		if !addrs {
			continue
		}
		as, _ := i.Addrs()
		for _, a := range as {
			family := "inet6"
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
				family = "inet"
			}
			fmt.Fprintf(c.out, "    %s %s\n", family, a)
		}
	}
}

func (c *command) routes() {
	data, err := os.ReadFile("/proc/net/route")
	if err != nil {
		c.fail("/proc/net/route", err)
		return
	}
	address := func(hex string) net.IP {
		n, _ := strconv.ParseUint(hex, 16, 32)
		b := make(net.IP, 4)
		binary.NativeEndian.PutUint32(b, uint32(n))
		return b
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 8 || f[0] == "Iface" {
			continue
		}
		dst, via := address(f[1]), address(f[2])
		ones, _ := net.IPMask(address(f[7])).Size()
		text := fmt.Sprintf("%v/%d", dst, ones)
		if ones == 0 {
			text = "default"
		}
		if !via.Equal(net.IPv4zero) {
			text += " via " + via.String()
		}
		fmt.Fprintf(c.out, "%s dev %s\n", text, f[0])
	}
}

// netcat connects or listens on TCP, UDP or a Unix socket and copies.
func netcat(c *command) {
	args, ok := c.parse("lkp:uUvw:znN46s:q:", "listen=l udp=u verbose=v wait=w unixsock=U")
	if !ok {
		return
	}
	network := "tcp"
	switch {
	case c.opts.has('U'):
		network = "unix"
	case c.opts.has('u'):
		network = "udp"
	}
	var addr string
	switch {
	case network == "unix" && len(args) == 1:
		addr = args[0]
	case c.opts.has('l') && len(args) == 0:
		addr = net.JoinHostPort("", c.opts.get('p', ""))
	case c.opts.has('l') && len(args) == 1:
		addr = net.JoinHostPort("", args[0])
	case len(args) == 2:
		addr = net.JoinHostPort(args[0], args[1])
	default:
		c.usage("[-uvz] [-w seconds] host port | -l [-k] [-p] port | -U path")
		return
	}
	wait := time.Duration(0)
	if v := c.opts.get('w', ""); v != "" {
		d, err := duration(v)
		if err != nil {
			c.errorf("%v", err)
			return
		}
		wait = d
	}
	if c.opts.has('l') {
		if err := c.netListen(network, addr); err != nil {
			c.errorf("%v", err)
		}
		return
	}
	conn, err := net.DialTimeout(network, addr, wait)
	if err != nil {
		c.errorf("%v", err)
		return
	}
	defer conn.Close()
	if c.opts.has('v') {
		fmt.Fprintf(os.Stderr, "Connection to %s succeeded\n", addr)
	}
	if !c.opts.has('z') {
		c.netCopy(conn, wait)
	}
}

func (c *command) netListen(network, addr string) error {
	if network == "udp" {
		p, err := net.ListenPacket(network, addr)
		if err != nil {
			return err
		}
		buf := make([]byte, 64<<10)
		for {
			n, _, err := p.ReadFrom(buf)
			if err != nil {
				return err
			}
			os.Stdout.Write(buf[:n])
		}
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		return err
	}
	defer l.Close()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		c.netCopy(conn, 0)
		conn.Close()
		if !c.opts.has('k') {
			return nil
		}
	}
}

// netCopy copies both ways until the peer closes; the end of standard input
// closes our direction only.
func (c *command) netCopy(conn net.Conn, idle time.Duration) {
	go func() {
		io.Copy(conn, os.Stdin)
		if w, ok := conn.(interface{ CloseWrite() error }); ok {
			w.CloseWrite()
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		if idle > 0 {
			conn.SetReadDeadline(time.Now().Add(idle))
		}
		n, err := conn.Read(buf)
		if _, werr := os.Stdout.Write(buf[:n]); werr != nil {
			return
		}
		if err != nil {
			if err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, unix.ECONNRESET) {
				c.errorf("%v", err)
			}
			return
		}
	}
}
