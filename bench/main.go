// Command bench measures Sandpit beside its peers, in one session of one
// machine, in turn and repeatedly, and prints medians and ratios:
//
//	CGO_ENABLED=0 go build -o bin/bench ./bench && bin/bench -part boot,read
//
// The parts are
//
//	pull    pulling and converting an image, against umoci, tar and mkfs.erofs
//	ls      sandpit ls with many sandboxes, against ps
//	exits   the loop around KVM_RUN, against a C program
//	boot    power-on, a boot's phases, a running sandbox, against QEMU
//	exec    a command's round trip, against ssh in the same guest
//	phases  from Create to the first output, and a stop, phase by phase
//	many    what many sandboxes at once take from the host, beyond guest RAM
//	idle    what sandboxes in which nothing runs take from the processor
//	images  sandpit run with a cached image against the embedded one
//	read    reading the root file system in the guest, against QEMU's disk
//	memory  what several sandboxes on one image take from the host
//
// The first two need no VM and run here; the others run in bin/kvmrig, which is
// this machine where its KVM is good. Absolute times of an emulated machine say
// nothing about a real one; ratios of runs that alternate do, and so do counts
// of VM exits.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sandpit-vm/sandpit/guest/initramfs"
	"github.com/sandpit-vm/sandpit/kernel"
)

func main() {
	if os.Getpid() == 1 && os.Args[0] == "/"+peerInitName {
		peerInit()
	}
	if len(os.Args) > 1 && os.Args[1] == vmmArg {
		if err := vmmMain(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 1 && os.Args[1] == exitsArg {
		if err := exitsMain(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// The parts, in their order.
const (
	partPull   = "pull"
	partList   = "ls"
	partExits  = "exits"
	partBoot   = "boot"
	partExec   = "exec"
	partPhases = "phases"
	partMany   = "many"
	partIdle   = "idle"
	partImages = "images"
	partRead   = "read"
	partMemory = "memory"
)

var allParts = []string{partPull, partList, partExits, partBoot, partExec, partPhases, partMany, partIdle, partImages, partRead, partMemory}

// needImage are the parts for which the test images are needed.
var needImage = []string{partPull, partImages, partRead, partMemory}

// options are the command line.
type options struct {
	parts      []string
	runs       int
	sandpit    string
	gokvm      string
	kvmrig     string
	testImages string
	bigFiles   int
	sandboxes  int
	sshImage   string
	execs      int
	many       int
	listed     int
	idle       int
	exitloop   string
	exits      int
	variants   []variant
	// What the part outside the rig tells the one inside.
	home, image, sshHome string
}

// variant is one more way to run a sandbox.
type variant struct {
	name  string
	flags []string
}

func run(args []string) error {
	var o options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	parts := fs.String("part", "all", "what to measure, with commas: "+strings.Join(allParts, ", "))
	fs.IntVar(&o.runs, "runs", 7, "runs of each contender; the longer parts take half as many")
	fs.StringVar(&o.sandpit, "sandpit", "bin/sandpit", "the sandpit binary")
	fs.StringVar(&o.gokvm, "gokvm", "", "a gokvm binary to race too")
	fs.StringVar(&o.kvmrig, "kvmrig", "bin/kvmrig", "the kvmrig binary")
	fs.StringVar(&o.testImages, "testimages", "bin/testimages", "what scripts/testimages.sh made")
	fs.IntVar(&o.bigFiles, "big-files", 300_000, "pull: files of the large image, about 10 KB each; 0 leaves it out")
	fs.IntVar(&o.sandboxes, "sandboxes", 8, "memory: how many at once")
	fs.StringVar(&o.sshImage, "ssh-image", "bin/benchimages/ssh.oci.tar", "exec: an OCI archive with bash, dropbear and openssh")
	fs.IntVar(&o.execs, "execs", 200, "exec: round trips of ours; ssh, which takes longer, gets fewer")
	fs.IntVar(&o.many, "many", 32, "many: how many sandboxes at once")
	fs.IntVar(&o.listed, "listed", 200, "ls: how many sandboxes there are")
	fs.IntVar(&o.idle, "idle", 16, "idle: how many sandboxes")
	fs.StringVar(&o.exitloop, "exitloop", "bin/exitloop", "exits: testdata/exitloop.c, compiled")
	fs.IntVar(&o.exits, "exits", 20_000, "exits: how many a run takes")
	fs.StringVar(&o.sshHome, "ssh-home", "", "in the rig: the home with the ssh image")
	fs.StringVar(&o.home, "home", "", "in the rig: the home with the images")
	fs.StringVar(&o.image, "image", "", "in the rig: the image")
	fs.Func("variant", "read, memory, images: measure `NAME=FLAGS` of sandpit run too (repeatable)", func(s string) error {
		name, flags, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return errors.New("want NAME=FLAGS")
		}
		o.variants = append(o.variants, variant{name, strings.Fields(flags)})
		return nil
	})
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	o.parts = strings.Split(*parts, ",")
	if *parts == "all" {
		o.parts = allParts
	}
	for _, p := range o.parts {
		if !slices.Contains(allParts, p) {
			return fmt.Errorf("no part is called %q: %s", p, strings.Join(allParts, ", "))
		}
	}
	if min(o.runs, o.sandboxes, o.execs, o.many, o.listed, o.exits, o.idle) < 1 {
		return errors.New("nothing to measure: -runs, -sandboxes, -execs, -many, -listed, -exits and -idle are at least 1")
	}
	if os.Getenv("KVMRIG") == "" {
		return outside(o, args)
	}
	return inside(o)
}

func (o *options) has(part string) bool { return slices.Contains(o.parts, part) }

// fewer is how many runs a long measurement gets.
func (o *options) fewer() int { return max((o.runs+1)/2, 1) }

// bed is what the benchmarks in the rig share: a scratch directory that is also
// the home, and the kernel and initramfs as files.
type bed struct {
	options
	dir               string
	kernel, initramfs string
}

// inside runs the parts that need KVM.
func inside(o options) error {
	dir, err := os.MkdirTemp("", "sandpit-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	os.Setenv("SANDPIT_HOME", cmp.Or(o.home, dir))
	b := &bed{options: o, dir: dir}
	if err := b.makeKernel(); err != nil {
		return err
	}
	fmt.Printf("KVM: %s; kernel %s; %d runs each, in turn; medians\n\n", os.Getenv("KVMRIG"), kernel.Version, o.runs)
	for _, part := range []struct {
		name string
		run  func(io.Writer) error
	}{
		{partExits, b.loops},
		{partBoot, func(w io.Writer) error { return b.race(w, o.runs, o.gokvm) }},
		{partBoot, func(w io.Writer) error { return b.phases(w, o.runs) }},
		{partBoot, func(w io.Writer) error { return b.running(w, o.runs) }},
		{partExec, b.roundTrips},
		{partPhases, b.lifetime},
		{partMany, b.crowd},
		{partIdle, b.idleCost},
		{partImages, b.images},
		{partRead, b.read},
		{partMemory, b.hostMemory},
	} {
		if !o.has(part.name) || slices.Contains(needImage, part.name) && o.image == "" {
			continue
		}
		if err := part.run(os.Stdout); err != nil {
			return err
		}
		fmt.Println()
	}
	return nil
}

// makeKernel writes the kernel, and the initramfs with the bench's own init
// appended: archives follow one another in an initramfs
// (Documentation/driver-api/early-userspace/buffer-format.rst).
func (b *bed) makeKernel() error {
	cache := filepath.Join(b.dir, "cache")
	k, err := kernel.Image().Open(cache)
	if err != nil {
		return err
	}
	defer k.Close()
	b.kernel = k.Name()
	agent, err := initramfs.Image().Open(cache)
	if err != nil {
		return err
	}
	defer agent.Close()
	b.initramfs = filepath.Join(b.dir, "initramfs.cpio")
	out, err := os.Create(b.initramfs)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, agent); err != nil {
		return err
	}
	if _, err := out.Write(benchInitArchive()); err != nil {
		return err
	}
	return out.Close()
}

// timed is how long a command takes from its start to its end.
func timed(cmd *exec.Cmd, wantStatus ...int) (time.Duration, error) {
	start := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(start)
	if cmd.ProcessState == nil {
		return 0, err
	}
	if len(wantStatus) > 0 && !slices.Contains(wantStatus, cmd.ProcessState.ExitCode()) {
		return 0, fmt.Errorf("%s: %v\n%s", cmd.Path, cmd.ProcessState, out)
	}
	return took, nil
}

// quantile is the value that a fraction q of the measured ones does not exceed.
func quantile(v []time.Duration, q float64) time.Duration {
	s := slices.Sorted(slices.Values(v))
	return s[min(int(q*float64(len(s))), len(s)-1)]
}

func median[T int | int64 | time.Duration | float64 | uint64](v []T) T {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }
