package l1

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/rig/wire"
)

// Main is process 1 of L1. It does not return: L1 resets, which ends QEMU.
func Main() {
	err := run()
	if err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintf(os.Stdout, "kvmrig: L1: %v\n", err)
	}
	unix.Sync()
	// The reset is asynchronous in principle, and process 1 must not exit.
	for {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
		time.Sleep(time.Second)
	}
}

// run boots user space and serves until the host closes the port.
func run() error {
	var ready wire.Ready
	ready.Version = wire.Version
	ready.Init = monotonic()
	if err := mountEarly(); err != nil {
		return err
	}
	// The 9p root is slow to mount: meanwhile the port is opened. The
	// loopback takes its time too, and needs nothing.
	root := make(chan error, 1)
	go func() { root <- mountRoot() }()
	loopback := make(chan error, 1)
	go func() { loopback <- loopbackUp() }()
	port, err := openPort()
	if err != nil {
		return errors.Join(err, <-root)
	}
	conn := wire.NewConn(port)
	hello, err := readHello(conn)
	ready.Port = monotonic()
	if err := errors.Join(err, <-root); err != nil {
		return err
	}
	ready.Root = monotonic()
	setClock(hello.UnixNano)
	if err := errors.Join(enterRoot(hello), <-loopback, steadyMemory()); err != nil {
		return err
	}
	ready.Ready = monotonic()
	if err := conn.SendJSON(wire.KindReady, 0, ready); err != nil {
		return err
	}
	return newServer(conn, len(hello.Shares) > 0).serve()
}

func readHello(c *wire.Conn) (wire.Hello, error) {
	var h wire.Hello
	f, err := c.Receive()
	if err != nil {
		return h, err
	}
	if f.Kind != wire.KindHello {
		return h, fmt.Errorf("the host's first frame is of kind %d", f.Kind)
	}
	if err := f.JSON(&h); err != nil {
		return h, err
	}
	if h.Version != wire.Version {
		return h, fmt.Errorf("protocol version %d, want %d", h.Version, wire.Version)
	}
	return h, nil
}

// monotonic returns the nanoseconds since L1's kernel started.
func monotonic() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return t.Nano()
}

// setClock sets the wall clock, unless it is right already: a step disturbs
// whatever else runs in a warm rig.
func setClock(unixNano int64) {
	if unixNano == 0 {
		return
	}
	if d := time.Until(time.Unix(0, unixNano)); d.Abs() < 20*time.Millisecond {
		return
	}
	t := unix.NsecToTimespec(unixNano)
	_ = unix.ClockSettime(unix.CLOCK_REALTIME, &t)
}
