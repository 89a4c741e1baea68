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

// trip is one round trip of ours: when it began, when the command ran, and when
// its end was known.
type trip struct{ begin, started, ended time.Time }

func (t trip) all() time.Duration   { return t.ended.Sub(t.begin) }
func (t trip) start() time.Duration { return t.started.Sub(t.begin) }
func (t trip) rest() time.Duration  { return t.ended.Sub(t.started) }

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
	still := watchPauses()
	defer still.end()

	per := max((b.options.execs+execRounds-1)/execRounds, 1)
	var trips []trip
	ours := &tripper{name: "sandpit, Go API, from the host", per: per, run: func(n int) ([]time.Duration, error) {
		var took []time.Duration
		for range n {
			t, err := roundTrip(ctx, sb)
			if err != nil {
				return nil, err
			}
			trips = append(trips, t)
			took = append(took, t.all())
		}
		return took, nil
	}}
	all := []*tripper{ours, {name: "sandpit exec, whole processes, from the host", per: max(per/10, 1), run: func(n int) ([]time.Duration, error) {
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
			in("ssh to openssh, in the guest", "openssh", per/10),
			in("ssh through a connection that stands (ControlMaster), in the guest", "mux", per*3/10),
			in("no ssh: fork and exec, in the guest", "fork", per*3/10))
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
	return b.printTrips(w, all, trips[per:], still)
}

// roundTrip is one of ours.
func roundTrip(ctx context.Context, sb *sandbox.Sandbox) (t trip, err error) {
	cmd := sb.Command(ctx, "true")
	t.begin = time.Now()
	if err := cmd.Start(); err != nil {
		return t, err
	}
	t.started = time.Now()
	err = cmd.Wait()
	t.ended = time.Now()
	return t, err
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

func (b *bed) printTrips(w io.Writer, all []*tripper, trips []trip, still *pauses) error {
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
	start, rest := part(trip.start), part(trip.rest)
	fmt.Fprintf(w, "ours in parts: until it runs p50 %s, p99 %s; until its end is known p50 %s, p99 %s\n",
		ms(median(start)), ms(quantile(start, 0.99)), ms(median(rest)), ms(quantile(rest, 0.99)))
	var undisturbed []time.Duration
	slow := 0
	for i, t := range trips {
		stood := still.within(t.begin, t.ended)
		if stood == 0 {
			undisturbed = append(undisturbed, t.all())
		}
		if t.all() > 3*median(ours.times) && slow < 5 {
			fmt.Fprintf(w, "slow: round trip %d, %s until it ran, %s until its end; the whole machine stood still for %s of it\n", i, ms(t.start()), ms(t.rest()), ms(stood))
			slow++
		}
	}
	if n := len(trips) - len(undisturbed); n > 0 && len(undisturbed) > 0 {
		fmt.Fprintf(w, "the whole machine stood still in %d of %d; in the others p50 %s, p99 %s, the most %s\n", n, len(trips),
			ms(median(undisturbed)), ms(quantile(undisturbed, 0.99)), ms(quantile(undisturbed, 1)))
	}
	return nil
}
