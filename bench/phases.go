package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// boots are the phases and VM exits of sandboxes of one kind.
type boots struct {
	names []string // of the phases, in their order
	times map[string][]time.Duration
	exits map[string][]uint64
}

// add boots one more and switches it off.
func (b *boots) add(name string, cfg sandbox.Config) error {
	if b.times == nil {
		b.times, b.exits = map[string][]time.Duration{}, map[string][]uint64{}
	}
	ctx := context.Background()
	sb, err := sandbox.Create(ctx, name, cfg)
	if err != nil {
		return err
	}
	boot := sb.Boot()
	if err := sb.Kill(ctx); err != nil {
		return err
	}
	for _, p := range boot.Phases {
		if !slices.Contains(b.names, p.Name) {
			b.names = append(b.names, p.Name)
		}
		b.times[p.Name] = append(b.times[p.Name], p.Duration)
	}
	for kind, n := range boot.Exits {
		b.exits[kind] = append(b.exits[kind], n)
	}
	return nil
}

// total is from Create to the agent's readiness. The guest's phases lie within
// the host's.
func (b *boots) total() (sum time.Duration) {
	for _, n := range b.names {
		if !strings.HasPrefix(n, "guest: ") {
			sum += median(b.times[n])
		}
	}
	return sum
}

func (b *boots) allExits() (sum uint64) {
	for _, n := range b.exits {
		sum += median(n)
	}
	return sum
}

// phases prints where the time of a boot goes, and its VM exits.
func (b *bed) phases(w io.Writer, runs int) error {
	var all boots
	for i := range runs {
		if err := all.add(fmt.Sprintf("phases-%d", i), sandbox.Config{Ephemeral: true}); err != nil {
			return err
		}
	}
	total := all.total()
	fmt.Fprintf(w, "from Create to the agent's readiness: %s; the guest's phases, by its own clock, lie within:\n", ms(total))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, n := range all.names {
		d := median(all.times[n])
		fmt.Fprintf(t, "%s\t%.0f %%\t  %s\t\n", ms(d), 100*float64(d)/float64(total), n)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, kind := range slices.Sorted(mapKeys(all.exits)) {
		fmt.Fprintf(w, "VM exits until ready, %s: %d\n", kind, median(all.exits[kind]))
	}
	fmt.Fprintf(w, "VM exits until ready, all: %d\n", all.allExits())
	return nil
}

// images races a cached image against the embedded one, and says which phases
// the difference is in.
func (b *bed) images(w io.Writer) error {
	if _, err := b.rootImage(); err != nil {
		return err
	}
	run := func(args ...string) func() *exec.Cmd {
		return func() *exec.Cmd { return exec.Command(b.sandpit, append([]string{"run"}, args...)...) }
	}
	of := func(flags []string) []string {
		return append(slices.Clone(flags), "--pull", "never", b.image, "--", "true")
	}
	all := []*contender{
		{name: "sandpit run -- true (embedded image)", statuses: []int{0}, command: run("--", "true")},
		{name: "sandpit run PYTHON -- true", statuses: []int{0}, command: run(of(nil)...)},
	}
	for _, v := range b.variants {
		all = append(all, &contender{name: "sandpit run PYTHON -- true, " + v.name, statuses: []int{0}, command: run(of(v.flags)...)})
	}
	compete(b.runs, all)
	fmt.Fprintln(w, "sandpit run with a cached image, whole processes from start to end, 1 vCPU, 512 MiB; target: at most 1.15:")
	if err := standings(w, all, "the embedded image's"); err != nil {
		return err
	}
	for _, c := range all[:2] {
		if c.err != nil {
			return c.err
		}
	}
	var embedded, cached boots
	for i := range b.fewer() {
		if err := embedded.add(fmt.Sprintf("embedded-%d", i), sandbox.Config{Ephemeral: true}); err != nil {
			return err
		}
		cfg := sandbox.Config{Ephemeral: true, Image: b.image, PullPolicy: sandbox.PullNever}
		if err := cached.add(fmt.Sprintf("cached-%d", i), cfg); err != nil {
			return err
		}
	}
	fmt.Fprintln(w, "up to the agent's readiness:")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "embedded\tPYTHON\tmore\t  \t")
	row := func(e, c time.Duration, name string) {
		fmt.Fprintf(t, "%s\t%s\t%s\t  %s\t\n", ms(e), ms(c), ms(c-e), name)
	}
	for _, n := range cached.names {
		if len(embedded.times[n]) == 0 {
			row(0, median(cached.times[n]), n)
			continue
		}
		row(median(embedded.times[n]), median(cached.times[n]), n)
	}
	row(embedded.total(), cached.total(), "all (the guest's phases lie within the others)")
	e, c := embedded.allExits(), cached.allExits()
	fmt.Fprintf(t, "%d\t%d\t%d\t  VM exits\t\n", e, c, int64(c)-int64(e))
	return t.Flush()
}
