// Command bench measures Sandpit beside its peers, in one session of one
// machine, in turn and repeatedly, and prints medians and ratios:
//
//	go build -o bin/bench ./bench && bin/kvmrig -- bin/bench
//
// Absolute times of an emulated machine say nothing about a real one; ratios
// of runs that alternate do, and so do counts of VM exits.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/sandpit-vm/sandpit/guest/initramfs"
	"github.com/sandpit-vm/sandpit/kernel"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == vmmArg {
		if err := vmmMain(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	runs := flag.Int("runs", 7, "runs of each contender")
	sandpit := flag.String("sandpit", "bin/sandpit", "the sandpit binary")
	gokvm := flag.String("gokvm", "", "a gokvm binary to race too")
	flag.Parse()
	if err := bench(*runs, *sandpit, *gokvm); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bed is what the benchmarks share: a scratch directory that is also the home,
// and the kernel and initramfs as files.
type bed struct {
	dir               string
	kernel, initramfs string
	sandpit           string
}

func bench(runs int, sandpit, gokvm string) error {
	dir, err := os.MkdirTemp("", "sandpit-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	os.Setenv("SANDPIT_HOME", dir)
	b := &bed{dir: dir, sandpit: sandpit}
	if err := b.makeKernel(); err != nil {
		return err
	}
	where := os.Getenv("KVMRIG")
	if where == "" {
		where = "direct"
	}
	fmt.Printf("KVM: %s; kernel %s; %d runs each, in turn; medians\n\n", where, kernel.Version, runs)
	for _, part := range []func() error{
		func() error { return b.race(os.Stdout, runs, gokvm) },
		func() error { return b.phases(os.Stdout, runs) },
		func() error { return b.running(os.Stdout, runs) },
	} {
		if err := part(); err != nil {
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

func median[T int | int64 | time.Duration | float64 | uint64](v []T) T {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }
