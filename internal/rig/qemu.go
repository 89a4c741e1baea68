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

// cpuModel is all that the emulation can do, less what it does slowly or
// wrongly. With erms or fsrm Linux copies with REP MOVSB, which TCG runs a byte
// at a time: a guest's kernel took 2.4 s to its init with them, and 0.8 s
// without. Without xsave there is no XCR0, which nested guests could set behind
// KVM's back: TCG lets their XSETBV through, and KVM then answers CPUID with
// sizes that are out of date.
const cpuModel = "max,erms=off,fsrm=off,xsave=off"

// qemuArgs returns QEMU's command line.
func qemuArgs(c Config, khz uint32) []string {
	args := []string{
		"-name", "kvmrig",
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		// No ACPI: our kernel has none. The PIC and PIT are what it then boots by.
		"-M", "microvm,acpi=off,pit=on,pic=on,rtc=on,isa-serial=on",
		"-accel", "tcg,thread=multi", "-cpu", cpuModel,
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

// parts is what an L1 is made of.
type parts struct {
	kernel, initrd *os.File
	khz            uint32
	err            error
}

// prepare gathers the parts, at the same time as each other and as whatever the
// caller does until it needs them. They are for one boot, which closes them.
func prepare(c Config) <-chan parts {
	result := make(chan parts, 1)
	go func() {
		var p parts
		var errs [2]error
		var wg sync.WaitGroup
		wg.Go(func() { p.khz = tscKHz() })
		wg.Go(func() { p.kernel, errs[0] = openKernel(c.Kernel) })
		wg.Go(func() { p.initrd, errs[1] = initramfs() })
		wg.Wait()
		p.err = errors.Join(errs[:]...)
		result <- p
	}()
	return result
}

func (p parts) close() {
	_ = p.kernel.Close()
	_ = p.initrd.Close()
}

// boot starts L1 and returns when it is ready for commands, or when cancel is
// closed.
func boot(c Config, prepared <-chan parts, cancel <-chan struct{}) (*machine, wire.Ready, error) {
	p := <-prepared
	defer p.close()
	if p.err != nil {
		return nil, wire.Ready{}, p.err
	}
	m, err := start(c, p)
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
func start(c Config, p parts) (*machine, error) {
	path := c.QEMU
	if path == "" {
		path = qemuName
	}
	path, err := exec.LookPath(path)
	if err != nil {
		return nil, &Error{Op: "emulate", Err: fmt.Errorf("%w (%w); on Debian: apt-get install qemu-system-x86", ErrNoQEMU, err)}
	}
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
	cmd := exec.Command(path, qemuArgs(c, p.khz)...)
	cmd.ExtraFiles = []*os.File{fdPort - 3: portQEMU, fdConsole - 3: consoleQEMU, fdInitramfs - 3: p.initrd, fdKernel - 3: p.kernel}
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
