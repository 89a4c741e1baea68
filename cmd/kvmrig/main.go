// Command kvmrig runs a command, or a Go test binary, on a machine with a
// working KVM: this one if its KVM is good, otherwise an emulated one.
//
//	kvmrig [flags] [--] COMMAND [ARGUMENT…]
//	go test -exec 'bin/kvmrig' ./kvm
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/sandpit-vm/sandpit/internal/rig"
)

func main() {
	if rig.InL1() {
		rig.RunL1()
	}
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	var c rig.Config
	var direct, emulate bool
	fs := flag.NewFlagSet("kvmrig", flag.ContinueOnError)
	fs.Usage = func() { usage(fs) }
	fs.BoolVar(&direct, "direct", false, "run on this machine, whatever its KVM is")
	fs.BoolVar(&emulate, "emulate", false, "run in the emulated machine, whatever this one's KVM is")
	fs.DurationVar(&c.Timeout, "timeout", 0, "kill the command after `DURATION` and exit with 124")
	fs.BoolVar(&c.TTY, "t", false, "give the command a terminal")
	fs.BoolVar(&c.Fresh, "fresh", false, "do not use a warm rig")
	fs.BoolVar(&c.Time, "time", false, "print how long each phase took")
	fs.IntVar(&c.CPUs, "cpus", 0, "processors of the emulated machine (default 1: with more, the emulation fails now and then)")
	fs.IntVar(&c.Memory, "memory", 0, "its memory in `MiB` (default 8192)")
	fs.StringVar(&c.Kernel, "kernel", "", "its kernel, an ELF `FILE` (default $"+rig.KernelEnv+", or the bundled one)")
	fs.StringVar(&c.Append, "append", "", "more for its kernel's command `LINE`")
	fs.StringVar(&c.QEMU, "qemu", "", "QEMU's executable (default qemu-system-x86_64)")
	fs.BoolVar(&c.Verbose, "verbose", false, "show the emulated machine's console on standard error")
	fs.Func("share", "let the emulated machine write to `DIR` (repeatable)", func(s string) error {
		c.Shares = append(c.Shares, s)
		return nil
	})
	probe := fs.Bool("probe", false, "measure this machine's KVM, print the result, and exit with 0 if it is usable")
	warm := fs.String("warm", "", "`start`, stop or status of a rig that stays up and serves later commands")
	fs.DurationVar(&c.Idle, "idle", 0, "a warm rig ends after being unused for `DURATION` (default 10m)")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 125
	}
	if *probe {
		return runProbe()
	}
	if *warm != "" {
		return runWarm(*warm, c)
	}
	if direct && emulate {
		fmt.Fprintln(os.Stderr, "kvmrig: --direct and --emulate exclude each other")
		return 125
	}
	if direct {
		c.Mode = rig.Direct
	} else if emulate {
		c.Mode = rig.Emulate
	}
	c.Args = fs.Args()
	code, err := rig.Run(c)
	if err != nil {
		fmt.Fprintf(os.Stderr, "kvmrig: %v\n", err)
	}
	return code
}

// runWarm manages the warm rig.
func runWarm(action string, c rig.Config) int {
	var err error
	switch action {
	case "start":
		err = rig.WarmStart(c, os.Stdout)
	case "serve": // what start starts
		err = rig.WarmServe(c)
	case "status":
		err = rig.WarmStatus(os.Stdout)
	case "stop":
		err = rig.WarmStop()
	default:
		err = fmt.Errorf("--warm %s: start, stop or status", action)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "kvmrig: %v\n", err)
		return 1
	}
	return 0
}

// usage prints the help.
func usage(fs *flag.FlagSet) {
	fmt.Fprint(fs.Output(), `Usage: kvmrig [flags] [--] COMMAND [ARGUMENT…]
       go test -exec kvmrig ./kvm

Runs a command where /dev/kvm works: here, if this machine's KVM runs guest
kernels at full speed; otherwise in an emulated machine (QEMU, package
qemu-system-x86) that sees this one's files, with this environment, working
directory, standard streams and signals. What the command writes there is lost,
except below a --share; go test's profiles are shared by themselves.

In the command's environment KVMRIG is "direct" or "emulated". The exit status
is the command's; 128 + n if signal n ended it; 126 or 127 if it could not be
started; 124 if it exceeded --timeout; 125 if kvmrig itself failed. SIGINT and
SIGTERM go to the command; a second one ends the rig. Standard input is read
ahead of the command, as ssh does: in a shell loop, give it </dev/null.

kvmrig --warm start boots a machine that stays up, for the commands of every
later kvmrig (but --fresh ones): they share its memory, processors and the files
they write. It ends by kvmrig --warm stop, or unused for --idle.

`)
	fs.PrintDefaults()
}

// runProbe reports on the host's KVM.
func runProbe() int {
	speed, usable, err := rig.Probe()
	switch {
	case err != nil:
		fmt.Printf("KVM is not usable: %v\n", err)
	case !usable:
		fmt.Printf("KVM is not usable: it runs guest kernels at %.0f million instructions per second, so it interprets them\n", speed/1e6)
	default:
		fmt.Printf("KVM is usable: it runs guest kernels at %.0f million instructions per second\n", speed/1e6)
		return 0
	}
	return 1
}
