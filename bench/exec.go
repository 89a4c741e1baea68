package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"text/tabwriter"
	"time"

	"github.com/sandpit-vm/sandpit/sandbox"
)

// execRounds is how often the contenders take turns.
const execRounds = 20

// tripper is one way to run true in a running sandbox.
type tripper struct {
	name  string
	per   int // in each round
	times []time.Duration
	run   func(n int) ([]time.Duration, error)
}

// trip is one round trip of ours, in its parts.
type trip struct{ start, rest time.Duration }

func (t trip) all() time.Duration { return t.start + t.rest }

// execs measures the round trip of a command, in turn with ssh in the same
// guest.
func (b *bed) roundTrips(w io.Writer) (err error) {
	ctx := context.Background()
	cfg := sandbox.Config{Ephemeral: true}
	if b.sshHome != "" {
		defer os.Setenv("SANDPIT_HOME", os.Getenv("SANDPIT_HOME"))
		os.Setenv("SANDPIT_HOME", b.sshHome)
		cfg.Image, cfg.PullPolicy = sshImageName, sandbox.PullNever
	}
	sb, err := sandbox.Create(ctx, "trips", cfg)
	if err != nil {
		return err
	}
	defer sb.Kill(ctx)

	per := max((b.options.execs+execRounds-1)/execRounds, 1)
	var trips []trip
	ours := &tripper{name: "sandpit, Go API, from the host", per: per, run: func(n int) ([]time.Duration, error) {
		var took []time.Duration
		for range n {
			t, err := b.trip(ctx, sb)
			if err != nil {
				return nil, err
			}
			trips = append(trips, t)
			took = append(took, t.all())
		}
		return took, nil
	}}
	all := []*tripper{ours, {name: "sandpit exec, whole processes, from the host", per: max(per/5, 1), run: func(n int) ([]time.Duration, error) {
		return repeat(n, func() (time.Duration, error) {
			return timed(exec.Command(b.sandpit, "exec", "trips", "true"), 0)
		})
	}}}
	if b.sshHome != "" {
		guest, err := newSSHGuest(ctx, sb)
		if err != nil {
			return err
		}
		defer guest.end()
		in := func(name, contender string, per int) *tripper {
			return &tripper{name: name, per: max(per, 1), run: func(n int) ([]time.Duration, error) { return guest.rounds(contender, n) }}
		}
		all = append(all,
			in("ssh to dropbear (dbclient), in the guest", "dropbear", per*3/10),
			in("ssh to openssh, in the guest", "openssh", per/5),
			in("ssh through a connection that stands (ControlMaster), in the guest", "mux", per),
			in("no ssh: fork and exec, in the guest", "fork", per))
	}
	for round := range execRounds + 1 {
		for _, t := range all {
			took, err := t.run(t.per)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			if round > 0 { // the first is a warm-up
				t.times = append(t.times, took...)
			}
		}
	}
	return b.printTrips(w, all, trips[per:])
}

// trip is one round trip of ours.
func (b *bed) trip(ctx context.Context, sb *sandbox.Sandbox) (trip, error) {
	cmd := sb.Command(ctx, "true")
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return trip{}, err
	}
	started := time.Now()
	err := cmd.Wait()
	return trip{started.Sub(begin), time.Since(started)}, err
}

func repeat(n int, once func() (time.Duration, error)) ([]time.Duration, error) {
	var took []time.Duration
	for range n {
		t, err := once()
		if err != nil {
			return nil, err
		}
		took = append(took, t)
	}
	return took, nil
}

func (b *bed) printTrips(w io.Writer, all []*tripper, trips []trip) error {
	fmt.Fprintln(w, "round trip of a command (true) in a running sandbox, 1 vCPU, 512 MiB, in turn; target: at most 0.20 of ssh's; ssh is timed by the guest's clock, on its own loopback:")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  \truns\tp50\tp99\tmost\tours is, p50\tp99")
	ours := all[0]
	for _, c := range all {
		fmt.Fprintf(t, "  %s\t%d\t%s\t%s\t%s", c.name, len(c.times), ms(median(c.times)), ms(quantile(c.times, 0.99)), ms(quantile(c.times, 1)))
		if c != ours {
			of := func(q float64) float64 { return float64(quantile(ours.times, q)) / float64(quantile(c.times, q)) }
			fmt.Fprintf(t, "\t%.2f\t%.2f", of(0.5), of(0.99))
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	part := func(of func(trip) time.Duration) (v []time.Duration) {
		for _, t := range trips {
			v = append(v, of(t))
		}
		return v
	}
	start, rest := part(func(t trip) time.Duration { return t.start }), part(func(t trip) time.Duration { return t.rest })
	fmt.Fprintf(w, "ours in parts: until it runs p50 %s, p99 %s; until its end is known p50 %s, p99 %s\n",
		ms(median(start)), ms(quantile(start, 0.99)), ms(median(rest)), ms(quantile(rest, 0.99)))
	slow := 0
	for i, t := range trips {
		if t.all() > 4*median(ours.times) {
			fmt.Fprintf(w, "slow: round trip %d, %s until it ran and %s until its end\n", i, ms(t.start), ms(t.rest))
			if slow++; slow == 5 {
				break
			}
		}
	}
	return nil
}
