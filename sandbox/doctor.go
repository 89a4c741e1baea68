package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/internal/state"
	"github.com/sandpit-vm/sandpit/kvm"
)

// Check is one thing that Diagnose looked at.
type Check struct {
	Name string
	// Err is why it failed, nil if it did not. Warning means that sandboxes
	// work all the same.
	Err     error
	Warning bool
	// Detail is what was found, Remedy what to do about a failure.
	Detail string
	Remedy string
}

// Diagnose finds out whether sandboxes can run here, and if not, why. It
// returns every check it could make; those that depend on a failed one are
// left out.
func Diagnose(ctx context.Context) []Check {
	checks := []Check{checkPlatform()}
	device := checkDevice()
	checks = append(checks, device)
	if device.Err == nil {
		checks = append(checks, checkKVM()...)
	}
	return append(checks, checkHostMemory(), checkHome())
}

func checkPlatform() Check {
	c := Check{Name: "platform", Detail: runtime.GOOS + "/" + runtime.GOARCH}
	if runtime.GOARCH != "amd64" {
		c.Err = errors.New("the bundled kernel is for amd64")
		c.Remedy = "use an x86-64 host"
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err == nil {
		c.Detail += ", Linux " + unix.ByteSliceToString(uts.Release[:])
	}
	return c
}

const kvmDevice = "/dev/kvm"

func checkDevice() Check {
	c := Check{Name: kvmDevice}
	f, err := os.OpenFile(kvmDevice, os.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		f.Close()
		c.Detail = "present, and open to this user"
	case errors.Is(err, fs.ErrNotExist):
		c.Err = err
		c.Remedy = "load kvm_intel or kvm_amd and enable virtualization in the firmware; in a VM, ask its host for nested virtualization; in a container, pass the device in (--device /dev/kvm)"
	case errors.Is(err, fs.ErrPermission):
		c.Err = err
		c.Remedy = "add the user to the group that owns the device (usually: usermod -aG kvm USER, then log in again)"
	default:
		c.Err = err
		c.Remedy = "the host's kernel log says more (dmesg)"
	}
	return c
}

// neededCaps are the capabilities without which a sandbox cannot be built.
var neededCaps = []kvm.Cap{kvm.CapUserMemory, kvm.CapIRQChip, kvm.CapIRQFD, kvm.CapIOEventFD, kvm.CapImmediateExit, kvm.CapSetTSSAddr, kvm.CapSetIdentityMapAddr}

func checkKVM() []Check {
	api := Check{Name: "KVM API"}
	sys, err := kvm.Open()
	if err != nil {
		api.Err = err
		api.Remedy = "the stable API has version 12 since Linux 2.6.22: use another host"
		return []Check{api}
	}
	defer sys.Close()
	api.Detail = "version 12"

	caps := Check{Name: "KVM capabilities", Detail: fmt.Sprintf("%d needed, all present", len(neededCaps))}
	var missing []string
	for _, c := range neededCaps {
		if n, err := sys.CheckExtension(c); err != nil || n <= 0 {
			missing = append(missing, c.String())
		}
	}
	if len(missing) > 0 {
		caps.Err = errors.New("missing: " + strings.Join(missing, ", "))
		caps.Remedy = "use a newer host kernel (5.10 has them all)"
	}

	speed := Check{Name: "guest kernel speed"}
	hz, err := ring0Speed()
	switch {
	case err != nil:
		speed.Err = err
		speed.Remedy = "a guest of eight instructions did not run: the host's kernel log says more (dmesg)"
	case hz == 0:
		speed.Warning = true
		speed.Err = errors.New("not known: this host was too busy to measure it")
		speed.Remedy = "try again when it is less busy"
	case hz < kvm.UsableRing0:
		speed.Err = fmt.Errorf("%w: %.1f million instructions per second, hundreds are normal", ErrInterpretedKVM, hz/1e6)
		speed.Remedy = interpretedRemedy
	default:
		speed.Detail = fmt.Sprintf("%.0f million instructions per second", hz/1e6)
	}
	return []Check{api, caps, speed, checkVMCreation(sys)}
}

// slowCreation is when the creation of an empty VM is worth a remark. It takes
// a millisecond where nothing stands in the way.
const slowCreation = 20 * time.Millisecond

func checkVMCreation(sys *kvm.System) Check {
	c := Check{Name: "VM creation"}
	start := time.Now()
	vm, err := sys.CreateVM()
	took := time.Since(start)
	if err != nil {
		c.Err = err
		c.Remedy = "the host's kernel log says more (dmesg)"
		return c
	}
	vm.Close()
	c.Detail = took.Round(10 * time.Microsecond).String()
	if took > slowCreation {
		c.Warning = true
		c.Err = fmt.Errorf("took %v", took.Round(time.Millisecond))
		c.Remedy = "often the huge-page mitigation for CVE-2018-12207: kvm.nx_huge_pages=never on a processor that is not affected, or favordynmods for the host's cgroup mount"
	}
	return c
}

func checkHostMemory() Check {
	c := Check{Name: "memory"}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		c.Err = err
		return c
	}
	free := (info.Freeram + info.Bufferram) * uint64(info.Unit) >> 20
	c.Detail = fmt.Sprintf("%d MiB, %d of them free", info.Totalram*uint64(info.Unit)>>20, free)
	if info.Totalram*uint64(info.Unit)>>20 < DefaultMemory {
		c.Warning = true
		c.Err = fmt.Errorf("less than the %d MiB of a default sandbox", DefaultMemory)
		c.Remedy = fmt.Sprintf("give sandboxes less, at least %d MiB", MinMemory)
	}
	return c
}

// checkHome makes the directories and writes a file into each.
func checkHome() Check {
	c := Check{Name: "home"}
	home, err := state.DefaultHome()
	if err != nil {
		c.Err = err
		c.Remedy = "set SANDPIT_HOME to an absolute path"
		return c
	}
	c.Detail = home.Sandboxes + ", " + home.Cache
	c.Remedy = "set SANDPIT_HOME to a directory that this user may write to, on a file system with space"
	for _, dir := range []string{home.Sandboxes, home.Cache} {
		if c.Err = tryWrite(dir); c.Err != nil {
			return c
		}
	}
	return c
}

func tryWrite(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".doctor-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(make([]byte, 4096)); err != nil {
		f.Close()
		return fmt.Errorf("%s: %w", filepath.Base(dir), err)
	}
	return f.Close()
}
