package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"text/tabwriter"
)

// sandpitReader is ours.
func (b *bed) sandpitReader(name string, flags ...string) *reader {
	return newReader(name, func() *exec.Cmd {
		args := append([]string{"run", "--pull", "never"}, flags...)
		return exec.Command(b.sandpit, append(args, b.image, "--", "bash", "-c", guestScript)...)
	})
}

// sandpitReaders are ours, and its variants.
func (b *bed) sandpitReaders() []*reader {
	all := []*reader{b.sandpitReader("sandpit run")}
	for _, v := range b.variants {
		all = append(all, b.sandpitReader("sandpit run, "+v.name, v.flags...))
	}
	return all
}

// readers are the contenders, the peer first.
func (b *bed) readers() ([]*reader, error) {
	root, err := b.rootImage()
	if err != nil {
		return nil, err
	}
	initrd := filepath.Join(b.dir, "peer.cpio")
	self, err := staticSelf()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(initrd, newc(peerInitName, self), 0o600); err != nil {
		return nil, err
	}
	peer := newReader("qemu microvm, virtio-blk", func() *exec.Cmd {
		return exec.Command("qemu-system-x86_64", "-M", "microvm,acpi=off,pit=off,pic=off,rtc=off,isa-serial=off",
			"-accel", "kvm", "-cpu", "host", "-m", "512", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
			"-global", "virtio-mmio.force-legacy=false",
			"-kernel", b.kernel, "-initrd", initrd, "-append", peerCmdline,
			"-drive", "id=root,if=none,format=raw,readonly=on,file="+root, "-device", "virtio-blk-device,drive=root",
			"-chardev", "stdio,id=port,signal=off", "-device", "virtio-serial-device",
			"-device", "virtserialport,chardev=port,name="+peerPort)
	})
	return append([]*reader{peer}, b.sandpitReaders()...), nil
}

// staticSelf is this program, if it runs where there is nothing else.
func staticSelf() ([]byte, error) {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.Section(".interp") != nil {
		return nil, errors.New("this program is linked dynamically: build it with CGO_ENABLED=0")
	}
	return os.ReadFile("/proc/self/exe")
}

// peerCmdline is what the peer's kernel is told: what ours is, but for the init.
const peerCmdline = "quiet loglevel=1 panic=-1 reboot=t tsc=reliable no_timer_check random.trust_cpu=on console=ttynull rdinit=/" + peerInitName

// rootImage is the image's root file system in the cache, read once so that the
// host has it in its page cache.
func (b *bed) rootImage() (string, error) {
	found, err := filepath.Glob(filepath.Join(b.home, "cache", "images", "roots", "*.erofs"))
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%d root file systems in %s", len(found), b.home)
	}
	f, err := os.Open(found[0])
	if err != nil {
		return "", err
	}
	defer f.Close()
	_, err = io.Copy(io.Discard, f)
	return found[0], err
}

// read measures the root file system from within.
func (b *bed) read(w io.Writer) error {
	all, err := b.readers()
	if err != nil {
		return err
	}
	runs := b.fewer()
	for i := range runs + 1 {
		for _, r := range all {
			if r.err == nil {
				r.err = r.once(i > 0)
			}
		}
	}
	ours := all[1]
	if ours.err != nil {
		return ours.err
	}
	for _, r := range all {
		for s, result := range r.results {
			if r.err == nil && result != ours.results[s] {
				r.err = fmt.Errorf("step %s: %s, but ours %s", s, result, ours.results[s])
			}
		}
	}
	size, _ := strconv.ParseFloat(ours.results[stepCount], 64)
	fmt.Fprintf(w, "the python image's root read in the guest, 1 vCPU, 512 MiB, same kernel, EROFS and overlay, %d boots each, in turn, medians by the guest's clock:\n", runs)
	for _, r := range all {
		if r.err != nil {
			fmt.Fprintf(w, "%s did not run: %v\n", r.name, firstLine(r.err))
		}
	}
	for _, s := range []struct{ step, what string }{
		{stepWalk, fmt.Sprintf("walk of %s names of /usr with their attributes (find), nothing cached in the guest", ours.results[stepWalk])},
		{stepWalkAgain, "the same again"},
		{stepRead, fmt.Sprintf("read of all of Python's library, %.1f MB (cat), nothing cached in the guest", size/1e6)},
		{stepReadAgain, "the same again"},
	} {
		fmt.Fprintf(w, "%s:\n", s.what)
		if err := printStep(w, all, s.step); err != nil {
			return err
		}
	}
	if len(ours.counted[stepRead]) == 0 {
		fmt.Fprintf(w, "VM exits were not counted: %s is not readable\n", kvmDebug)
	} else {
		fmt.Fprintln(w, "exits are less those of a step that does nothing; \"served\" ones are for the monitor's process, by memory and port; interrupts are the host's own")
	}
	return nil
}

// printStep prints a step's table.
func printStep(w io.Writer, all []*reader, step string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\ttime\tof QEMU's\tVM exits\tserved\thalts\tinterrupts\t")
	peer := all[0]
	for _, r := range all {
		if r.err != nil {
			continue
		}
		of := ""
		if r != peer && peer.err == nil {
			of = fmt.Sprintf("%.2f", ratio(r.times[step], peer.times[step]))
		}
		count := func(names ...string) string {
			var n int64
			for _, name := range names {
				v, none := r.counted[step][name], r.counted[stepNothing][name]
				if len(v) == 0 || len(none) == 0 {
					return "?"
				}
				n += max(median(v)-median(none), 0)
			}
			return strconv.FormatInt(n, 10)
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.name, ms(median(r.times[step])), of,
			count(statExits), count(statMMIO, statPIO), count(statHalt), count(statIRQ))
	}
	return t.Flush()
}
