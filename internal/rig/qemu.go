package rig

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/rig/l1"
	"github.com/sandpit-vm/sandpit/internal/rig/wire"
)

const (
	qemuName    = "qemu-system-x86_64"
	bootTimeout = 60 * time.Second
)

// machine is a running L1.
type machine struct {
	conn    *wire.Conn
	console *tail // L1's serial console
	stderr  *tail // QEMU's own messages

	mu   sync.Mutex // guards proc and gone
	proc *os.Process
	gone bool

	done chan struct{} // closed when QEMU has ended and was waited for
	err  error         // its status; read after done
	wg   sync.WaitGroup
}

// The descriptors that QEMU inherits, by number.
const (
	fdPort = 3 + iota
	fdConsole
	fdInitramfs
	fdKernel
)

// qemuArgs returns QEMU's command line.
func qemuArgs(c Config, khz uint32) []string {
	args := []string{
		"-name", "kvmrig",
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		// No ACPI: our kernel has none. The PIC and PIT are what it then boots by.
		"-M", "microvm,acpi=off,pit=on,pic=on,rtc=on,isa-serial=on",
		"-accel", "tcg,thread=multi", "-cpu", "max",
		"-smp", strconv.Itoa(c.CPUs), "-m", strconv.Itoa(c.Memory),
		"-global", "virtio-mmio.force-legacy=false",
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", fdConsole), "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=port,fd=%d", fdPort),
		"-device", "virtio-serial-device", "-device", "virtserialport,chardev=port,name=" + l1.PortName,
		"-fsdev", "local,id=host,path=/,security_model=none,multidevs=remap,readonly=on",
		"-device", "virtio-9p-device,fsdev=host,mount_tag=host",
	}
	for i, s := range c.Shares {
		id := shareTag(i)
		args = append(args,
			"-fsdev", "local,id="+id+",security_model=none,multidevs=remap,path="+strings.ReplaceAll(s, ",", ",,"),
			"-device", "virtio-9p-device,fsdev="+id+",mount_tag="+id)
	}
	return append(args,
		"-kernel", fmt.Sprintf("/proc/self/fd/%d", fdKernel),
		"-initrd", fmt.Sprintf("/proc/self/fd/%d", fdInitramfs),
		"-append", strings.TrimSpace(kernelArgs(khz)+" "+c.Append))
}

func shareTag(i int) string { return "share" + strconv.Itoa(i) }

// kernelArgs returns L1's kernel command line. A panic resets at once, by
// triple fault, and with -no-reboot a reset ends QEMU.
func kernelArgs(khz uint32) string {
	return fmt.Sprintf("tsc_early_khz=%d tsc=reliable no_timer_check console=ttyS0 quiet panic=-1 reboot=t mitigations=off random.trust_cpu=on", khz)
}

// boot starts L1 and returns when it is ready for commands, or when cancel is
// closed.
func boot(c Config, cancel <-chan struct{}) (*machine, wire.Ready, error) {
	khz := make(chan uint32, 1)
	go func() { khz <- tscKHz() }()
	m, err := start(c, khz)
	if err != nil {
		return nil, wire.Ready{}, err
	}
	ready, err := m.greet(c, cancel)
	if err != nil {
		m.kill()
		return nil, wire.Ready{}, err
	}
	return m, ready, nil
}

// start starts QEMU.
func start(c Config, khz <-chan uint32) (*machine, error) {
	path := c.QEMU
	if path == "" {
		path = qemuName
	}
	path, err := exec.LookPath(path)
	if err != nil {
		return nil, &Error{Op: "emulate", Err: fmt.Errorf("%w (%w); on Debian: apt-get install qemu-system-x86", ErrNoQEMU, err)}
	}
	kernel, err := openKernel(c.Kernel)
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	initrd, err := initramfs()
	if err != nil {
		return nil, err
	}
	defer initrd.Close()
	port, portQEMU, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer portQEMU.Close()
	console, consoleQEMU, err := socketPair()
	if err != nil {
		return nil, errors.Join(err, port.Close())
	}
	defer consoleQEMU.Close()

	m := &machine{conn: wire.NewConn(port), console: &tail{}, stderr: &tail{}, done: make(chan struct{})}
	if c.Verbose {
		m.console.also = os.Stderr
	}
	cmd := exec.Command(path, qemuArgs(c, <-khz)...)
	cmd.ExtraFiles = []*os.File{fdPort - 3: portQEMU, fdConsole - 3: consoleQEMU, fdInitramfs - 3: initrd, fdKernel - 3: kernel}
	cmd.Stdout, cmd.Stderr = m.stderr, m.stderr
	// Its own process group: a terminal's Ctrl-C is the command's, not QEMU's.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	started := make(chan error, 1)
	m.wg.Go(func() {
		// The death signal comes when the thread that forked ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			m.mu.Lock()
			m.proc = cmd.Process
			m.mu.Unlock()
		}
		started <- err
		if err != nil {
			return
		}
		err = cmd.Wait()
		m.mu.Lock()
		m.gone = true
		m.mu.Unlock()
		m.err = err
		close(m.done)
	})
	if err := <-started; err != nil {
		return nil, errors.Join(&Error{Op: "start QEMU", Err: err}, port.Close(), console.Close())
	}
	m.wg.Go(func() {
		defer console.Close()
		buf := make([]byte, 4096)
		for {
			n, err := console.Read(buf)
			_, _ = m.console.Write(buf[:n])
			if err != nil {
				return
			}
		}
	})
	return m, nil
}

var errCancelled = errors.New("cancelled")

// socketPair returns a connection and the file of its other end.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, &Error{Op: "socket pair", Err: err}
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "port"), os.NewFile(uintptr(fds[1]), "port of QEMU")
	conn, err := net.FileConn(ours)
	err = errors.Join(err, ours.Close())
	if err != nil {
		return nil, nil, &Error{Op: "socket pair", Err: errors.Join(err, theirs.Close())}
	}
	return conn, theirs, nil
}

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
		return m.describe("run L1", ErrPanic)
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
