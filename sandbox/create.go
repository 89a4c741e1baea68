package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sandpit-vm/sandpit/guest/defaultroot"
	"github.com/sandpit-vm/sandpit/guest/initramfs"
	"github.com/sandpit-vm/sandpit/internal/monitor"
	"github.com/sandpit-vm/sandpit/internal/state"
	"github.com/sandpit-vm/sandpit/kernel"
	"github.com/sandpit-vm/sandpit/kvm"
)

// Times that bound a sandbox's life.
const (
	// bootTimeout is generous: a sandbox that needs a tenth of it is slow.
	bootTimeout = 60 * time.Second
	// stopGrace is how long a graceful stop may take before the machine is
	// switched off.
	stopGrace = 10 * time.Second
)

// Create makes a sandbox and returns it running, attached to this process: it
// stops, gracefully, when the process ends. The name is unique in the home
// directory; ErrExists if it is taken. If Create fails, or ctx ends first,
// nothing is left behind.
func Create(ctx context.Context, name string, cfg Config) (*Sandbox, error) {
	return create(ctx, name, cfg, false)
}

// CreateDetached is Create for a sandbox that outlives its creator.
func CreateDetached(ctx context.Context, name string, cfg Config) (*Sandbox, error) {
	return create(ctx, name, cfg, true)
}

func create(ctx context.Context, name string, cfg Config, detached bool) (_ *Sandbox, err error) {
	clock := monitor.NewPhaseClock()
	created := time.Now()
	if cfg, err = cfg.withDefaults(name); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, &Error{name, "create", err}
	}
	home, err := state.DefaultHome()
	if err != nil {
		return nil, &Error{name, "create", err}
	}
	files, err := openFiles(home, cfg)
	if err != nil {
		return nil, &Error{name, "create", err}
	}
	// Start closes them; before that, this does.
	defer files.Close()
	clock.Mark("files opened")

	dir, lock, err := home.Create(name, cfg, cfg.Ephemeral)
	if err != nil {
		return nil, &Error{name, "create", err}
	}
	files.Lock = lock
	clock.Mark("state directory created")
	ctx, stop := watchSlowBoot(ctx)
	defer stop()
	p, err := monitor.Start(ctx, dir, monitor.Spec{
		Home:        home,
		Ephemeral:   cfg.Ephemeral,
		Detached:    detached,
		Created:     created,
		Clock:       clock,
		CPUs:        cfg.CPUs,
		Memory:      uint64(cfg.Memory) << 20,
		Hostname:    cfg.Hostname,
		Env:         cfg.Env,
		LogLevel:    cfg.LogLevel,
		BootTimeout: bootTimeout,
		StopGrace:   stopGrace,
	}, files)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, ErrInterpretedKVM) {
			err = cause
		}
		// The monitor is dead and the lock free.
		if rmErr := dir.Remove(); rmErr != nil && !errors.Is(rmErr, ErrNotFound) {
			err = errors.Join(err, rmErr)
		}
		return nil, &Error{name, "create", err}
	}
	return &Sandbox{name: name, cfg: cfg, dir: dir, life: p, process: p, boot: p.Boot, owner: !detached}, nil
}

// openFiles opens all that the monitor needs.
func openFiles(home state.Home, cfg Config) (_ *monitor.Files, err error) {
	files := &monitor.Files{}
	defer func() {
		if err != nil {
			files.Close()
		}
	}()
	sys, err := kvm.Open()
	if err != nil {
		return nil, err
	}
	files.KVM = sys.File()
	if cfg.Kernel != "" {
		files.Kernel, err = os.Open(cfg.Kernel)
	} else {
		files.Kernel, err = kernel.Image().Open(home.Cache)
	}
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	if files.Initramfs, err = initramfs.Image().Open(home.Cache); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	root, err := defaultroot.Image().Open(home.Cache)
	if err != nil {
		return nil, fmt.Errorf("default image: %w", err)
	}
	files.Disks = append(files.Disks, monitor.Disk{Serial: "root", File: root, ReadOnly: true})
	return files, nil
}

// slowBoot is when a boot is slow enough to ask whether it can succeed at all.
const slowBoot = 3 * time.Second

// watchSlowBoot ends the context of a boot that cannot succeed because KVM here
// interprets kernel code, some thousand times too slowly. Asking costs
// milliseconds, so only slow boots are asked about.
func watchSlowBoot(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(slowBoot, func() {
		if speed, err := ring0Speed(); err == nil && speed > 0 && speed < hopelessRing0 {
			cancel(interpretedError(speed))
		}
	})
	return ctx, func() {
		timer.Stop()
		cancel(nil)
	}
}

// hopelessRing0, in instructions per second, is where a boot is given up. An
// interpreting KVM was measured at 4 million, an emulated machine, on a busy
// host, seldom under 100.
const hopelessRing0 = 15e6

// ring0Speed is the best of several measurements: a busy host makes a single
// one look slow. Zero means that none came to a result.
func ring0Speed() (float64, error) {
	sys, err := kvm.Open()
	if err != nil {
		return 0, err
	}
	defer sys.Close()
	var best float64
	for range 8 {
		speed, err := sys.MeasureRing0()
		if err != nil {
			return 0, err
		}
		if best = max(best, speed); best >= kvm.UsableRing0 {
			break
		}
	}
	return best, nil
}
