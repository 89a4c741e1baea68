package vmm

import (
	"fmt"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/boot"
	"github.com/sandpit-vm/sandpit/devices"
	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/virtio"
)

// line is an interrupt line of the guest, raised through an irqfd: one write
// to an eventfd, with no ioctl and no vCPU involved.
type line struct {
	gsi uint32
	fd  int
}

func newLine(gsi uint32) (*line, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd for interrupt %d: %w", gsi, err)
	}
	return &line{gsi: gsi, fd: fd}, nil
}

// one is the 64-bit little-endian 1 that an eventfd counts up by. A write
// cannot block: KVM drains the counter in the kernel.
var one = [8]byte{1}

// Trigger raises the line once (edge).
func (l *line) Trigger() error {
	for {
		_, err := unix.Write(l.fd, one[:])
		if err != unix.EINTR {
			return err
		}
	}
}

func (l *line) Close() error { return unix.Close(l.fd) }

// newLine makes a line that is connected to KVM by connectEvents, once every
// memory slot is in place.
func (m *Machine) newLine(gsi uint32) (*line, error) {
	l, err := newLine(gsi)
	if err == nil {
		m.lines = append(m.lines, l)
	}
	return l, err
}

// addPlatform puts the devices every PC kernel expects on the buses, and the
// caller's own.
func (m *Machine) addPlatform() error {
	serialIRQ, err := m.newLine(boot.SerialIRQ)
	if err != nil {
		return err
	}
	for _, bus := range []*devices.Bus{m.pio, m.mmio} {
		bus.OnPanic = m.devicePanicked
	}
	m.console = newConsoleTap(m.cfg.Serial, m.halt.line)
	windows := []Window{
		{"serial", boot.SerialPort, boot.SerialPortSize, devices.NewSerial(m.console, serialIRQ)},
		{"rtc", boot.RTCPort, boot.RTCPortSize, devices.NewRTC(time.Now)},
		{"i8042", boot.I8042Port, boot.I8042PortSize, devices.NewI8042(m.onReset)},
		{"exit", boot.ExitPort, boot.ExitPortSize, devices.NewExit(func(code uint8) { m.end(Shutdown{Code: code}, nil) })},
	}
	for _, w := range append(windows, m.cfg.PIO...) {
		if err := m.pio.Map(w.Name, w.Base, w.Size, w.Handler); err != nil {
			return err
		}
	}
	for _, w := range m.cfg.MMIO {
		if err := m.mmio.Map(w.Name, w.Base, w.Size, w.Handler); err != nil {
			return err
		}
	}
	return nil
}

// devicePanicked logs that a device is off its bus. It happens once per device.
func (m *Machine) devicePanicked(name string, v any) {
	m.log.Error("a device panicked and is switched off; please report this", "device", name,
		"panic", fmt.Sprint(v), "stack", string(debug.Stack()))
}

// onReset is the keyboard controller's reset line. A kernel that panicked
// resets too (panic=-1); the console tells the two apart.
func (m *Machine) onReset() {
	if msg, ok := m.console.Panic(); ok {
		m.end(Panic{Message: msg}, nil)
		return
	}
	m.end(Reset{}, nil)
}

func (m *Machine) addVirtio() error {
	for i, d := range m.cfg.Virtio {
		base, irq := boot.MMIODevice(i)
		irqLine, err := m.newLine(uint32(irq))
		if err != nil {
			return err
		}
		t, err := virtio.NewMMIO(d.Device, m.mem, irqLine, m.log.With("device", d.Name))
		if err != nil {
			return fmt.Errorf("%s: %w", d.Name, err)
		}
		m.virtio = append(m.virtio, t)
		if m.cfg.Trace != nil {
			m.traceDevice(d.Name, t)
		}
		if err := m.mmio.Map(d.Name, base, boot.MMIODeviceSize, t); err != nil {
			return err
		}
	}
	return nil
}

// connectEvents hands interrupt lines and queue notifications to KVM. It comes
// last: a memslot change after the first ioeventfd is slow (see the package
// comment).
func (m *Machine) connectEvents() error {
	for _, l := range m.lines {
		if err := m.vm.IRQFD(l.gsi, l.fd); err != nil {
			return fmt.Errorf("irqfd for interrupt %d: %w", l.gsi, err)
		}
	}
	for i, d := range m.cfg.Virtio {
		base, _ := boot.MMIODevice(i)
		for q := range d.Device.QueueSizes() {
			index := uint64(q)
			ev := kvm.IOEvent{
				Addr:      base + virtio.NotifyOffset,
				Len:       4,
				DataMatch: &index,
				FD:        m.virtio[i].KickFD(q),
			}
			if err := m.vm.IOEventFD(ev); err != nil {
				return fmt.Errorf("ioeventfd for queue %d of %s: %w", q, d.Name, err)
			}
		}
	}
	return nil
}
