package rig

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sandpit-vm/sandpit/internal/rig/wire"
)

// greet exchanges Hello and Ready.
func (m *machine) greet(c Config, cancel <-chan struct{}) (wire.Ready, error) {
	var ready wire.Ready
	host, _ := os.Hostname()
	hello := wire.Hello{Version: wire.Version, UnixNano: time.Now().UnixNano(), Hostname: strings.TrimSuffix("l1-"+host, "-")}
	hello.Hostname = hello.Hostname[:min(len(hello.Hostname), 64)]
	for i, s := range c.Shares {
		hello.Shares = append(hello.Shares, wire.Share{Tag: shareTag(i), Path: []byte(s)})
	}
	type answer struct {
		ready wire.Ready
		err   error
	}
	answered := make(chan answer, 1)
	m.wg.Go(func() {
		var a answer
		a.err = m.conn.SendJSON(wire.KindHello, 0, hello)
		if a.err == nil {
			var f wire.Frame
			if f, a.err = m.conn.Receive(); a.err == nil {
				a.err = f.JSON(&a.ready)
			}
		}
		answered <- a
	})
	timeout := time.NewTimer(bootTimeout)
	defer timeout.Stop()
	select {
	case a := <-answered:
		if a.err != nil {
			return ready, m.diagnose(a.err)
		}
		if a.ready.Version != wire.Version {
			return ready, &Error{Op: "boot L1", Err: fmt.Errorf("%w: version %d", wire.ErrProtocol, a.ready.Version)}
		}
		return a.ready, nil
	case <-m.done:
		return ready, m.diagnose(m.err)
	case <-cancel:
		return ready, &Error{Op: "boot L1", Err: errCancelled}
	case <-timeout.C:
		return ready, m.describe("boot L1", fmt.Errorf("%w in %v", ErrBootTimeout, bootTimeout))
	}
}

// diagnose explains why the connection to L1 broke.
func (m *machine) diagnose(cause error) error {
	select {
	case <-m.done:
	case <-time.After(5 * time.Second):
		return m.describe("talk to L1", cause)
	}
	switch {
	case m.console.contains("Kernel panic"):
		return m.describe("run L1", fmt.Errorf("%w (QEMU's emulation of nested virtualization fails now and then with several processors; --cpus 1 avoids it)", ErrPanic))
	case m.stderr.contains("annot allocate memory") || m.stderr.contains("annot set up guest memory"):
		return m.describe("start L1", fmt.Errorf("%w; try a smaller --memory", ErrNoMemory))
	case m.err != nil:
		return m.describe("run L1", fmt.Errorf("%w: QEMU: %w", ErrDied, m.err))
	}
	return m.describe("run L1", ErrDied)
}

// describe adds QEMU's messages and the console's last lines to an error.
func (m *machine) describe(op string, err error) error {
	if s := m.stderr.String(); s != "" {
		err = fmt.Errorf("%w\nQEMU said:\n%s", err, s)
	}
	if s := m.console.String(); s != "" {
		err = fmt.Errorf("%w\nL1's console ends with:\n%s", err, s)
	}
	return &Error{Op: op, Err: err}
}

// kill ends QEMU and joins the machine's goroutines. L1 has nothing to save:
// what a command wrote to a share was flushed before its status was sent.
func (m *machine) kill() {
	m.mu.Lock()
	if m.proc != nil && !m.gone {
		_ = m.proc.Kill()
	}
	m.mu.Unlock()
	_ = m.conn.Close()
	m.wg.Wait()
}
