package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

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
	fail := func(err error) (*Sandbox, error) { return nil, &Error{name, "create", err} }
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	home, err := state.DefaultHome()
	if err != nil {
		return fail(err)
	}
	// Before a pull that may take minutes; home.Create decides.
	if _, err := home.Open(name); err == nil && !cfg.Replace {
		return fail(ErrExists)
	}
	root, err := openRoot(ctx, home, &cfg)
	if err != nil {
		return fail(err)
	}
	defer root.close()
	if err := cfg.inherit(root.image); err != nil {
		return fail(err)
	}
	files, err := openFiles(home, cfg)
	if err != nil {
		return fail(err)
	}
	// Start closes them; before that, this does.
	defer files.Close()
	clock.Mark("files opened")

	var dir *state.Dir
	for {
		if cfg.Replace {
			if err := makeRoom(ctx, home, name); err != nil {
				return fail(fmt.Errorf("replace: %w", err))
			}
		}
		dir, files.Lock, err = home.Create(name, record{Config: cfg, ImageDigest: root.digest, DefaultImage: root.builtin}, cfg.Ephemeral)
		// Another one may have taken the room that was made.
		if !cfg.Replace || !errors.Is(err, ErrExists) || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return fail(err)
	}
	sb, err := func() (*Sandbox, error) {
		if files.Disks, err = root.disks(ctx, dir, cfg); err != nil {
			return nil, err
		}
		clock.Mark("state directory created")
		return boot(ctx, dir, files, cfg, root, monitor.Spec{
			Home: home, Detached: detached, Created: created, Clock: clock,
		})
	}()
	if err != nil {
		// The monitor is dead; the lock goes with the last of its descriptors.
		files.Close()
		if rmErr := dir.Remove(); rmErr != nil && !errors.Is(rmErr, ErrNotFound) {
			err = errors.Join(err, rmErr)
		}
		return fail(err)
	}
	return sb, nil
}

// boot starts the monitor and waits until commands can run. spec has what is
// this start's own; the rest is the configuration's.
func boot(ctx context.Context, dir *state.Dir, files *monitor.Files, cfg Config, root *rootFS, spec monitor.Spec) (*Sandbox, error) {
	ctx, stop := watchSlowBoot(ctx)
	defer stop()
	signal, err := stopSignal(cfg.StopSignal)
	if err != nil {
		return nil, err
	}
	spec.Ephemeral = cfg.Ephemeral
	spec.CPUs = cfg.CPUs
	spec.Memory = uint64(cfg.Memory) << 20
	spec.Hostname = cfg.Hostname
	spec.Env = cfg.Env
	spec.RootType, spec.RootDirect = root.fstype, root.direct
	if cfg.UpperTmpfs {
		spec.UpperTmpfs = uint64(cfg.UpperSize) << 20
	}
	spec.StopSignal = signal
	spec.Hold = len(cfg.Patches) > 0
	spec.Capture, spec.OutputFileBytes = cfg.CaptureOutput, testOutputFileBytes
	spec.LogLevel = cfg.LogLevel
	spec.BootTimeout = bootTimeout
	spec.StopGrace = stopGrace
	spec.IdleTimeout, spec.MaxDuration = cfg.IdleTimeout, cfg.MaxDuration
	spec.Scripts = cfg.scripts()
	for _, l := range cfg.Rlimits {
		spec.Rlimits = append(spec.Rlimits, monitor.Rlimit(l))
	}
	p, err := monitor.Start(ctx, dir, spec, files)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, ErrInterpretedKVM) {
			err = cause
		}
		return nil, err
	}
	sb := &Sandbox{name: dir.Name, cfg: cfg, dir: dir, life: p, process: p, boot: p.Boot, owner: !spec.Detached, release: p.Release}
	sb.cfg.Patches, sb.cfg.Trace = nil, nil
	if spec.Hold {
		err := sb.applyPatches(ctx, cfg.Patches)
		sb.closeAgent()
		if err == nil {
			err = p.Begin(ctx)
		}
		if err != nil {
			p.Abort()
			return nil, err
		}
	}
	return sb, nil
}

// openFiles opens all that the monitor needs but the disks.
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
		files.Kernel, err = openRegular(cfg.Kernel, os.O_RDONLY)
	} else {
		files.Kernel, err = kernel.Image().Open(home.Cache)
	}
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	if files.Initramfs, err = initramfs.Image().Open(home.Cache); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	if cfg.Trace != nil {
		if files.Trace, err = dupFile(cfg.Trace); err != nil {
			return nil, fmt.Errorf("trace: %w", err)
		}
	}
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
