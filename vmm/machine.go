package vmm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sandpit-vm/sandpit/boot"
	"github.com/sandpit-vm/sandpit/devices"
	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/kvm/guestmem"
	"github.com/sandpit-vm/sandpit/virtio"
)

// Machine is one virtual machine. Its methods may be called from any
// goroutine.
type Machine struct {
	cfg Config
	log *slog.Logger

	sys     *kvm.System
	ownsSys bool
	vm      *kvm.VM
	mem     *guestmem.Memory
	pmem    []pmemFile
	tscKHz  uint32

	pio, mmio *devices.Bus
	console   *consoleTap
	virtio    []*virtio.MMIO
	lines     []*line
	vcpus     []*vcpu

	// gate is what Pause closes and Resume opens; vCPUs wait at it.
	gate gate
	// pausing is held by those who shut and open the gate, so that none opens
	// what another has shut. It comes before gate.mu.
	pausing sync.Mutex
	halt    haltWatch

	birth     time.Time // when New was called
	started   atomic.Bool
	runDone   chan struct{} // closed when Run returned
	startTime time.Time

	mu     sync.Mutex
	reason Reason // the first reason reported; set once
	err    error  // a host failure that ended the run
	closed bool
	ending chan struct{} // closed with reason or err
}

// New builds a Machine: everything is allocated, loaded and wired, and
// nothing runs yet. On error nothing is left behind.
func New(cfg Config) (_ *Machine, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Machine{
		cfg:     cfg,
		birth:   time.Now(),
		log:     cfg.Log,
		pio:     devices.NewBus(),
		mmio:    devices.NewBus(),
		runDone: make(chan struct{}),
		ending:  make(chan struct{}),
		halt:    haltWatch{asked: make(chan struct{}, 1)},
	}
	m.gate.init()
	defer func() {
		if err != nil {
			m.release()
		}
	}()

	if m.sys = cfg.KVM; m.sys == nil {
		if m.sys, err = kvm.Open(); err != nil {
			return nil, &Error{Op: "open KVM", Err: err}
		}
		m.ownsSys = true
	}
	for _, step := range []struct {
		op  string
		run func() error
	}{
		{"guest memory", m.createMemory},
		{"virtual machine", m.createVM},
		{"memory slots", m.mapMemory},
		{"persistent memory", m.mapPMem},
		{"interrupt controller", m.createIRQChip},
		{"platform devices", m.addPlatform},
		{"virtio devices", m.addVirtio},
		{"vCPUs", m.createVCPUs},
		{"load", m.load},
		{"events", m.connectEvents},
	} {
		if err := m.step(step.op, step.run); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Memory returns the guest's RAM. It stays valid until Close.
func (m *Machine) Memory() *guestmem.Memory { return m.mem }

// ConsoleTail returns the last bytes that the guest wrote to its serial port,
// at most 16 KiB: what a failed boot has to say for itself.
func (m *Machine) ConsoleTail() []byte { return m.console.Tail() }

// Run starts the vCPUs and waits until the guest ends, ctx ends or Close is
// called. It can be called once. The error is the host's failure; what the
// guest did is the Reason, nil only with an error.
func (m *Machine) Run(ctx context.Context) (Reason, error) {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil, ErrClosed
	}
	if !m.started.CompareAndSwap(false, true) {
		m.mu.Unlock()
		return nil, ErrStarted
	}
	m.startTime = time.Now()
	m.mu.Unlock()
	defer close(m.runDone)

	var wg sync.WaitGroup
	for _, v := range m.vcpus {
		wg.Go(v.loop)
	}
	wg.Go(m.watchHalt)
	select {
	case <-ctx.Done():
		m.end(Stopped{}, nil)
	case <-m.ending:
	}
	for _, v := range m.vcpus {
		v.vcpu.Kick()
	}
	wg.Wait()

	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reason, m.err
}

// end records why the machine ended; the first caller wins. It also opens the
// gate for good, so that a paused vCPU sees the end.
func (m *Machine) end(r Reason, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reason != nil || m.err != nil {
		return
	}
	m.reason, m.err = r, err
	close(m.ending)
	m.gate.end()
}

// Pause stops every vCPU between two instructions and returns when all have
// stopped, or with an error when the machine ended first. Devices finish what
// they were asked before; they are asked nothing new. Pausing a paused machine
// does nothing.
func (m *Machine) Pause(ctx context.Context) error {
	if !m.started.Load() {
		return &Error{Op: "pause", Err: errNotRunning}
	}
	m.pausing.Lock()
	defer m.pausing.Unlock()
	if err := m.stopVCPUs(ctx); err != nil {
		m.gate.open()
		return &Error{Op: "pause", Err: err}
	}
	return nil
}

// stopVCPUs returns when every vCPU waits at the gate.
func (m *Machine) stopVCPUs(ctx context.Context) error {
	m.gate.close()
	for _, v := range m.vcpus {
		v.vcpu.Kick()
	}
	return m.gate.waitParked(ctx, len(m.vcpus))
}

// Resume lets the vCPUs of a paused machine go on.
func (m *Machine) Resume() error {
	if !m.started.Load() {
		return &Error{Op: "resume", Err: errNotRunning}
	}
	m.pausing.Lock()
	defer m.pausing.Unlock()
	m.gate.open()
	return nil
}

// Close ends the machine if it runs, waits for its goroutines and releases
// everything it holds. It is idempotent.
func (m *Machine) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	m.mu.Unlock()
	if m.started.Load() {
		m.end(Stopped{}, nil)
		<-m.runDone
	}
	return m.release()
}

// release gives back what New acquired, devices first: their workers touch
// guest memory.
func (m *Machine) release() error {
	var errs []error
	for _, t := range m.virtio {
		errs = append(errs, t.Close())
	}
	for _, l := range m.lines {
		errs = append(errs, l.Close())
	}
	for _, v := range m.vcpus {
		errs = append(errs, v.vcpu.Close())
	}
	if m.vm != nil {
		errs = append(errs, m.vm.Close())
	}
	for _, p := range m.pmem {
		errs = append(errs, p.mem.Close())
	}
	if m.mem != nil {
		errs = append(errs, m.mem.Close())
	}
	if m.ownsSys && m.sys != nil {
		errs = append(errs, m.sys.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return &Error{Op: "close", Err: err}
	}
	return nil
}

func (m *Machine) createMemory() (err error) {
	m.mem, err = guestmem.NewAnonymous(boot.Ranges(m.cfg.Memory)...)
	return err
}

func (m *Machine) createVM() (err error) {
	if m.vm, err = m.sys.CreateVM(); err != nil {
		return err
	}
	// Intel hosts without unrestricted guest mode need both areas; they lie
	// outside RAM (see boot's layout).
	if err := m.vm.SetTSSAddr(boot.KVMTSS); err != nil {
		return err
	}
	return m.vm.SetIdentityMapAddr(boot.KVMIdentityMap)
}

func (m *Machine) mapMemory() error {
	for i, r := range m.mem.Regions() {
		if err := m.vm.SetMemory(uint32(i), 0, r); err != nil {
			return fmt.Errorf("slot %d at %#x: %w", i, r.Base, err)
		}
	}
	return nil
}

func (m *Machine) createIRQChip() error {
	if err := m.vm.CreateIRQChip(); err != nil {
		return err
	}
	if m.cfg.PIT {
		return m.vm.CreatePIT2()
	}
	return nil
}

func (m *Machine) load() error {
	var (
		state *boot.CPUState
		err   error
	)
	if m.cfg.Load != nil {
		state, err = m.cfg.Load(m.mem)
	} else {
		state, err = m.loadKernel()
	}
	if err != nil {
		return err
	}
	return m.vcpus[0].setState(state)
}

func (m *Machine) loadKernel() (*boot.CPUState, error) {
	p := boot.Params{
		Kernel:  m.cfg.Kernel,
		Format:  m.cfg.Format,
		Cmdline: m.cmdline(),
		CPUs:    m.cfg.CPUs,
		RNGSeed: m.cfg.RNGSeed,
	}
	info, err := m.cfg.Kernel.Stat()
	if err != nil {
		return nil, err
	}
	p.KernelSize = info.Size()
	if m.cfg.Initramfs != nil {
		info, err := m.cfg.Initramfs.Stat()
		if err != nil {
			return nil, err
		}
		p.Initramfs, p.InitramfsSize = m.cfg.Initramfs, info.Size()
	}
	return boot.Load(m.mem, p)
}

// cmdline is the caller's command line, the guest's TSC frequency (so that it
// need not be calibrated against a timer) and the virtio devices.
func (m *Machine) cmdline() string {
	s := m.cfg.Cmdline
	if m.tscKHz != 0 {
		s += fmt.Sprintf(" tsc_early_khz=%d", m.tscKHz)
	}
	for i := range m.cfg.Virtio {
		base, irq := boot.MMIODevice(i)
		s += " " + boot.MMIODeviceArg(base, boot.MMIODeviceSize, irq)
	}
	return s
}
