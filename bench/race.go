package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"text/tabwriter"
	"time"

	"github.com/sandpit-vm/sandpit/vmm"
)

// cmdline is the same for every contender, and what a sandbox's kernel gets.
const cmdline = "quiet loglevel=1 panic=-1 reboot=t tsc=reliable no_timer_check random.trust_cpu=on rdinit=/" + benchInitName

// vmmArg makes this program a bare monitor.
const vmmArg = "vmm"

// vmmMain boots a kernel with package vmm and nothing else, up to its init.
func vmmMain(args []string) error {
	if len(args) != 2 {
		return errors.New("want KERNEL INITRAMFS")
	}
	k, err := os.Open(args[0])
	if err != nil {
		return err
	}
	i, err := os.Open(args[1])
	if err != nil {
		return err
	}
	m, err := vmm.New(vmm.Config{Memory: 512 << 20, Kernel: k, Initramfs: i, Cmdline: cmdline})
	if err != nil {
		return err
	}
	reason, err := m.Run(context.Background())
	if err != nil {
		return err
	}
	if _, ok := reason.(vmm.Shutdown); !ok {
		return errors.New(reason.String())
	}
	return nil // the end of the process closes the machine
}

// contender is one way to boot.
type contender struct {
	name     string
	command  func() *exec.Cmd
	statuses []int
	times    []time.Duration
	err      error
}

func (b *bed) contenders(gokvm string) []*contender {
	c := []*contender{
		{name: "qemu microvm, to init", statuses: []int{1}, command: func() *exec.Cmd {
			return exec.Command("qemu-system-x86_64", "-M", "microvm,acpi=off,pit=off,pic=off,rtc=off,isa-serial=off",
				"-accel", "kvm", "-cpu", "host", "-m", "512", "-nodefaults", "-no-user-config", "-display", "none",
				"-no-reboot", "-kernel", b.kernel, "-initrd", b.initramfs, "-append", cmdline,
				"-device", "isa-debug-exit,iobase=0x500,iosize=1")
		}},
		{name: "sandpit run -- true", statuses: []int{0}, command: func() *exec.Cmd {
			return exec.Command(b.sandpit, "run", "--", "true")
		}},
		{name: "package vmm, to init", statuses: []int{0}, command: func() *exec.Cmd {
			return exec.Command("/proc/self/exe", vmmArg, b.kernel, b.initramfs)
		}},
	}
	if gokvm != "" {
		c = append(c, &contender{name: "gokvm, to init", statuses: []int{0, 1, 2}, command: func() *exec.Cmd {
			return exec.Command("timeout", "30", gokvm, "boot", "-k", b.kernel, "-i", b.initramfs, "-m", "512M", "-p", cmdline)
		}})
	}
	return c
}

// race lets the contenders boot.
func (b *bed) race(w io.Writer, runs int, gokvm string) error {
	all := b.contenders(gokvm)
	compete(runs, all)
	fmt.Fprintln(w, "power-on, whole processes from start to end, 1 vCPU, 512 MiB, same kernel and initramfs:")
	if err := standings(w, all, "QEMU's"); err != nil {
		return err
	}
	return all[1].err
}

// compete runs the contenders in turn.
func compete(runs int, all []*contender) {
	for i := range runs + 1 {
		for _, c := range all {
			if c.err != nil {
				continue
			}
			took, err := timed(c.command(), c.statuses...)
			if err != nil {
				c.err = err
				continue
			}
			if i > 0 { // the first is a warm-up
				c.times = append(c.times, took)
			}
		}
	}
}

// standings prints the medians, and what they are of the first contender's. The
// ratio is the median of the ratios of neighbouring runs, so that a machine
// whose speed drifts is fair to all.
func standings(w io.Writer, all []*contender, ofPeer string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	peer := all[0]
	for _, c := range all {
		if c.err != nil {
			fmt.Fprintf(t, "  %s\tdid not run: %v\n", c.name, c.err)
			continue
		}
		fmt.Fprintf(t, "  %s\t%s", c.name, ms(median(c.times)))
		if peer.err == nil && c != peer {
			fmt.Fprintf(t, "\t%.2f of %s", ratio(c.times, peer.times), ofPeer)
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

// ratio is the median of the ratios of neighbouring runs.
func ratio(times, peer []time.Duration) float64 {
	n := min(len(times), len(peer))
	if n == 0 {
		return 0
	}
	ratios := make([]float64, n)
	for i := range ratios {
		ratios[i] = float64(times[i]) / float64(peer[i])
	}
	return median(ratios)
}
