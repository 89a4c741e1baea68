package l1

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// PortName is the name of the virtio-console port that leads to the host.
const PortName = "kvmrig"

// port is the virtio-console port. Its reads and writes block a thread each:
// both are always in use, and the poller would only add a wake-up.
type port struct {
	fd      int
	greeted atomic.Bool // the host has sent something
}

// openPort waits for the port, which the device announces after its probe.
func openPort() (*port, error) {
	deadline := time.Now().Add(10 * time.Second)
	for {
		if name := findPort(); name != "" {
			fd, err := unix.Open("/dev/"+name, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err == nil {
				return &port{fd: fd}, nil
			}
			if !errors.Is(err, unix.ENOENT) {
				return nil, fmt.Errorf("open the port: %w", err)
			}
		}
		if time.Now().After(deadline) {
			return nil, errors.New("no virtio-console port named " + PortName)
		}
		time.Sleep(time.Millisecond)
	}
}

func findPort() string {
	const class = "/sys/class/virtio-ports"
	dirs, _ := os.ReadDir(class)
	for _, d := range dirs {
		b, _ := os.ReadFile(class + "/" + d.Name() + "/name")
		if strings.TrimSpace(string(b)) == PortName {
			return d.Name()
		}
	}
	return ""
}

// Read reads from the port. Until the device has told that the host's side is
// open, the driver reports the end of the file.
func (p *port) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(p.fd, b)
		switch {
		case n > 0:
			p.greeted.Store(true)
			return n, nil
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case p.greeted.Load():
			return 0, io.EOF
		default:
			time.Sleep(time.Millisecond)
		}
	}
}

func (p *port) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := unix.Write(p.fd, b[done:])
		if err != nil && !errors.Is(err, unix.EINTR) {
			return done, err
		}
		done += max(n, 0)
	}
	return done, nil
}

func (p *port) Close() error { return unix.Close(p.fd) }
