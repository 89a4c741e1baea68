package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// What idle sandboxes are watched for. What a boot leaves to do (the guest's
// timers that run out, free pages that are reported) is done by then.
const (
	idleSettle = 20 * time.Second
	idleWatch  = 30 * time.Second
)

// idleCost measures what sandboxes in which nothing runs take from the processor:
// their monitors' threads, vCPUs included, and how often those are woken.
func (b *bed) idleCost(w io.Writer) (err error) {
	ctx := context.Background()
	var all []*sandbox.Sandbox
	defer func() {
		for _, sb := range all {
			err = errors.Join(err, sb.Kill(ctx))
		}
	}()
	for i := range b.idle {
		sb, err := sandbox.Create(ctx, fmt.Sprintf("idle-%d", i), sandbox.Config{Memory: crowdMemory, Ephemeral: true})
		if err != nil {
			return err
		}
		all = append(all, sb)
		if err := sb.Command(ctx, "true").Run(); err != nil {
			return err
		}
	}
	time.Sleep(idleSettle)
	before, err := idleUses(all)
	if err != nil {
		return err
	}
	exits := readCounters()
	start := time.Now()
	time.Sleep(idleWatch)
	took := time.Since(start).Seconds()
	counted := readCounters().since(exits)
	after, err := idleUses(all)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%d idle sandboxes, watched for %.0f s: %.2f %% of a core together, target: under 1 %%\n",
		len(all), took, 100*(after.cpu-before.cpu).Seconds()/took)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	each := func(n uint64) float64 { return float64(n) / took / float64(len(all)) }
	fmt.Fprintf(t, "%.2f\t  wake-ups of a monitor's threads, a second\t\n", each(after.switches-before.switches))
	for _, name := range []string{statExits, statHalt, statMMIO, statPIO, statIRQ} {
		if n, ok := counted[name]; ok {
			fmt.Fprintf(t, "%.2f\t  %s of a guest, a second (KVM's counter)\t\n", float64(n)/took/float64(len(all)), name)
		}
	}
	return t.Flush()
}

// idleUse is what monitors have used of the processor.
type idleUse struct {
	cpu      time.Duration
	switches uint64
}

// idleUses sums over the monitors of the sandboxes, with all their threads.
func idleUses(all []*sandbox.Sandbox) (sum idleUse, err error) {
	for _, sb := range all {
		pid, err := monitorPID(sb.Name())
		if err != nil {
			return sum, err
		}
		n, err := strconv.Atoi(pid)
		if err != nil {
			return sum, err
		}
		// The processor time of another process, exact, as
		// clock_getcpuclockid(3) names it.
		var ts unix.Timespec
		if err := unix.ClockGettime(int32(^n<<3|2), &ts); err != nil {
			return sum, fmt.Errorf("processor time of the monitor %d: %w", n, err)
		}
		sum.cpu += time.Duration(ts.Nano())
		tasks, err := filepath.Glob(filepath.Join("/proc", pid, "task", "*", "status"))
		if err != nil {
			return sum, err
		}
		for _, path := range tasks {
			n, err := switches(path)
			if err != nil {
				return sum, err
			}
			sum.switches += n
		}
	}
	return sum, nil
}

// switches is how often a thread gave up the processor of its own accord.
func switches(path string) (uint64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if n, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
			return strconv.ParseUint(strings.TrimSpace(n), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no voluntary_ctxt_switches", path)
}
