package monitor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/sandpit-vm/sandpit/guest/proto"
	"github.com/sandpit-vm/sandpit/kvm"
	"github.com/sandpit-vm/sandpit/qcow2"
	"github.com/sandpit-vm/sandpit/virtio"
	"github.com/sandpit-vm/sandpit/vmm"
)

// guestCID is the guest's vsock address. Each sandbox has a vsock of its own,
// so they all can have the same (virtio 1.2 §5.10.4: 0 to 2 are reserved).
const guestCID = 3

// cmdline is what our kernel is told. Nothing is calibrated or probed that the
// host knows; output goes to the serial port's early console, which costs
// nothing while the kernel is quiet and still prints a panic.
const cmdline = "quiet loglevel=1 panic=-1 reboot=k tsc=reliable no_timer_check random.trust_cpu=on " +
	"earlyprintk=serial,ttyS0,115200,keep 8250.nr_uarts=0 console=ttynull"

// start builds the machine and sets it going.
func (m *monitor) start() (stage string, err error) {
	m.trace = newTracer(m.in.files[RoleTrace], m.log)
	sys, err := kvm.NewSystem(m.in.files[RoleKVM])
	if err != nil {
		return "open KVM", err
	}
	vsock := virtio.NewVsock(virtio.VsockConfig{GuestCID: guestCID, Log: m.log.With("device", "vsock")})
	agents, err := vsock.Listen(proto.Port)
	if err != nil {
		return "vsock", err
	}
	devs := []vmm.VirtioDevice{
		{Name: "vsock", Device: vsock},
		{Name: "rng", Device: virtio.NewRNG(rand.Reader)},
		{Name: "balloon", Device: virtio.NewBalloon(virtio.BalloonConfig{})},
	}
	var pmem []vmm.PMemFile
	for _, d := range m.in.disks {
		if d.PMem {
			pmem = append(pmem, vmm.PMemFile{Name: "pmem-" + d.Disk, File: d.file})
			continue
		}
		backend, err := openDisk(d)
		if err != nil {
			return "disk " + d.Disk, err
		}
		if c, ok := backend.(io.Closer); ok {
			m.toClose = append(m.toClose, c)
		}
		blk := virtio.NewBlk(virtio.BlkConfig{Backend: backend, ReadOnly: d.ReadOnly, ID: d.Disk})
		m.blocks = append(m.blocks, blk)
		devs = append(devs, vmm.VirtioDevice{Name: "blk-" + d.Disk, Device: blk})
	}
	if err := m.openLogs(vsock); err != nil {
		return "logs", err
	}
	seed := make([]byte, 64)
	rand.Read(seed)
	line := cmdline
	if m.spec.Cmdline != "" {
		line += " " + m.spec.Cmdline
	}
	machine, err := vmm.New(vmm.Config{
		CPUs:      m.spec.CPUs,
		Memory:    m.spec.Memory,
		Kernel:    m.in.files[RoleKernel],
		Initramfs: m.in.files[RoleInitramfs],
		Cmdline:   line,
		RNGSeed:   seed,
		Virtio:    devs,
		PMem:      pmem,
		Serial:    m.logs.console,
		KVM:       sys,
		Log:       m.log,
		Trace:     m.trace.hook(),
	})
	if err != nil {
		return "machine", err
	}
	m.machine = machine
	m.spec.Clock.Mark("machine built")
	l, err := net.FileListener(m.in.files[RoleControl])
	if err != nil {
		return "control socket", err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	m.control = newControl(m, l.(*net.UnixListener))
	m.link = newLink(vsock, agents)
	go m.link.run(machine)
	go m.control.serve()
	return "", nil
}

// closeDisks writes back what the disks' formats keep in memory, once no device
// works on them any more. It may be called again.
func (m *monitor) closeDisks() error {
	if len(m.toClose) == 0 {
		return nil
	}
	if m.machine != nil {
		if err := m.machine.Close(); err != nil {
			m.log.Warn("machine", "err", err)
		}
	}
	var errs []error
	for _, c := range m.toClose {
		if err := c.Close(); err != nil {
			errs = append(errs, fmt.Errorf("disk image was not written back: %w", err))
		}
	}
	m.toClose = nil
	return errors.Join(errs...)
}

// openDisk is a disk's bytes, in the format that the creator named: what is in
// the file was written by a guest, and is not asked.
func openDisk(d disk) (virtio.BlockBackend, error) {
	switch d.Format {
	case "", "raw":
		return virtio.NewFileBackend(d.file, d.ReadOnly)
	case "qcow2":
		return qcow2.Open(d.file, d.ReadOnly)
	}
	return nil, fmt.Errorf("unknown disk format %q", d.Format)
}

// rootSerial tells the agent where the root is: persistent memory has no
// serial, and the root is the first.
func (m *monitor) rootSerial() string {
	for _, d := range m.in.disks {
		if d.PMem {
			return "/dev/pmem0"
		}
	}
	return ""
}

func rootMode(direct bool) proto.RootMode {
	if direct {
		return proto.RootMode_DIRECT
	}
	return proto.RootMode_OVERLAY
}

// meetAgent waits for the agent's connection and has it set the guest up.
func (m *monitor) meetAgent(ctx context.Context) (stage string, err error) {
	conn, err := m.link.accept(ctx, &m.stops)
	if err != nil {
		return "boot", err
	}
	m.spec.Clock.Mark("guest kernel and agent started")
	client := proto.NewClient(conn)
	m.link.agent = proto.NewAgentClient(client)
	m.link.client = client
	req := &proto.SetupRequest{
		Hostname:    m.spec.Hostname,
		WallClockNs: time.Now().UnixNano(),
		Env:         m.spec.Env,
		RootSerial:  m.rootSerial(),
		RootFstype:  m.spec.RootType,
		RootMode:    rootMode(m.spec.RootDirect),

		UpperTmpfsBytes: m.spec.UpperTmpfs,

		StopSignal: int32(m.spec.StopSignal),
		Hold:       m.spec.Hold,
		Capture:    m.spec.Capture,
	}
	for _, name := range slices.Sorted(maps.Keys(m.spec.Scripts)) {
		req.Scripts = append(req.Scripts, &proto.Script{Name: name, Content: []byte(m.spec.Scripts[name])})
	}
	for _, l := range m.spec.Rlimits {
		req.Rlimits = append(req.Rlimits, &proto.Rlimit{Name: l.Name, Soft: l.Soft, Hard: l.Hard})
	}
	resp, err := m.setUp(ctx, req)
	if err != nil {
		if r, _ := m.link.poll(); r != nil {
			err = fmt.Errorf("%w (%s)", err, r)
		}
		return "guest set-up", err
	}
	m.spec.Clock.Mark("root mounted, agent ready")
	m.link.guest = resp.GetPhases()
	return "", nil
}

// endGracefully asks the agent to shut down and, if it does not within the
// request's grace or a request without grace arrives, switches the machine
// off.
func (m *monitor) endGracefully(req stopRequest) {
	m.asked = &req
	ctx, cancel := context.WithTimeout(context.Background(), req.grace)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, err := m.link.agent.Shutdown(ctx, &proto.ShutdownRequest{GraceNs: int64(shutdownGrace(req.grace))})
		// The guest is gone before it can answer more often than not.
		m.log.Debug("agent's answer to shutdown", "err", err)
	}()
	select {
	case <-m.link.machineEnded:
	case again := <-m.stops.now:
		m.endNow(again)
	case <-ctx.Done():
		m.log.Warn("guest did not shut down in time: switched off", "grace", req.grace)
		m.endNow(req)
	}
	cancel()
	<-answered
}

// endNow switches the machine off.
func (m *monitor) endNow(req stopRequest) {
	m.asked = &req
	m.link.off()
	<-m.link.machineEnded
}

// shutdownGrace is the part of a stop's grace that the guest's processes get
// between SIGTERM and SIGKILL; the rest is for writing back and unmounting.
func shutdownGrace(grace time.Duration) time.Duration { return grace / 2 }

// shutdownMachine ends a machine whose boot failed.
func (m *monitor) shutdownMachine() {
	if m.link != nil {
		m.link.off()
		<-m.link.machineEnded
	}
}

// bootReport is the Boot of a machine whose agent is ready.
func (m *monitor) bootReport() *Boot {
	b := &Boot{Phases: m.spec.Clock.Phases, Exits: make(map[string]uint64)}
	for kind, n := range m.machine.Stats().Exits {
		b.Exits[kind.String()] = n
	}
	if g := m.link.guest; g != nil {
		b.Phases = append(b.Phases,
			Phase{"guest: kernel until init", time.Duration(g.InitNs)},
			Phase{"guest: agent until connected", time.Duration(g.ConnectedNs - g.InitNs)},
			Phase{"guest: connected until set-up", time.Duration(g.SetupBeginNs - g.ConnectedNs)},
			Phase{"guest: root mounted", time.Duration(g.RootMountedNs - g.SetupBeginNs)},
			Phase{"guest: rest of set-up", time.Duration(g.ReadyNs - g.RootMountedNs)},
		)
	}
	return b
}
